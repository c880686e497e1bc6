"""Forward and backward as a pair, for bindings to automatic differentiation.

Forward keeps three float64 numbers a row (the maximum, the sum of the other exponentials over it, and the mass of the
target); backward reads the logits again and recomputes the probabilities from these, so that no second array of their
size is kept. The logits and targets must not be changed in between.

    >>> loss, saved = crossentropy.autograd.forward(logits, targets, label_smoothing=0.1)
    >>> grad = crossentropy.autograd.backward(saved, grad_output=1.0)

So does the pair of log-softmax: a gradient from the log-probabilities would have their rounding in it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _device, _memory
from ._backends import registry
from ._backends.contract import Statistics
from ._options import LossOptions, passed, takes_options
from ._reduction import divisor, gradient_array, reduced, row_count, scaled
from .row_numbers import SavedLogProbs, log_probs_backward, log_probs_forward, restored_log_probs

FIELDS = len(Statistics._fields)

__all__ = [
    "backward",
    "forward",
    "log_probs_backward",
    "log_probs_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "numbers_of",
    "restored",
    "restored_log_probs",
    "restored_log_softmax",
]


class Saved(NamedTuple):
    """What `backward` needs of a `forward`; opaque."""

    backend: ModuleType
    call: _check.Loss
    divisor: float | None
    statistics: np.ndarray


class SavedLogSoftmax(NamedTuple):
    """What `log_softmax_backward` needs of a `log_softmax_forward`; opaque."""

    backend: ModuleType
    x: np.ndarray
    axis: int
    statistics: np.ndarray


@takes_options
def forward(logits: ArrayLike, targets: ArrayLike, **options: Unpack[LossOptions]) -> tuple[Any, Saved]:
    """The loss, and what its backward needs.

    Parameters
    ----------
    logits, targets : array_like
        As for `crossentropy.cross_entropy`.
    {options}

    Returns
    -------
    loss : scalar or ndarray
        As `crossentropy.cross_entropy` returns it, in nats.
    saved : Saved
        Holds references to the logits and targets, and a few float64 numbers a row.

    Raises
    ------
    {raises}

    Notes
    -----
    Eq. 5 and 6 of the note, as in `crossentropy.cross_entropy`, reduced likewise.

    Examples
    --------
    >>> loss, saved = crossentropy.autograd.forward(np.zeros((2, 4)), [0, 3])
    >>> round(float(loss), 6)
    1.386294
    """
    if _device.holds(logits):
        return registry.device_backend().forward(logits, targets, **options)
    call = _check.loss(logits, targets, passed("forward", options))
    backend = registry.current()
    by = divisor(backend, call)
    n = row_count(call.x)
    rows, statistics = _memory.empty_rows(n), _memory.empty_rows(n, FIELDS)
    if n:
        backend.forward(call.x, call.targets, call.options, rows, statistics)
    return reduced(backend, rows, call, by), Saved(backend, call, by, statistics)


def backward(saved: Saved, grad_output: ArrayLike = 1.0, *, out: np.ndarray | None = None) -> np.ndarray:
    """The gradient on the logits of ``grad_output`` times the loss.

    Parameters
    ----------
    saved : Saved
        From `forward`. It may be used again.
    grad_output : float, or array_like of the rows' shape with ``reduction='none'``; default 1
        The gradient that arrives at the loss; any strides, 0 included.
    out : ndarray, optional
        As for `crossentropy.cross_entropy_and_grad`. With ``out=logits`` the logits are gone: use ``saved`` no more.

    Returns
    -------
    ndarray
        Of the shape and dtype of the logits.

    Raises
    ------
    TypeError, ValueError
        For a ``grad_output`` or ``out`` that does not fit.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 3, from the statistics that were saved.

    Examples
    --------
    >>> _, saved = crossentropy.autograd.forward(np.zeros((2, 4)), [0, 3], reduction="none")
    >>> crossentropy.autograd.backward(saved, grad_output=[1.0, 0.0])
    array([[-0.75,  0.25,  0.25,  0.25],
           [ 0.  ,  0.  ,  0.  , -0.  ]])
    """
    if not isinstance(saved, Saved):
        return registry.device_backend("saved").backward(saved, grad_output, out=out)
    call, by = saved.call, saved.divisor
    g = _check.grad_output(grad_output, call)
    to = gradient_array(call, out, grad_output)
    if by == 0:
        to[...] = 0
    elif saved.statistics.size:
        grad = _check.classes_last(to, call.axis)
        saved.backend.backward(call.x, call.targets, saved.statistics, call.options, scaled(g, by), grad)
    return to if out is None else out


def numbers_of(saved: Saved | SavedLogSoftmax) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays that `forward` has made for `backward`, for frameworks that keep arrays: `restored` takes them back.

    Parameters
    ----------
    saved : Saved or SavedLogSoftmax
        From `forward`; or from `log_softmax_forward`, for `restored_log_softmax`.

    Returns
    -------
    statistics : ndarray, shape (N, 3)
        (max, rest, mass) of each row in float64; on a device real numbers, as the loss is. A log-softmax has a mass
        of 0, and no divisor.
    divisor : ndarray, shape (), or None
        What the losses' sum was divided by, where that had to be found out.

    Raises
    ------
    TypeError
        For what no `forward` has saved.

    Examples
    --------
    >>> _, saved = crossentropy.autograd.forward([[2.0, 2.0, 2.0]], [1])
    >>> statistics, divisor = crossentropy.autograd.numbers_of(saved)
    >>> statistics[:, :2]  # the maximum, and the sum of the other exponentials over it
    array([[2., 2.]])
    """
    if isinstance(saved, (SavedLogSoftmax, SavedLogProbs)):
        return saved.statistics, None
    if not isinstance(saved, Saved):
        return registry.device_backend("saved").numbers_of(saved)
    return saved.statistics, None if saved.divisor is None else np.array(saved.divisor)


