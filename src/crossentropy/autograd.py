"""Forward and backward as a pair, for bindings to automatic differentiation.

Forward keeps three float64 numbers a row (the maximum, the sum of the other exponentials over it, and the mass of the
target); backward reads the logits again and recomputes the probabilities from these, so that no second array of their
size is kept. The logits and targets must not be changed in between.

    >>> loss, saved = crossentropy.autograd.forward(logits, targets, label_smoothing=0.1)
    >>> grad = crossentropy.autograd.backward(saved, grad_output=1.0)
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _device, api
from ._backends import registry
from ._backends.contract import Statistics
from ._options import LossOptions, integer, passed, takes_options
from ._reduction import divisor, gradient_array, reduced, row_count, scaled

FIELDS = len(Statistics._fields)

__all__ = ["backward", "forward", "log_softmax_backward", "log_softmax_forward", "numbers_of", "restored"]


class Saved(NamedTuple):
    """What `backward` needs of a `forward`; opaque."""

    backend: ModuleType
    call: _check.Loss
    divisor: float | None
    statistics: np.ndarray


class SavedLogSoftmax(NamedTuple):
    """What `log_softmax_backward` needs of a `log_softmax_forward`; opaque."""

    log_p: np.ndarray
    axis: int


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
    """
    if _device.holds(logits):
        return registry.device_backend().forward(logits, targets, **options)
    call = _check.loss(logits, targets, passed("forward", options))
    backend = registry.current()
    by = divisor(backend, call)
    n = row_count(call.x)
    rows, statistics = np.empty(n, np.float64), np.empty((n, FIELDS), np.float64)
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


def numbers_of(saved: Saved) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays that `forward` has made for `backward`, for frameworks that keep arrays: `restored` takes them back.

    Parameters
    ----------
    saved : Saved
        From `forward`.

    Returns
    -------
    statistics : ndarray, shape (N, 3)
        (max, rest, mass) of each row in float64; on a device real numbers, as the loss is.
    divisor : ndarray, shape (), or None
        What the losses' sum was divided by, where that had to be found out.

    Raises
    ------
    TypeError
        For what no `forward` has saved.
    """
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
    """
    if _device.holds(logits):
        return registry.device_backend().restored(statistics, divisor, logits, targets, **options)
    call = _check.loss(logits, targets, passed("restored", options))
    rows = _check.statistics(statistics, row_count(call.x), FIELDS)
    return Saved(registry.current(), call, None if divisor is None else float(divisor), rows)  # type: ignore[arg-type]


def log_softmax_forward(x: ArrayLike, axis: int = -1) -> tuple[np.ndarray, SavedLogSoftmax]:
    """The log-softmax, and what its backward needs.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `crossentropy.log_softmax`.
    axis : int, default -1
        The class axis.

    Returns
    -------
    log_p : ndarray
        Of x's shape and dtype, in nats.
    saved : SavedLogSoftmax
        Holds a reference to ``log_p``, which must not be changed before the backward.

    Raises
    ------
    TypeError, ValueError
        As `crossentropy.log_softmax`.
    """
    number = integer(axis, "axis")  # several axes, and scalars, are for the function alone
    log_p = api.log_softmax(x, number)
    if not log_p.shape:
        raise ValueError("x must have a class axis, got a scalar")
    return log_p, SavedLogSoftmax(log_p, number % len(log_p.shape))


def log_softmax_backward(
    saved: SavedLogSoftmax, grad_output: ArrayLike, *, out: np.ndarray | None = None
) -> np.ndarray:
    """The gradient on the logits: g_c - p_c sum_k g_k.

    Parameters
    ----------
    saved : SavedLogSoftmax
        From `log_softmax_forward`.
    grad_output : array_like
        The gradient that arrives at the log-softmax, of its shape; any strides, 0 included.
    out : ndarray, optional
        Where to put the result: of the shape and dtype of the log-softmax, sharing memory with neither argument.

    Returns
    -------
    ndarray
        Of the shape and dtype of the log-softmax.

    Raises
    ------
    TypeError, ValueError
        For a ``grad_output`` or ``out`` that does not fit.
    """
    log_p, axis = saved
    if _device.holds(log_p):
        return registry.device_backend("saved").log_softmax_backward(saved, grad_output, out=out)
    g = _check.row_gradient(grad_output, log_p)
    to = _check.result(out, log_p, {"the log-softmax": log_p, "grad_output": g}, may_be_x=False)
    if log_p.size:
        last = (_check.classes_last(a, axis) for a in (g, log_p, to))
        registry.current().log_softmax_backward(*last)
    return to if out is None else out
