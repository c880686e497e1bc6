"""What there is to know of each row, in one read of the logits: its loss, entropy, largest class, the target's rank.

Of these the log-probability of a chosen class and the entropy have a gradient: the pair for bindings to automatic
differentiation is here, too, and public as `crossentropy.autograd`'s.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple, SupportsIndex, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays, _check, _device, _foreign, _memory
from ._backends import registry
from ._backends.contract import RowNumbers, Statistics
from ._options import PER_ROW, PerRowOptions, RowOptions, integer, passed, takes_options
from ._reduction import divisor, gradient_array, loss_dtype, rounded, row_count

__all__ = [
    "RowStatistics",
    "SavedLogProbs",
    "log_probs_backward",
    "log_probs_forward",
    "restored_log_probs",
    "row_statistics",
]


class RowStatistics(NamedTuple):
    """The numbers of each row: arrays of the rows' shape, scalars for a single row; None for what has no meaning."""

    loss: Any
    logsumexp: Any
    entropy: Any
    log_prob: Any
    max_prob: Any
    argmax: Any
    rank: Any
    in_top: Mapping[int, Any]


@functools.partial(takes_options, names=PER_ROW)
def row_statistics(
    logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    top: SupportsIndex | Iterable[SupportsIndex] = (),
    **options: Unpack[PerRowOptions],
) -> RowStatistics:
    """Loss, logsumexp, entropy, log-probability, largest probability, its class, and the target's rank, of each row.

    What evaluation and monitoring ask of logits besides their loss, from one read of them.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        As for `cross_entropy`.
    targets : array_like, optional
        Classes or probabilities, as for `cross_entropy`.
    {options}
    top : int or iterable of int, default ``()``
        Each k from 1 to C for which `in_top` is to say whether the target is among the k largest. Index targets only.

    Returns
    -------
    RowStatistics
        Named tuple of arrays of the rows' shape. These are floating, in nats, float64 for float64 and integer logits,
        otherwise float32:

        ``loss``, as `cross_entropy` has it with ``reduction='none'``; None without targets.
        ``logsumexp``, as `logsumexp` has it.
        ``entropy`` of the softmax, -sum_c p_c log p_c: 0 only where it is, for one class alone or the others at -inf.
        ``log_prob``, log p_y of the target; None but for index targets.
        ``max_prob``, the largest p_c.

        These are int64:

        ``argmax``, the class of the largest logit, the first of several.
        ``rank``, how many classes lie above the target: those with a larger logit, and those with the same one and a
        lower number. So it is 0 exactly where ``argmax`` is the target. None but for index targets.

        ``in_top``, a dict: for each k of ``top`` the booleans ``rank < k``, whose mean is the top-k accuracy.

    Raises
    ------
    {raises}

    Notes
    -----
    Options that weight or change a target (class weights, smoothing, margin, focal) are for ``loss`` alone, and so
    without effect where there are no targets; all other numbers are of the softmax of the logits as ``logit_scale``,
    ``softcap`` and ``class_prior`` transform them.

    A row that does not count (ignored, or of sample weight 0) is not read: its numbers are 0, its ``argmax`` is -1, its
    ``rank`` C. So are these two of a row that is undefined (a NaN or +inf in it, or nothing but -inf), whose other
    numbers are NaN, but for ``logsumexp``: it counts as wrong in any top. NumPy's argmax would name the NaN.

    ``loss`` and ``log_prob`` are within the limits of `cross_entropy`, ``logsumexp`` within those of `logsumexp`, and
    ``entropy`` and ``max_prob`` within 2 ulp of float32, 4 of float64: the entropy is log1p(R) + sum_c p_c (m - z_c),
    with the maximum m and the sum R of the other classes' e^(z_c - m), which keeps its digits where one class leads
    (``docs/derivation.md``, section 8).

    Examples
    --------
    >>> found = crossentropy.row_statistics([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], [2, 0], top=(1, 2))
    >>> found.rank, found.argmax
    (array([1, 0]), array([1, 0]))
    >>> {k: float(hit.mean()) for k, hit in found.in_top.items()}
    {1: 0.5, 2: 1.0}
    """
    left = passed("row_statistics", options, ("top",), PER_ROW)
    if _device.holds(logits):
        return RowStatistics(*registry.device_backend().row_statistics(logits, targets, top=top, **left))
    call, given = _checked(logits, targets, left)
    index = given is not None and not call.options.probabilities
    best = _check.best_of(top, index, call.x.shape[-1])
    loss, lse, entropy, log_prob, max_prob, argmax, rank = _numbers(registry.current(), call, given, None)
    in_top = {k: rank < k for k in best}
    loss = None if given is None else loss
    log_prob, rank = (log_prob, rank) if index else (None, None)
    found = RowStatistics(loss, lse, entropy, log_prob, max_prob, argmax, rank, in_top)
    return _foreign.returned(found, logits)


