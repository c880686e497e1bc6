"""The pictures of the command line: figure 1 of the note, the training's cost, the confusion matrix, the benchmarks."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import cross_entropy_and_grad

BLUE, ORANGE, GREY = "#1f5fa8", "#d9701a", "#b9c4d0"


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


def _figure(width, height, columns=1):
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = np.atleast_1d(figure.subplots(1, columns))
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(alpha=0.25)
    return figure, axes


def figure_1(points: int = 400) -> Figure:
    """-log p against p, and its gradient, by the package's own kernel.

    The two logits (log p, log(1-p)) have the softmax (p, 1-p), so that the loss of class 0 is -log p and its gradient
    on that class' logit is p - 1.
    """
    p = np.linspace(0.005, 0.995, points)
    logits = np.stack([np.log(p), np.log1p(-p)], axis=1)
    loss, grad = cross_entropy_and_grad(logits, np.zeros(points, np.int64), reduction="none")
    figure, (left, right) = _figure(9, 3.6, columns=2)
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
    return figure


def cost(costs: np.ndarray, test_losses: list[float], name: str) -> Figure:
    """The cost c(b) of each batch, its mean over each epoch, and the test loss after each epoch."""
    epochs, per_epoch = costs.shape
    figure, (axes,) = _figure(8, 4)
    axes.plot(np.arange(costs.size) / per_epoch, costs.ravel(), color=GREY, lw=0.8, label="cost c(b) of a batch")
    ends = np.arange(1, epochs + 1)
    axes.plot(ends - 0.5, costs.mean(axis=1), color=BLUE, lw=2, marker=".", label="mean over the epoch")
    axes.plot(ends, test_losses, color=ORANGE, lw=2, marker=".", label="test loss")
    axes.set(
        xlabel="epoch", ylabel="cross-entropy, nats", title=f"softmax regression on {_plain(name)}", xlim=(0, epochs)
    )
    axes.set_yscale("log")
    axes.legend(frameon=False)
    return figure


def confusion(y: np.ndarray, predicted: np.ndarray, classes: list[str]) -> Figure:
    """Test observations by true and predicted class."""
    from sklearn.metrics import ConfusionMatrixDisplay

    size = min(16.0, 3.2 + 0.42 * len(classes))
    figure = Figure(figsize=(size + 0.8, size), layout="constrained", dpi=120)
    axes = figure.subplots()
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
    return figure


# ISAs of ours in blue, from dark to light; the others in colours that are told apart also without red and green.
_LINES = {
    "avx512": "#123f73",
    "avx2": BLUE,
    "base": "#7fa8d6",
    "crossentropy, Numba": "#c2a500",
    "torch": ORANGE,
    "torch.compile": "#8c3d0a",
    "JAX": "#6b4fa0",
    "scipy": "#767f89",
    "scikit-learn": "#2a9d8f",
}


def file_name(op: str) -> str:
    """Of its picture, without the suffix."""
    return op.replace(" + ", "-").replace(" ", "-")


def rates(records: list[dict], op: str) -> Figure | None:
    """GB/s of the bytes that must move, against the number of classes; the memory's own rate dashed.

    Of float32 normals with the class axis last, each implementation with its best number of threads; None where there
    is nothing to draw.
    """
    plain = {"op": op, "dtype": "float32", "inputs": "normal", "axis": -1}
    those = [r for r in records if r["roof_gb_per_s"] and all(r[name] == value for name, value in plain.items())]
    lines, roofs = {}, {}
    for r in those:
        name, classes = r["isa"] if r["implementation"] == "crossentropy" else r["implementation"], r["shape"][-1]
        if name in _LINES:
            fastest = lines.setdefault(name, {})
            fastest[classes] = max(fastest.get(classes, 0), r["gb_per_s"])
            roofs[classes] = max(roofs.get(classes, 0), r["roof_gb_per_s"])
    if not lines:
        return None
    figure, (axes,) = _figure(8, 4)
    ticks = sorted(roofs)
    across = [ticks[0] * 0.8, *ticks, ticks[-1] * 1.25]  # a dash is seen also where there is one point
    heights = [roofs[min(ticks, key=lambda tick: abs(tick - c))] for c in across]
    axes.plot(across, heights, color="black", ls="--", lw=1.5, label="the roof: memory alone")
    for name in filter(lines.get, _LINES):
        label = f"crossentropy, {name}" if name in ("avx512", "avx2", "base") else name
        axes.plot(*zip(*sorted(lines[name].items()), strict=True), color=_LINES[name], lw=2, marker=".", label=label)
    axes.set_xscale("log")
    axes.set_xticks(ticks, list(map(str, ticks)), rotation=60, ha="right")
    axes.minorticks_off()
    axes.set(xlabel="classes", ylabel="GB/s of the bytes that must move", title=f"{op}, float32")
    axes.set_ylim(bottom=0)
    figure.legend(frameon=False, loc="outside right upper")
    return figure
