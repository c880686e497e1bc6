"""The pictures of the command line: figure 1 of the note, the training's cost, confusion, calibration."""

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


def cost(history, name: str) -> Figure:
    """The cost c(b) of batches as a band and its running mean; validation and test loss; the epoch that was kept."""
    epochs, per_epoch = history.costs.shape
    made, (axes,) = figure(5.4, 4.2)
    flat = history.costs.ravel()
    at = (np.arange(flat.size) + 1) / per_epoch
    window = max(flat.size // 60, min(per_epoch, flat.size // 12), 1)
    pieces = [part for part in np.array_split(np.arange(flat.size), max(flat.size // window, 1)) if len(part)]
    centre = [at[part].mean() for part in pieces]
    low, high = (np.array([np.quantile(flat[part], q) for part in pieces]) for q in (0.1, 0.9))
    mean = np.array([flat[part].mean() for part in pieces])
    floor = 1e-9  # a cost of 0 has no place on a logarithmic axis
    axes.fill_between(centre, np.maximum(low, floor), np.maximum(high, floor), color=GREY, alpha=0.6, lw=0, label=BAND)
    axes.plot(centre, np.maximum(mean, floor), color="#5b6b7c", lw=1.5, label="training: running mean of c(b)")
    ends = np.arange(1, epochs + 1)
    lines = (history.test, ORANGE, 3, "test loss"), (history.validation, BLUE, 1.4, "validation loss")
    for losses, color, width, label in lines:
        if np.isfinite(losses).any():
            axes.plot(ends, np.maximum(losses, floor), color=color, lw=width, label=label)
    axes.axvline(history.best + 1, color="black", lw=1, ls=":", label=f"kept: epoch {history.best + 1}")
    title = f"training on {_plain(name)}" + (": the cost ran away" if history.warning else "")
    axes.set(xlabel="epoch", ylabel="cross-entropy, nats", title=title, xlim=(0, epochs))
    axes.set_yscale("log")
    _tell_decades(axes)
    made.legend(frameon=False, loc="outside lower center", ncols=2, fontsize="small")
    return made


BAND = "training: cost c(b), 80 % of batches"


def _tell_decades(axes):
    """Ticks with numbers also where less than a decade is shown."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter

    low, high = axes.get_ylim()
    if high / low < 8:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
    elif high / low < 50:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())


def confusion(y: np.ndarray, predicted: np.ndarray, classes: list[str], what="test observations") -> Figure:
    """Of each true class, the shares that were predicted as each class: numbers up to 20 classes, and a colour bar."""
    from sklearn.metrics import confusion_matrix

    k = len(classes)
    shares = confusion_matrix(y, predicted, labels=np.arange(k), normalize="true")
    _letters_of_other_scripts(classes)
    size = float(np.clip(2.2 + 0.34 * k, 3.6, 12))
    made = Figure(figsize=(size + 1.4, size), layout="constrained", dpi=120)
    axes = made.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    made.colorbar(shown, ax=axes, label="share of the true class", shrink=0.8)
    if k <= 20:
        for i, j in np.ndindex(k, k):
            if shares[i, j] > 0:
                color = "white" if shares[i, j] > 0.55 else "#123f73"
                text = f"{shares[i, j]:.2f}" if shares[i, j] < 0.9995 else "1"
                axes.text(j, i, text, ha="center", va="center", color=color, fontsize=7.5)
    step = -(-k // 40)
    names = [_plain(name if len(name) <= 24 else f"{name[:23]}…") for name in classes[::step]]
    size = 9 if k <= 25 else 7
    axes.set_xticks(range(0, k, step), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size)
    axes.set_yticks(range(0, k, step), names, fontsize=size)
    axes.set(xlabel="predicted class", ylabel="true class", title=f"{len(y)} {what}")
    return made


# Of those the ones that are installed have the letters that matplotlib's own font lacks.
FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei"),
    *("Malgun Gothic", "WenQuanYi Micro Hei", "Noto Sans Devanagari", "Nirmala UI", "Noto Sans Thai"),
)


def _letters_of_other_scripts(names):
    if all(name.isascii() for name in names):
        return
    import matplotlib
    from matplotlib import font_manager

    here = set(font_manager.get_font_names())
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", *(font for font in FONTS if font in here)]


def calibration(scores) -> Figure:
    """How often predictions of each confidence are right: on the diagonal for a model that knows how sure it may be."""
    share, confidence = scores.calibration
    made, (axes,) = figure(4.6, 4.4)
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1.2, label="as sure as it is right")
    axes.plot(confidence, share, color=BLUE, lw=1.8, marker="o", label="a tenth of the observations each")
    low = max(min(float(np.min(share)), float(np.min(confidence))) - 0.05, 0)
    axes.set(
        xlabel="probability of the predicted class",
        ylabel="share of right predictions",
        title=f"calibration: error {scores.calibration_error:.3f}",
        xlim=(low, 1.01),
        ylim=(low, 1.01),
    )
    made.legend(frameon=False, loc="outside lower center", fontsize="small")
    return made
