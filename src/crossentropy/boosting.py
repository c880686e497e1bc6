"""Objectives and metrics for XGBoost and LightGBM: softmax losses with gradient and Hessian in one pass.

Neither library is imported: an objective is called by the one that has it, through either of its interfaces, and tells
them apart by what it is called with:

    xgb.train(params, dtrain, obj=xgboost_objective())             (scores, data), with labels and weights in the data
    xgb.XGBClassifier(objective=xgboost_objective())               (labels, scores), and sample_weight if there is any
    lgb.train({"objective": lightgbm_objective(), ...}, data)      (scores, data)
    lgb.LGBMClassifier(objective=lightgbm_objective())             (labels, scores, weights or None)

Scores of one axis are those of two classes, as both libraries have them: the logit of class 1 against 0.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Unpack

import numpy as np

from . import _check, reference
from ._options import numeric_of, passed, takes_options
from .api import cross_entropy
from .second_derivatives import OPTIONS, BoostingOptions, cross_entropy_grad_hess

__all__ = ["BoostingOptions", "lightgbm_metric", "lightgbm_objective", "xgboost_metric", "xgboost_objective"]

NAMES = tuple(name for name in OPTIONS if name in BoostingOptions.__annotations__)

# A Hessian that is a number for each score; the product with a vector is none.
HESSIANS = tuple(name for name in reference.HESSIANS if name != "gauss_newton_product")


def _arguments(first: Any, second: Any, weight: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Scores, labels as integers, and weights or None, from what either interface calls with."""
    if hasattr(second, "get_label"):  # a DMatrix, or a Dataset
        scores, labels, weight = first, second.get_label(), second.get_weight()
    else:
        labels, scores = first, second
    if weight is not None and np.size(weight) == 0:  # a DMatrix without weights has an empty array of them
        weight = None
    scores = _check.array(scores, "scores")
    if scores.ndim not in (1, 2):
        raise ValueError(f"scores must have shape (rows,) or (rows, classes), got {scores.shape}")
    if labels is None:
        raise ValueError("labels are missing: the data that a booster is trained on or tested with must have them")
    return scores, _whole(_check.array(labels, "labels"), len(scores)), weight


def _whole(labels: np.ndarray, rows: int) -> np.ndarray:
    """Labels as integers, which both libraries keep as float32; a ValueError names the first that is none."""
    if labels.shape != (rows,):
        raise ValueError(f"labels must have shape {(rows,)}, one for each row of scores, got {labels.shape}")
    if labels.dtype.kind != "f":
        return labels
    whole = labels
    for dtype in (
        np.int32,
        np.int64,
    ):  # the smaller is made in half the time, most of which is the system's, for memory
        with np.errstate(invalid="ignore"):  # NaN and what no integer can be are told below
            whole = labels.astype(dtype)
        if np.array_equal(whole, labels):
            break
    else:
        n = int(np.flatnonzero(whole != labels)[0])
        raise ValueError(f"labels must be whole numbers, the classes counted from 0, got labels[{n}] = {labels[n]}")
    return whole


@contextlib.contextmanager
def _labels_named() -> Iterator[None]:
    """A label that is no class is told by the name that boosters have for it."""
    try:
        yield
    except IndexError as error:
        raise IndexError(str(error).replace("targets", "labels", 1)) from None


def _checked(name: str, options: Any, more: tuple[str, ...] = ()) -> dict[str, Any]:
    left = passed(name, options, more, dict.fromkeys(NAMES))
    return left | numeric_of(left)


