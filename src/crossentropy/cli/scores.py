"""How good a model is on labelled data: scikit-learn's scores, and section 1 of the note, as numbers and as tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .. import cross_entropy, distributions

MOST_ROWS = 40  # of a table of classes in a terminal


class Scores(NamedTuple):
    """A model's scores on N observations of K classes; arrays are (K,) unless said."""

    classes: list[str]
    true: np.ndarray  # (N,)
    predicted: np.ndarray  # (N,)
    loss: float
    accuracy: float
    most_frequent: float  # the accuracy of always guessing the most frequent class
    counts: np.ndarray  # k_c
    predicted_counts: np.ndarray
    right: np.ndarray
    precision: np.ndarray  # NaN for a class never predicted
    recall: np.ndarray  # NaN for a class that does not occur
    f1: np.ndarray
    confidence: float  # the mean probability of the predicted class
    calibration: tuple[np.ndarray, np.ndarray]  # of observations in ten groups by confidence: share right, confidence
    calibration_error: float  # mean distance of the two, over observations
    p: np.ndarray
    q: np.ndarray


def score(logits: np.ndarray, y: np.ndarray, classes: list[str]) -> Scores:
    """The scores of logits (N, K) for labels y (N,)."""
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    from .. import softmax

    k = len(classes)
    predicted = logits.argmax(axis=1)
    precision, recall, f1, _ = precision_recall_fscore_support(y, predicted, labels=np.arange(k), zero_division=np.nan)
    confidence = np.minimum(softmax(logits).max(axis=1), 1)  # which rounding may exceed
    right = predicted == y
    share, mean = calibration_curve(right, confidence, n_bins=10, strategy="quantile", pos_label=True)
    # Its groups once more, for their sizes, which it keeps to itself.
    sizes = np.bincount(np.searchsorted(np.percentile(confidence, np.arange(10, 100, 10)), confidence))
    error = float(np.average(np.abs(share - mean), weights=sizes[sizes > 0]))
    counts, predicted_counts = (distributions.class_counts(labels, k) for labels in (y, predicted))
    return Scores(
        list(classes),
        y,
        predicted,
        float(cross_entropy(logits, y)),
        float(accuracy_score(y, predicted)),
        float(counts.max() / len(y)),
        counts,
        predicted_counts,
        distributions.class_counts(y[right], k),
        precision,
        recall,
        f1,
        float(confidence.mean()),
        (share, mean),
        error,
        distributions.class_probabilities(y, k),
        distributions.class_probabilities(predicted, k),
    )


COUNTS = ("in training", "in test k_c", "predicted k̂_c", "of these right")
RATES = ("precision", "recall", "F1", "share p_c", "predicted p̂_c")


def rows(scores: Scores, training_counts=None) -> list[tuple[str, list[str], list[str]]]:
    """For each class its name, its counts and its rates, as text."""

    def rate(x):
        return "–" if np.isnan(x) else f"{x:.3f}"

    trained = ["" if training_counts is None else str(n) for n in _or_blank(training_counts, len(scores.classes))]
    return [
        (
            name,
            [trained[c], str(scores.counts[c]), str(scores.predicted_counts[c]), str(scores.right[c])],
            [
                *(rate(x[c]) for x in (scores.precision, scores.recall, scores.f1)),
                f"{scores.p[c]:.4f}",
                f"{scores.q[c]:.4f}",
            ],
        )
        for c, name in enumerate(scores.classes)
    ]


def _or_blank(counts, k):
    return [0] * k if counts is None else counts


def shown(scores: Scores) -> list[int]:
    """Which classes a terminal's table has room for: all, or those with the lowest F1."""
    k = len(scores.classes)
    if k <= MOST_ROWS:
        return list(range(k))
    worst = np.argsort(np.nan_to_num(scores.f1, nan=-1.0), kind="stable")[:MOST_ROWS]
    return sorted(map(int, worst))


def tables(scores: Scores, title: str, width: int, training_counts=None):
    """What a terminal of that width shows: one table, or two where one would be folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    which, all_rows = shown(scores), rows(scores, training_counts)
    parts = [(COUNTS, 0), (RATES, 1)]
    longest = max((len(all_rows[c][0]) for c in which), default=5)
    groups = [parts] if width >= longest + 88 else [parts[:1], parts[1:]]
    for group in groups:
        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.padding = 0, 1, 0, 0
        table.add_column("\nclass", max_width=max(width - 48, 12), overflow="ellipsis", no_wrap=True)
        skip = training_counts is None
        for headings, which_part in group:
            for heading in headings[skip and which_part == 0 :]:
                table.add_column("\n".join(heading.rsplit(" ", 1)), justify="right", no_wrap=True)
        for c in which:
            cells = [cell for headings, part in group for cell in all_rows[c][1 + part][skip and part == 0 :]]
            table.add_row(Text(all_rows[c][0]), *cells)
        title = ""
        yield table


def lines(scores: Scores, on="test") -> list[str]:
    """The scores in words."""
    p, q = scores.p, scores.q
    said = [
        f"{on} loss  {scores.loss:.4f} nats    accuracy  {scores.accuracy:.4f}"
        f"    (always {scores.classes[int(scores.counts.argmax())]!r}: {scores.most_frequent:.4f})",
        f"mean over classes: precision  {np.nanmean(scores.precision):.4f}"
        f"    recall  {np.nanmean(scores.recall):.4f}    F1  {np.nanmean(scores.f1):.4f}",
        f"calibration: probability of the predicted class  {scores.confidence:.4f} on average, right "
        f"{scores.accuracy:.4f}; error  {scores.calibration_error:.4f}",
    ]
    crossed, entropy = distributions.cross_entropy_of(p, q), distributions.entropy(p)
    if np.isfinite(crossed):
        said.append(
            f"true shares P against predicted shares Q: H(P,Q)  {crossed:.6f} nats    H(P)  {entropy:.6f}"
            f"    D(P||Q)  {distributions.kl_divergence(p, q):.6f}"
        )
    else:
        never = [name for name, pc, qc in zip(scores.classes, p, q, strict=True) if pc > 0 and qc == 0]
        names = ", ".join(map(repr, never[:5])) + " …" * (len(never) > 5)
        said.append(
            f"true shares P against predicted shares Q: H(P)  {entropy:.6f} nats; H(P,Q) and D(P||Q) have no finite "
            f"value, since {names} {'was' if len(never) == 1 else 'were'} never predicted"
        )
    return said