@takes_options
def restored(
    statistics: ArrayLike,
    divisor: ArrayLike | None,
    logits: ArrayLike,
    targets: ArrayLike,
    **options: Unpack[LossOptions],
) -> Saved:
    """The ``saved`` whose `numbers_of` these are, from the same logits, targets and options as in `forward`.

    Parameters
    ----------
    statistics, divisor
        From `numbers_of`.
    logits, targets : array_like
        As for `crossentropy.cross_entropy`; what is not theirs gives wrong gradients.
    {options}

    Returns
    -------
    Saved

    Raises
    ------
    TypeError, ValueError
        As `crossentropy.cross_entropy`; and for statistics of another shape or dtype.

    Examples
    --------
    >>> logits, targets = np.zeros((2, 4)), np.array([0, 3])
    >>> _, saved = crossentropy.autograd.forward(logits, targets)
    >>> again = crossentropy.autograd.restored(*crossentropy.autograd.numbers_of(saved), logits, targets)
    >>> bool((crossentropy.autograd.backward(again) == crossentropy.autograd.backward(saved)).all())
    True
    """
    if _device.holds(logits):
        return registry.device_backend().restored(statistics, divisor, logits, targets, **options)
    call = _check.loss(logits, targets, passed("restored", options))
    rows = _check.statistics(statistics, row_count(call.x), FIELDS)
    return Saved(registry.current(), call, None if divisor is None else float(divisor), rows)  # type: ignore[arg-type]