def _numbers(backend: ModuleType, call: _check.Loss, given: np.ndarray | None, statistics: np.ndarray | None) -> Any:
    """The numbers of the rows as they are returned: those without a meaning are 0."""
    n, index = row_count(call.x), given is not None and not call.options.probabilities
    if index:
        divisor(backend, call)  # looks at every class
    values, places = _memory.empty((5, n), np.dtype(np.float64)), _memory.empty((2, n), np.dtype(np.int64))
    if n:
        to = RowNumbers(*values, *places)
        if not is_transformed(call.options):
            backend.row_statistics(call.x, given, call.options, to, statistics)
        else:
            for rows, x, of_rows, _ in transformed_rows(call, given):
                part = RowNumbers(*(a[rows] for a in to))
                kept = None if statistics is None else statistics[rows]
                backend.row_statistics(x, _part(given, rows) if index else None, of_rows, part, kept)
            if given is not None:
                backend.forward(call.x, call.targets, call.options, to.loss, None)
    for name, filled in (("loss", given is not None), ("log_prob", index)):
        if not filled:
            values[RowNumbers._fields.index(name)] = 0  # or what happens to lie there would be rounded
    return (a.reshape(call.rows_shape)[()] for a in (*rounded(values, loss_dtype(call.x)), *places))


def _checked(
    logits: ArrayLike, targets: ArrayLike | None, left: dict[str, Any]
) -> tuple[_check.Loss, np.ndarray | None]:
    """The call as that of a loss, and its targets."""
    if targets is not None:
        call = _check.loss(logits, targets, left)
        return call, call.targets
    given = _check.array(logits, "logits")
    like = _arrays.on_host(given)
    axis = _check.class_axis(like, integer(left.get("axis", -1), "axis"), "logits")
    nothing = np.broadcast_to(np.zeros((), np.int8), _arrays.without(given.shape, axis))
    return _check.loss(given, nothing, {name: value for name, value in left.items() if name != "ignore_index"}), None


# ---------------------------------------------------------------------- transformed logits

AT_ONCE = 1 << 18  # elements of them, in float64


def is_transformed(options: Any) -> bool:
    """Whether the numbers are of other logits than those given; the margin is the loss's own."""
    return options.logit_scale != 1 or options.softcap != 0 or options.class_prior is not None