class _Objective:
    """What a booster calls in each round; as a class, so that it can be pickled and copied with its estimator."""

    def __init__(self, name: str, hessian: str, options: dict[str, Any]) -> None:
        if not isinstance(hessian, str) or hessian not in HESSIANS:
            raise ValueError(f"hessian must be one of {', '.join(map(repr, HESSIANS))}, got {hessian!r}")
        self.name, self.hessian = name, hessian
        self.options = _checked(name, options, ("hessian",))

    def __repr__(self) -> str:
        return _shown(self.name, {"hessian": self.hessian} | self.options)

    # XGBoost looks for the last parameter by its name, LightGBM counts them.
    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
        scores, labels, weight = _arguments(first, second, sample_weight)
        if scores.ndim == 1:
            return self._of_two_classes(scores, labels, weight)
        return self._of_classes(scores, labels, weight, self.hessian)

    def _of_classes(
        self, scores: np.ndarray, labels: np.ndarray, weight: Any, hessian: str
    ) -> tuple[np.ndarray, np.ndarray]:
        # The results are float32 to both libraries, and lie as the scores do: those of LightGBM class by class.
        by_class = scores.flags.f_contiguous and not scores.flags.c_contiguous
        logits = np.ascontiguousarray(scores.T if by_class else scores, dtype=np.float32)
        axis = 0 if by_class else 1
        with _labels_named():
            _, grad, hess = cross_entropy_grad_hess(
                logits, labels, hessian=hessian, sample_weight=weight, axis=axis, reduction="sum", **self.options
            )
        return (grad.T, hess.T) if by_class else (grad, hess)

    def _of_two_classes(self, scores: np.ndarray, labels: np.ndarray, weight: Any) -> tuple[np.ndarray, np.ndarray]:
        """The derivatives on the one score; the libraries' own objectives of two classes have the diagonal there."""
        pairs = _pairs(scores, np.float32)
        own = self.hessian in ("xgboost", "lightgbm")
        grad, hess = self._of_classes(pairs, labels, weight, "diagonal" if own else self.hessian)
        found = np.maximum(hess[:, 1], np.float32(reference.XGBOOST_LEAST)) if self.hessian == "xgboost" else hess[:, 1]
        return grad[:, 1], found


class _Metric:
    """A loss that is reported: the mean of the rows'."""

    __name__ = "cross_entropy"  # what is shown; XGBoost shows its own mlogloss beside it

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name, self.options = name, _checked(name, options)

    def __repr__(self) -> str:
        return _shown(self.name, self.options)

    def mean(self, first: Any, second: Any, sample_weight: Any) -> float:
        scores, labels, weight = _arguments(first, second, sample_weight)
        logits = _pairs(scores, scores.dtype) if scores.ndim == 1 else scores
        with _labels_named():
            return float(cross_entropy(logits, labels, sample_weight=weight, **self.options))


class _XGBoostMetric(_Metric):
    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> float | tuple[str, float]:
        found = self.mean(first, second, sample_weight)
        return (self.__name__, found) if hasattr(second, "get_label") else found


class _LightGBMMetric(_Metric):
    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[str, float, bool]:
        return self.__name__, self.mean(first, second, sample_weight), False


def _pairs(scores: np.ndarray, dtype: Any) -> np.ndarray:
    """The logits of two classes, of which the first has 0; class by class in memory."""
    logits = np.zeros((2, len(scores)), dtype)
    logits[1] = scores
    return logits.T


def _shown(name: str, arguments: dict[str, Any]) -> str:
    return f"crossentropy.boosting.{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


@functools.partial(takes_options, names=NAMES)
def xgboost_objective(*, hessian: str = "xgboost", **options: Unpack[BoostingOptions]) -> Any:
    """The softmax loss as an objective of XGBoost: for ``xgb.train(obj=...)`` and ``XGBClassifier(objective=...)``.

    Parameters
    ----------
    hessian : {'xgboost', 'diagonal', 'upper_bound', 'lightgbm'}
        What stands for the second derivative, as of `cross_entropy_grad_hess`. 'xgboost' is what ``multi:softprob``
        has, max(2 p_c (1 - p_c), 1e-16), times the row's weight, and the trees are those of that objective; 'diagonal'
        is the derivative itself, whose steps are twice as long. For two classes with one score both are p (1 - p).
    {options}

    Returns
    -------
    callable
        ``objective(scores, dtrain)`` or ``objective(labels, scores, sample_weight=None)``: gradient and Hessian,
        float32, of the shape of scores. It can be pickled, copied and shared by threads.

    Raises
    ------
    TypeError, ValueError, IndexError
        For a Hessian or an option outside its rules; in a call for labels that are no whole numbers, or no class.

    Notes
    -----
    Where there is an objective of one's own, ``Booster.predict(data, output_margin=True)`` gives scores, of which
    `crossentropy.softmax` makes probabilities. Beside ``"objective": "multi:softprob"`` among the parameters, used for
    that alone then, ``predict`` gives probabilities, as ``XGBClassifier.predict_proba`` does. The first scores are
    equal in all classes (``base_score=0.5``), where XGBoost's own objectives begin with each class's share unless they
    are told that, or a ``base_margin``. Of two classes with one score ``xgb.train`` wants ``base_score=0``.

    The gradient and the Hessians are derived in ``docs/derivation.md``, sections 3 and 5.

    Examples
    --------
    >>> objective = crossentropy.boosting.xgboost_objective()
    >>> labels, scores = np.array([1.0, 0.0], np.float32), np.zeros((2, 2), np.float32)
    >>> grad, hess = objective(labels, scores)
    >>> grad
    array([[ 0.5, -0.5],
           [-0.5,  0.5]], dtype=float32)
    >>> hess
    array([[0.5, 0.5],
           [0.5, 0.5]], dtype=float32)
    """
    return _Objective("xgboost_objective", hessian, dict(options))


