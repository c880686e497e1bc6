"""The log loss of probabilities as scikit-learn has it, and of decision functions, which keep every digit.

What is not plain (labels in lists, label indicator matrices, probabilities out of range or that do not sum to one,
arrays of other libraries) is handed to scikit-learn's own function, whose results, warnings and errors these are, then.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics
from sklearn.utils import column_or_1d

from .. import binary_cross_entropy_with_logits, cross_entropy

# Of probabilities that are looked at while they lie in a core's cache.
_AT_ONCE = 1 << 15
# Labels among which all classes are looked for before all labels are.
_FIRST = 1 << 12
_BITS: dict[Any, Any] = {np.dtype(np.float64): np.dtype(np.uint64), np.dtype(np.float32): np.dtype(np.uint32)}


def log_loss(
    y_true: Any,
    y_proba: Any = None,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    y_pred: Any = "deprecated",
) -> float:
    """What `sklearn.metrics.log_loss` returns, warns of and raises, in a fraction of its time.

    Parameters
    ----------
    y_true : array_like, shape (N,), or label indicator matrix
        Labels.
    y_proba : array_like, shape (N, K), (N, 1) or (N,)
        The probability of each class, in the order of the sorted labels; a single column is that of the second of two.
        They are clipped to [eps, 1 - eps], with the machine epsilon of their dtype.
    normalize : bool, default True
        The mean; otherwise the sum.
    sample_weight : array_like, shape (N,), optional
        What each observation counts.
    labels : array_like, optional
        All K labels, where y_true may lack some.
    y_pred
        The name of y_proba before scikit-learn 1.9, which says so.

    Returns
    -------
    float
        In nats. Computed in float64, also of float32 probabilities.

    Raises
    ------
    ValueError, sklearn.utils._param_validation.InvalidParameterError, TypeError
        As scikit-learn's.

    See Also
    --------
    decision_log_loss : Of what probabilities are made of, without the clipping, which caps a loss at 36 nats.

    Examples
    --------
    >>> y, p = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    >>> round(crossentropy.sklearn.log_loss(y, p), 6)
    0.34055
    """
    if isinstance(y_pred, str) and y_pred == "deprecated":
        loss = _quick(y_true, y_proba, normalize, sample_weight, labels)
        if loss is not None:
            return loss
    given = {} if isinstance(y_pred, str) and y_pred == "deprecated" else {"y_pred": y_pred}
    probabilities = (y_proba,) if y_proba is not None or not given else ()
    return metrics.log_loss(
        y_true, *probabilities, normalize=normalize, sample_weight=sample_weight, labels=labels, **given
    )


def decision_log_loss(
    y_true: Any,
    pred_decision: ArrayLike,
    *,
    normalize: bool = True,
    sample_weight: ArrayLike | None = None,
    labels: ArrayLike | None = None,
) -> float:
    """The log loss of a decision function: the cross-entropy of its softmax, without probabilities in between.

    Parameters
    ----------
    y_true : array_like, shape (N,)
        Labels.
    pred_decision : array_like, shape (N, K), (N, 1) or (N,)
        Logits, as `decision_function` of a logistic model returns them: a column for each of the sorted labels; a
        single column is the second one's logit less the first one's.
    normalize : bool, default True
        The mean; otherwise the sum.
    sample_weight : array_like, shape (N,), optional
        What each observation counts, at least 0.
    labels : array_like, shape (K,), optional
        All K labels in increasing order (an estimator's ``classes_``), where y_true may lack some.

    Returns
    -------
    float
        In nats, of any size: nothing is clipped.

    Raises
    ------
    TypeError, ValueError
        For labels, logits or weights that do not fit together; for a NaN or +inf among the logits.

    Notes
    -----
    Eq. 6 of the note, as `crossentropy.cross_entropy` has it.

    Examples
    --------
    >>> crossentropy.sklearn.decision_log_loss([0, 1], [[50.0, 0.0], [0.0, 50.0]])
    1.9287498479639178e-22
    >>> round(crossentropy.sklearn.decision_log_loss(["no", "yes"], [-2.0, 3.0]), 6)
    0.087758
    """
    z = np.asarray(pred_decision)
    if z.dtype.kind in "biu":
        z = z.astype(np.float64)
    if z.ndim == 2 and z.shape[1] == 1:
        z = z[:, 0]
    if z.ndim not in (1, 2) or not len(z):
        raise ValueError(f"pred_decision must have shape (N, K), (N, 1) or (N,) with N >= 1, got {z.shape}")
    found = _numbered(y_true, labels)
    classes, numbers = _numbered_slowly(y_true, labels) if found is None else found
    if len(numbers) != len(z):
        raise ValueError(f"y_true must have a label for each of the {len(z)} rows of pred_decision, got {len(numbers)}")
    columns = 2 if z.ndim == 1 else z.shape[1]
    if len(classes) != columns:
        raise ValueError(
            f"pred_decision must have a column for each of the classes {classes}, got {columns} classes: "
            "labels names classes that y_true lacks"
        )
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
    if weights is not None and weights.shape != numbers.shape:
        raise ValueError(f"sample_weight must have shape {numbers.shape}, got {weights.shape}")
    if normalize and weights is not None and not weights.any():
        raise ValueError("sample_weight must have an entry above 0 for a mean")
    if z.ndim == 1:
        total = float(binary_cross_entropy_with_logits(z, numbers, weight=weights, reduction="sum"))
        loss = total / (len(z) if weights is None else weights.sum()) if normalize else total
    else:
        loss = float(cross_entropy(z, numbers, sample_weight=weights, reduction="mean" if normalize else "sum"))
    if math.isnan(loss):
        raise ValueError("pred_decision must hold no NaN and no +inf, and no row of nothing but -inf")
    return loss


def _quick(y_true: Any, p: Any, normalize: Any, sample_weight: Any, labels: Any) -> float | None:
    """scikit-learn's result for what is plain; None for what is not, and for all that it warns of or refuses."""
    if type(p) is not np.ndarray or p.dtype not in _BITS or p.ndim not in (1, 2) or not isinstance(normalize, bool):
        return None
    weights = None if sample_weight is None else np.asarray(sample_weight)
    if weights is not None and (weights.dtype.kind not in "iuf" or weights.shape != p.shape[:1]):
        return None
    found = _numbered(y_true, labels)
    if found is None:
        return None
    classes, numbers = found
    if len(numbers) != len(p) or len(classes) < 2:
        return None
    if p.ndim == 2 and p.shape[1] == 1:
        p = p[:, 0]
    if len(classes) != (2 if p.ndim == 1 else p.shape[1]):
        return None
    picked = _of_labels(p, numbers)
    if picked is None:
        return None
    eps = np.finfo(p.dtype).eps
    np.clip(picked, eps, 1 - eps, out=picked)
    loss = picked.astype(np.float64, copy=False)
    np.log(loss, out=loss)
    if weights is None:
        return -float(loss.mean() if normalize else loss.sum())
    total = float(weights.sum(dtype=np.float64))
    if not math.isfinite(total) or total == 0:
        return None
    of_all = -float(loss @ weights.astype(np.float64, copy=False))
    return of_all / total if normalize else of_all


def _of_labels(p: np.ndarray, numbers: np.ndarray) -> np.ndarray | None:
    """The probability of each row's label; None unless all lie in [0, 1] and every row sums to one.

    As integers the bits of floats are in the same order, those of negative numbers, infinities and NaN above those of
    1: so one maximum tells whether all lie between 0 and 1.
    """
    one = int(p.dtype.type(1).view(_BITS[p.dtype]))
    if p.ndim == 1:
        if p.view(_BITS[p.dtype]).max() > one:
            return None
        return np.where(numbers == 1, p, 1 - p)
    picked = np.empty(len(p), p.dtype)
    ones = np.ones(p.shape[1], p.dtype)
    # Nearer to one than scikit-learn asks for: what may be a matter of rounding is left to it.
    near = 0.99 * (math.sqrt(np.finfo(p.dtype).eps) + 1e-8)
    step = max(1, _AT_ONCE // p.shape[1])
    rows = np.arange(min(step, len(p)))
    for first in range(0, len(p), step):
        part = p[first : first + step]
        if part.view(_BITS[p.dtype]).max() > one or np.abs(part @ ones - 1).max() > near:
            return None
        picked[first : first + step] = part[rows[: len(part)], numbers[first : first + step]]
    return picked


def _numbered(y: Any, labels: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The sorted classes and the number of each label among them; None of labels that are not plain."""
    if type(y) is not np.ndarray:
        if not (hasattr(y, "iloc") and hasattr(y, "to_numpy")):  # a column of pandas
            return None
        y = y.to_numpy()
    if y.ndim != 1 or not len(y):
        return None
    if y.dtype.kind in "OU":
        found = _numbered_strings(y)
    elif y.dtype.kind in "biuf":
        found = _numbered_integers(y)
    else:
        return None
    if found is None or labels is None:
        return found
    known = np.asarray(labels)
    classes, numbers = found
    if known.ndim != 1 or len(known) < 2 or (known.dtype.kind in "OU") != (classes.dtype.kind in "OU"):
        return None
    if known.dtype.kind == "O" and not all(isinstance(label, str) for label in known.tolist()):
        return None
    if known.dtype.kind not in "OUbiuf" or not (known[1:] > known[:-1]).all():
        return None
    places = np.searchsorted(known, classes).clip(max=len(known) - 1)
    if not (known[places] == classes).all():
        return None
    return known, numbers if len(known) == len(classes) else places[numbers]


def _numbered_integers(y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """By a table; of floats that are whole numbers, too."""
    whole = y
    if y.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = y.astype(np.int64)
        if not (whole == y).all():
            return None
    elif y.dtype.kind == "b":
        whole = y.view(np.uint8)
    least, most = int(whole.min()), int(whole.max())
    if most - least > max(1024, 4 * len(y)) or most >= 1 << 62 or least < -(1 << 62):
        return None
    places = whole if least == 0 and whole.dtype.kind == "i" else whole.astype(np.int64) - least
    there = _which(places, most - least + 1)
    classes = np.flatnonzero(there)
    numbers = places if len(classes) == len(there) else (np.cumsum(there) - 1)[places]
    return (classes + least).astype(y.dtype), numbers


def _which(places: np.ndarray, n: int) -> np.ndarray:
    """Which of n numbers occur; where the first few have them all, the others need not be looked at."""
    for some in (places[:_FIRST], places):
        there = np.bincount(some, minlength=n) > 0
        if there.all():
            break
    return there


def _numbered_strings(y: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    items = y.tolist()
    if set(map(type, items)) != {str}:
        return None
    classes = sorted(set(items))
    table = {label: number for number, label in enumerate(classes)}
    return np.array(classes, object), np.fromiter(map(table.__getitem__, items), np.int64, len(items))


def _numbered_slowly(y: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of any labels that can be sorted."""
    classes, numbers = np.unique(column_or_1d(y), return_inverse=True)
    if labels is None:
        return classes, numbers
    known = np.asarray(labels)
    if known.ndim != 1 or not (known[1:] > known[:-1]).all():
        raise ValueError(f"labels must be distinct and in increasing order, got {labels}")
    places = np.searchsorted(known, classes).clip(max=len(known) - 1)
    if (strange := classes[known[places] != classes]).size:
        raise ValueError(f"y_true has the label {strange.tolist()[0]!r}, which is not among labels = {labels}")
    return known, places[numbers]