def transformed_rows(call: _check.Loss, given: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray, Any, Any]]:
    """Some rows at a time: which, their logits transformed in float64, the options left for these, and the slopes."""
    options, shape = call.options, call.rows_shape
    scale, cap, prior = options.logit_scale, options.softcap, options.class_prior
    index = given is not None and not options.probabilities
    left = RowOptions(ignore_index=options.ignore_index if index else None)
    count, step = row_count(call.x), max(1, AT_ONCE // call.x.shape[-1])
    for first in range(0, count, step):
        rows = slice(first, min(first + step, count))
        z = (
            call.x[_check.indices_of(np.arange(rows.start, rows.stop), shape)]
            .astype(np.float64)
            .reshape(-1, call.x.shape[-1])
        )
        with np.errstate(all="ignore"):
            z *= scale
            slope: Any = scale
            if cap:
                e = np.exp(-2 * np.abs(z) / cap)
                s = 2 * e / (1 + e)
                slope = np.where(np.isnan(z), z, scale * s * (2 - s))
                z = cap * np.tanh(z / cap)
            if prior is not None:
                z += prior
        weights = None if options.sample_weight is None else np.ascontiguousarray(options.sample_weight[rows])
        yield rows, z, left._replace(sample_weight=weights), slope


def _part(targets: np.ndarray | None, rows: slice) -> np.ndarray | None:
    return None if targets is None else targets[rows]


# ---------------------------------------------------------------------- what has a gradient

FIELDS = len(Statistics._fields)


class LogProbOptions(TypedDict, total=False):
    """The options of log-probabilities and entropies: those that say which rows count, and of which logits they are."""

    axis: SupportsIndex
    ignore_index: SupportsIndex | None
    logit_scale: float
    softcap: float | None
    class_prior: ArrayLike | None


LOG_PROB_OPTIONS = tuple(LogProbOptions.__annotations__)


class SavedLogProbs(NamedTuple):
    """What `log_probs_backward` needs of a `log_probs_forward`; opaque."""

    backend: ModuleType
    call: _check.Loss
    chosen: np.ndarray | None
    statistics: np.ndarray


@functools.partial(takes_options, names=LOG_PROB_OPTIONS)
def log_probs_forward(
    logits: ArrayLike, index: ArrayLike | None = None, **options: Unpack[LogProbOptions]
) -> tuple[tuple[Any, Any], SavedLogProbs]:
    """The log-probability of a chosen class and the entropy of each row, and what their backward needs.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        As for `crossentropy.cross_entropy`. They must not be changed before the backward.
    index : array_like of int, optional
        A class for each row, of the rows' shape; without it there are the entropies alone.
    {options}

    Returns
    -------
    numbers : tuple
        (log p_y, entropy) of the rows' shape, in nats, as `crossentropy.row_statistics` has them; None without index.
    saved : SavedLogProbs
        Holds references to the logits and the index, and a few float64 numbers a row.

    Raises
    ------
    {raises}

    Notes
    -----
    The entropy is derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> (log_prob, entropy), saved = crossentropy.autograd.log_probs_forward(np.zeros((1, 4)), [2])
    >>> log_prob, entropy
    (array([-1.38629436]), array([1.38629436]))
    """
    left = passed("log_probs_forward", options, (), LOG_PROB_OPTIONS)
    if _device.holds(logits):
        return registry.device_backend().log_probs_forward(logits, index, **left)
    call, given = _checked_index(logits, index, left)
    backend, statistics = registry.current(), _memory.empty_rows(row_count(call.x), FIELDS)
    _, _, entropy, log_prob, *_ = _numbers(backend, call, given, statistics)
    return (None if given is None else log_prob, entropy), SavedLogProbs(backend, call, given, statistics)


def log_probs_backward(
    saved: SavedLogProbs,
    grad_log_prob: ArrayLike = 0.0,
    grad_entropy: ArrayLike = 0.0,
    *,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The gradient on the logits of weighted log-probabilities and entropies, in one pass.

    Parameters
    ----------
    saved : SavedLogProbs
        From `log_probs_forward`. It may be used again.
    grad_log_prob, grad_entropy : float, or array_like of the rows' shape; default 0
        What arrives at the two.
    out : ndarray, optional
        As for `crossentropy.cross_entropy_and_grad`.

    Returns
    -------
    ndarray
        Of the shape and dtype of the logits: g_p (delta_cy - p_c) - g_h p_c (log p_c + h), rounded once.

    Raises
    ------
    TypeError, ValueError
        For what arrives, or an ``out``, that does not fit.

    Notes
    -----
    From the derivative of the softmax: ``docs/derivation.md``, section 2.

    Examples
    --------
    >>> (log_prob, entropy), saved = crossentropy.autograd.log_probs_forward(np.zeros((1, 4)), [2])
    >>> crossentropy.autograd.log_probs_backward(saved, grad_log_prob=1.0)
    array([[-0.25, -0.25,  0.75, -0.25]])
    """
    if not isinstance(saved, SavedLogProbs):
        return registry.device_backend("saved").log_probs_backward(saved, grad_log_prob, grad_entropy, out=out)
    backend, call, index, statistics = saved
    arriving = (("grad_log_prob", grad_log_prob), ("grad_entropy", grad_entropy))
    g_log_prob, g_entropy = (_check.grad_output(g, call, name) for name, g in arriving)
    given = {name: g for name, g in arriving if isinstance(g, np.ndarray)}
    to = gradient_array(call._replace(sources=call.sources | given), out, None)
    if row_count(call.x):
        grad = _check.classes_last(to, call.axis)
        arrived = g_log_prob, g_entropy
        if not is_transformed(call.options):
            backend.log_probs_backward(call.x, index, statistics, call.options, *arrived, grad)
            return to if out is None else out
        for rows, x, of_rows, slope in transformed_rows(call, index):
            g = [a if isinstance(a, float) else a[rows] for a in arrived]
            backend.log_probs_backward(x, _part(index, rows), statistics[rows], of_rows, *g, x)
            with np.errstate(all="ignore"):
                np.multiply(x, slope, out=x, where=x != 0)
                grad[_check.indices_of(np.arange(rows.start, rows.stop), call.rows_shape)] = x
    return to if out is None else out


@functools.partial(takes_options, names=LOG_PROB_OPTIONS)
def restored_log_probs(
    statistics: ArrayLike, logits: ArrayLike, index: ArrayLike | None = None, **options: Unpack[LogProbOptions]
) -> SavedLogProbs:
    """The ``saved`` whose `crossentropy.autograd.numbers_of` these are, from the same logits, index and options.

    Parameters
    ----------
    statistics
        From `crossentropy.autograd.numbers_of`.
    logits, index : array_like
        As for `log_probs_forward`; what is not theirs gives wrong gradients.
    {options}

    Returns
    -------
    SavedLogProbs

    Raises
    ------
    TypeError, ValueError
        As `log_probs_forward`; and for statistics of another shape or dtype.

    Examples
    --------
    >>> logits, index = np.zeros((1, 4)), np.array([2])
    >>> _, saved = crossentropy.autograd.log_probs_forward(logits, index)
    >>> statistics, _ = crossentropy.autograd.numbers_of(saved)
    >>> again = crossentropy.autograd.restored_log_probs(statistics, logits, index)
    >>> crossentropy.autograd.log_probs_backward(again, grad_log_prob=1.0)
    array([[-0.25, -0.25,  0.75, -0.25]])
    """
    left = passed("restored_log_probs", options, (), LOG_PROB_OPTIONS)
    if _device.holds(logits):
        return registry.device_backend().restored_log_probs(statistics, logits, index, **left)
    call, given = _checked_index(logits, index, left)
    return SavedLogProbs(registry.current(), call, given, _check.statistics(statistics, row_count(call.x), FIELDS))


def _checked_index(
    logits: ArrayLike, index: ArrayLike | None, left: dict[str, Any]
) -> tuple[_check.Loss, np.ndarray | None]:
    call, given = _checked(logits, index, left)
    if given is not None and call.options.probabilities:
        raise TypeError("index must be classes, integers of the rows' shape, got probabilities")
    return call._replace(reduction="none"), given
