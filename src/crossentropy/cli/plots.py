"""The pictures of the command line: figure 1 of the note, the training's cost, the confusion matrix."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import cross_entropy_and_grad
from ..bench.plots import BLUE, GREY, ORANGE, figure


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def figure_1(points: int = 400) -> Figure:
    """-log p against p, and its gradient, by the package's own kernel.

    The two logits (log p, log(1-p)) have the softmax (p, 1-p), so that the loss of class 0 is -log p and its gradient
    on that class' logit is p - 1.
    """
    p = np.linspace(0.005, 0.995, points)
    logits = np.stack([np.log(p), np.log1p(-p)], axis=1)
    loss, grad = cross_entropy_and_grad(logits, np.zeros(points, np.int64), reduction="none")
    made, (left, right) = figure(9, 3.6, columns=2)
    left.plot(p, loss, color=BLUE, lw=2)
    left.set(xlabel="probability p of the real class", ylabel="loss, nats", title="−log p")
    right.plot(p, grad[:, 0], color=ORANGE, lw=2, label="on the logit: p − 1")
    right.plot(p, grad[:, 0] / (p * (1 - p)), color=BLUE, lw=2, label="on the probability: −1/p")
    right.set(
        xlabel="probability p of the real class", ylabel="gradient of the loss", title="its gradient", ylim=(-12, 0.5)
    )
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.set_xlim(0, 1)
    return made


def cost(costs: np.ndarray, test_losses: list[float], name: str) -> Figure:
    """The cost c(b) of each batch, its mean over each epoch, and the test loss after each epoch."""
    epochs, per_epoch = costs.shape
    made, (axes,) = figure(8, 4)
    axes.plot(np.arange(costs.size) / per_epoch, costs.ravel(), color=GREY, lw=0.8, label="cost c(b) of a batch")
    ends = np.arange(1, epochs + 1)
    axes.plot(ends - 0.5, costs.mean(axis=1), color=BLUE, lw=2, marker=".", label="mean over the epoch")
    axes.plot(ends, test_losses, color=ORANGE, lw=2, marker=".", label="test loss")
    axes.set(
        xlabel="epoch", ylabel="cross-entropy, nats", title=f"softmax regression on {_plain(name)}", xlim=(0, epochs)
    )
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return made


def confusion(y: np.ndarray, predicted: np.ndarray, classes: list[str]) -> Figure:
    """Test observations by true and predicted class."""
    from sklearn.metrics import ConfusionMatrixDisplay

    size = min(16.0, 3.2 + 0.42 * len(classes))
    made = Figure(figsize=(size + 0.8, size), layout="constrained", dpi=120)
    axes = made.subplots()
    ConfusionMatrixDisplay.from_predictions(
        y,
        predicted,
        labels=np.arange(len(classes)),
        display_labels=list(map(_plain, classes)),
        include_values=len(classes) <= 30,
        cmap="Blues",
        colorbar=False,
        ax=axes,
        xticks_rotation="vertical" if max(map(len, classes)) > 2 else "horizontal",
    )
    axes.set(xlabel="predicted class", ylabel="true class", title="test observations")
    return made
