"""The pictures of an evaluation of logits: its calibration, and the shares of its classes."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .. import EvaluationResult
from ..bench.plots import BLUE, GREY, ORANGE, figure

BARS = 40  # classes that have room for bars


def reliability(found: EvaluationResult) -> Figure:
    """How often predictions of each confidence are right, in bins of equal width, above how many these are."""
    c = found.calibration
    made = Figure(figsize=(5, 5.6), layout="constrained", dpi=120)
    above, below = made.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middle, width = (c.edges[1:] + c.edges[:-1]) / 2, np.diff(c.edges)
    held = c.rows > 0
    above.bar(middle[held], c.accuracy[held], width[held] * 0.94, color=BLUE, alpha=0.85, label="share of right ones")
    above.plot([0, 1], [0, 1], color="#5b6b7c", ls="--", lw=1.2, label="as sure as it is right")
    above.plot(c.confidence[held], c.accuracy[held], "o", ms=4, color=ORANGE, label="at their mean probability")
    above.set(
        ylabel="share of right predictions",
        ylim=(0, 1.02),
        xlim=(0, 1),
        title=f"calibration: expected error {found.ece:.4f}, Brier score {found.brier:.4f}",
    )
    below.bar(middle, c.rows, width * 0.94, color=GREY)
    below.set(xlabel="probability of the predicted class", ylabel="rows")
    if held.any() and c.rows.max() > 50 * max(c.rows[held].min(), 1):
        below.set_yscale("log")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    above.legend(frameon=False, loc="upper left", fontsize="small")
    return made


def per_class(found: EvaluationResult) -> Figure:
    """The share of each class among targets and predictions, and how often its rows are found: p_c, p^_c, recall."""
    return _bars(found) if len(found.p) <= BARS else _points(found)


def _recall(found: EvaluationResult) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return found.right_counts / found.class_counts


def _title(found: EvaluationResult) -> str:
    h = "∞" if np.isinf(found.cross_entropy) else f"{found.cross_entropy:.4f}"
    return f"shares of classes: H(P) {found.entropy:.4f}, H(P, Q) {h} nats"


def _bars(found: EvaluationResult) -> Figure:
    k = len(found.p)
    made = Figure(figsize=(float(np.clip(2.5 + 0.32 * k, 5, 13)), 5.2), layout="constrained", dpi=120)
    above, below = made.subplots(2, 1, sharex=True)
    at = np.arange(k)
    above.bar(at - 0.2, found.p, 0.38, color=BLUE, label="p_c, of targets")
    above.bar(at + 0.2, found.q, 0.38, color=ORANGE, label="p̂_c, of predictions")
    above.set(ylabel="share of rows", title=_title(found))
    above.margins(y=0.2)
    above.legend(frameon=False, loc="upper right", ncols=2, fontsize="small")
    recall = _recall(found)
    below.bar(at, np.nan_to_num(recall), 0.7, color="#2a9d8f")
    for c in np.flatnonzero(np.isnan(recall)):
        below.text(c, 0.02, "none", ha="center", va="bottom", fontsize=7, color="#5b6b7c", rotation=90)
    below.set(xlabel="class", ylabel="share of its rows found (recall)", ylim=(0, 1.02))
    below.set_xticks(at[:: -(-k // 25)])
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    return made


def _points(found: EvaluationResult) -> Figure:
    """Of many classes, each a point; on logarithms, so that those without predictions stand in the lowest line."""
    made, (axes,) = figure(5.8, 5)
    occurs = (found.p > 0) | (found.q > 0)
    p, q, recall = found.p[occurs], found.q[occurs], np.nan_to_num(_recall(found)[occurs])
    if not occurs.any():
        axes.set(title="no rows that count")
        return made
    least = min(p[p > 0].min(initial=1), q[q > 0].min(initial=1))
    floor, most = least / 3, max(p.max(), q.max()) * 1.5
    points = axes.scatter(
        np.maximum(p, floor), np.maximum(q, floor), c=recall, s=9, cmap="viridis", vmin=0, vmax=1, lw=0
    )
    made.colorbar(points, ax=axes, label="share of its rows found (recall)", shrink=0.85)
    axes.plot([least, most], [least, most], color="#5b6b7c", ls="--", lw=1.2)
    for draw, count, told in (
        (axes.axhline, int((q == 0).sum()), "never predicted"),
        (axes.axvline, int((p == 0).sum()), "never a target"),
    ):
        if count:
            draw(floor, color=GREY, lw=1, zorder=0)
            way = {"x": most, "y": floor, "ha": "right", "va": "bottom"}
            if draw == axes.axvline:
                way = {"x": floor, "y": most, "ha": "left", "va": "top", "rotation": 90}
            axes.text(s=f" {count} {told} ", fontsize=8, color="#5b6b7c", **way)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(floor / 1.5, most),
        ylim=(floor / 1.5, most),
        xlabel="p_c, share among targets",
        ylabel="p̂_c, share among predictions",
        title=_title(found),
    )
    return made