@functools.partial(takes_options, names=NAMES)
def lightgbm_objective(*, hessian: str = "lightgbm", **options: Unpack[BoostingOptions]) -> Any:
    """The softmax loss as an objective of LightGBM: for ``params["objective"]`` and ``LGBMClassifier(objective=...)``.

    Parameters
    ----------
    hessian : {'lightgbm', 'diagonal', 'upper_bound', 'xgboost'}
        What stands for the second derivative, as of `cross_entropy_grad_hess`. 'lightgbm' is what ``multiclass`` has,
        C / (C - 1) p_c (1 - p_c), times the row's weight, and the trees are those of that objective. For two classes
        with one score it is p (1 - p), as ``binary`` has it.
    {options}

    Returns
    -------
    callable
        ``objective(scores, data)`` or ``objective(labels, scores, sample_weight=None)``: gradient and Hessian, float32,
        of the shape of scores and in their order of memory (class by class), so that LightGBM copies neither. It can be
        pickled, copied and shared by threads.

    Raises
    ------
    TypeError, ValueError, IndexError
        For a Hessian or an option outside its rules; in a call for labels that are no whole numbers, or no class.

    Notes
    -----
    A model with an objective of one's own predicts scores: `crossentropy.softmax` makes probabilities of them.
    LightGBM begins its own objectives with the logarithm of each class's share (``boost_from_average``), which it does
    not for others: pass these as ``init_score`` for the same trees. Scores are rounded to float32 first.

    The gradient and the Hessians are derived in ``docs/derivation.md``, sections 3 and 5.

    Examples
    --------
    >>> objective = crossentropy.boosting.lightgbm_objective(label_smoothing=0.1)
    >>> objective
    crossentropy.boosting.lightgbm_objective(hessian='lightgbm', label_smoothing=0.1)
    >>> grad, hess = objective(np.array([1.0, 0.0]), np.zeros((2, 3), order="F"))
    >>> grad.flags.f_contiguous, hess.dtype
    (True, dtype('float32'))
    """
    return _Objective("lightgbm_objective", hessian, dict(options))


@functools.partial(takes_options, names=NAMES)
def xgboost_metric(**options: Unpack[BoostingOptions]) -> Any:
    """The mean softmax loss, for ``xgb.train(custom_metric=...)`` and ``XGBClassifier(eval_metric=...)``.

    Parameters
    ----------
    {options}

    Returns
    -------
    callable
        ``metric(scores, dmatrix)`` gives ('cross_entropy', loss), in nats; ``metric(labels, scores,
        sample_weight=None)`` the loss alone.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `xgboost_objective`.

    Notes
    -----
    It goes with an objective of one's own, with which XGBoost hands scores to metrics: beside a built-in objective it
    would be handed probabilities. It is XGBoost's own ``mlogloss``, which bounds probabilities by 1e-16, without
    that bound; ``disable_default_eval_metric=True`` leaves that one out.

    Examples
    --------
    >>> round(crossentropy.boosting.xgboost_metric()(np.array([1.0, 0.0]), np.zeros((2, 3))), 6)
    1.098612
    """
    return _XGBoostMetric("xgboost_metric", dict(options))


@functools.partial(takes_options, names=NAMES)
def lightgbm_metric(**options: Unpack[BoostingOptions]) -> Any:
    """The mean softmax loss, for ``lgb.train(feval=...)`` and ``LGBMClassifier.fit(eval_metric=...)``.

    Parameters
    ----------
    {options}

    Returns
    -------
    callable
        ``metric(scores, data)`` or ``metric(labels, scores, sample_weight=None)``: ('cross_entropy', loss in nats,
        False), of which the last says that less is better.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `lightgbm_objective`.

    Notes
    -----
    It goes with an objective of one's own, with which LightGBM hands scores to metrics. Its own ``multi_logloss`` takes
    those for probabilities then: ``metric="None"`` leaves it out.

    Examples
    --------
    >>> crossentropy.boosting.lightgbm_metric()(np.array([1.0, 0.0]), np.array([[0.0, 50.0], [50.0, 0.0]]))
    ('cross_entropy', 1.9287498479639178e-22, False)
    """
    return _LightGBMMetric("lightgbm_metric", dict(options))