def log_softmax_forward(
    x: ArrayLike, axis: int = -1, *, out: np.ndarray | None = None
) -> tuple[np.ndarray, SavedLogSoftmax]:
    """The log-softmax, and what its backward needs.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `crossentropy.log_softmax`. They must not be changed before the backward.
    axis : int, default -1
        The class axis.
    out : ndarray, optional
        Where to put the result: of the shape and dtype of ``log_p``, sharing no memory with ``x``.

    Returns
    -------
    log_p : ndarray
        Of x's shape and dtype (float64 for integers), in nats. It may be changed.
    saved : SavedLogSoftmax
        Holds a reference to ``x``, or to its numbers as float64 where they are integers, and a few float64 numbers a
        row.

    Raises
    ------
    TypeError, ValueError
        As `crossentropy.log_softmax`.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 1.

    Examples
    --------
    >>> log_p, saved = crossentropy.autograd.log_softmax_forward(np.zeros((1, 4)))
    >>> np.exp(log_p).round(6)
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    if _device.holds(x):
        return registry.device_backend("x").log_softmax_forward(x, axis, out=out)
    source = _check.array(x, "x")
    given, axis = _check.rows_of(source, axis, "x")
    log_p = _check.result(out, given, {"x": source}, may_be_x=False, name="x")
    logits, backend = _check.classes_last(given, axis), registry.current()
    statistics = _memory.empty_rows(row_count(logits), FIELDS)
    if given.size:
        backend.log_softmax(logits, _check.classes_last(log_p, axis), statistics)
    return log_p if out is None else out, SavedLogSoftmax(backend, given, axis, statistics)


def log_softmax_backward(
    saved: SavedLogSoftmax, grad_output: ArrayLike, *, out: np.ndarray | None = None
) -> np.ndarray:
    """The gradient on the logits: g_c - p_c sum_k g_k, with no cancellation where p_c is near 1.

    Parameters
    ----------
    saved : SavedLogSoftmax
        From `log_softmax_forward`. It may be used again.
    grad_output : array_like
        The gradient that arrives at the log-softmax, of its shape; any strides, 0 included.
    out : ndarray, optional
        Where to put the result: of the shape and dtype of the log-softmax, sharing memory with neither the logits nor
        ``grad_output``.

    Returns
    -------
    ndarray
        Of the shape and dtype of the log-softmax.

    Raises
    ------
    TypeError, ValueError
        For a ``grad_output`` or ``out`` that does not fit.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 2.

    Examples
    --------
    >>> _, saved = crossentropy.autograd.log_softmax_forward(np.zeros((1, 4)))
    >>> crossentropy.autograd.log_softmax_backward(saved, [[0.0, 0.0, 0.0, -1.0]])  # what arrives from a loss: p - y
    array([[ 0.25,  0.25,  0.25, -0.75]])
    """
    if not isinstance(saved, SavedLogSoftmax):
        return registry.device_backend("saved").log_softmax_backward(saved, grad_output, out=out)
    backend, x, axis, statistics = saved
    g = _check.row_gradient(grad_output, x)
    to = _check.result(out, x, {"x": x, "grad_output": g}, may_be_x=False, name="x")
    if x.size:
        g_last, x_last, grad = (_check.classes_last(a, axis) for a in (g, x, to))
        backend.log_softmax_backward(g_last, x_last, statistics, grad)
    return to if out is None else out


def restored_log_softmax(statistics: ArrayLike, x: ArrayLike, axis: int = -1) -> SavedLogSoftmax:
    """The ``saved`` whose `numbers_of` has this for statistics, from the same logits as in `log_softmax_forward`.

    Parameters
    ----------
    statistics
        From `numbers_of`.
    x : array_like, shape (..., C, ...)
        The logits; what is not theirs gives wrong gradients.
    axis : int, default -1
        The class axis.

    Returns
    -------
    SavedLogSoftmax

    Raises
    ------
    TypeError, ValueError
        As `crossentropy.log_softmax`; and for statistics of another shape or dtype.

    Examples
    --------
    >>> x = np.zeros((1, 4))
    >>> _, saved = crossentropy.autograd.log_softmax_forward(x)
    >>> statistics, _ = crossentropy.autograd.numbers_of(saved)
    >>> again = crossentropy.autograd.restored_log_softmax(statistics, x)
    >>> crossentropy.autograd.log_softmax_backward(again, [[0.0, 0.0, 0.0, -1.0]])
    array([[ 0.25,  0.25,  0.25, -0.75]])
    """
    if _device.holds(x):
        return registry.device_backend("x").restored_log_softmax(statistics, x, axis)
    given, axis = _check.rows_of(_check.array(x, "x"), axis, "x")
    rows = _check.statistics(statistics, row_count(_check.classes_last(given, axis)), FIELDS)
    return SavedLogSoftmax(registry.current(), given, axis, rows)
