"""The public functions: check, choose a backend, allocate, call, reduce."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _device
from ._backends import registry
from ._options import LossOptions, is_plain, passed, takes_options
from ._reduction import as_scalar, divisor, gradient_array, loss_dtype, reduced, rounded, row_count, scaled


class LossAndGrad(NamedTuple):
    """A loss and its gradient on the logits."""

    loss: Any
    grad: np.ndarray


# ---------------------------------------------------------------------- row functions


def log_softmax(x: ArrayLike, axis: int = -1, *, out: np.ndarray | None = None) -> np.ndarray:
    """Log of the softmax, z_c - logsumexp(z), with full relative accuracy where it is near 0.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits: float16, bfloat16, float32, float64, or integers (taken as float64); any strides and byte order.
    axis : int, default -1
        The class axis.
    out : ndarray, optional
        Where to put the result: x's shape and (native) dtype, writeable, sharing no memory with ``x`` but for ``x``
        itself (in place).

    Returns
    -------
    ndarray
        Of x's shape and dtype, in nats, rounded once. Rows with a NaN or +inf, or with -inf alone, are NaN.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or ``out`` that does not fit.

    Notes
    -----
    The softmax p~_c that the note leaves open (``docs/derivation.md``, section 1); within 2 ulp for float32, 4 for
    float64, 0.51 for 16-bit types.
    """
    return _like_x("log_softmax", x, axis, out)


def softmax(x: ArrayLike, axis: int = -1, *, out: np.ndarray | None = None) -> np.ndarray:
    """Probabilities e^(z_c) / sum_k e^(z_k).

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `log_softmax`.
    axis : int, default -1
        The class axis.
    out : ndarray, optional
        As for `log_softmax`.

    Returns
    -------
    ndarray
        Of x's shape and dtype, rounded once. Rows with a NaN or +inf, or with -inf alone, are NaN.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or ``out`` that does not fit.
    """
    return _like_x("softmax", x, axis, out)


def logsumexp(x: ArrayLike, axis: int = -1, *, keepdims: bool = False) -> Any:
    """Log of the sum of exponentials over the class axis.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `log_softmax`.
    axis : int, default -1
        The class axis.
    keepdims : bool, default False
        Keep that axis with length 1.

    Returns
    -------
    ndarray or scalar
        Of the rows' shape, in nats; float64 for float64 and integers, otherwise float32.

    Raises
    ------
    TypeError, ValueError
        For a dtype or shape that does not fit.
    """
    if _device.holds(x):
        return registry.device_backend("x").logsumexp(x, axis, keepdims=keepdims)
    given, axis = _check.logits(x, axis, "x")
    last = _check.classes_last(given, axis)
    rows = np.empty(row_count(last), np.float64)
    if rows.size:
        registry.current().logsumexp(last, rows)
    result = rounded(rows.reshape(last.shape[:-1]), loss_dtype(last))
    return np.expand_dims(result, axis) if keepdims else result[()]


def _like_x(name: str, x: ArrayLike, axis: int, out: np.ndarray | None) -> np.ndarray:
    if _device.holds(x):
        return getattr(registry.device_backend("x"), name)(x, axis, out=out)
    source = _check.array(x, "x")
    given, axis = _check.logits(source, axis, "x")
    to = _check.result(out, given, {"x": source}, name="x")
    if given.size:
        getattr(registry.current(), name)(_check.classes_last(given, axis), _check.classes_last(to, axis))
    return to if out is None else out


# ---------------------------------------------------------------------- the loss


@takes_options
def cross_entropy(logits: ArrayLike, targets: ArrayLike, **options: Unpack[LossOptions]) -> Any:
    """Cross-entropy of targets against the softmax of logits: -log p_y of each row, reduced.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        float16, bfloat16, float32, float64, or integers (taken as float64); any strides and byte order. One axis is a
        single row. Or an array on a CUDA device (PyTorch, CuPy, Numba, or anything with ``__cuda_array_interface__`` or
        DLPack) of one of the four floating dtypes; all other arrays must be there too, and the results are.
    targets : array_like
        Classes: any integer dtype, of the rows' shape (logits without the class axis). Or probabilities: floating, of
        the shape of logits; they need not sum to 1.
    {options}

    Returns
    -------
    scalar, or ndarray of the rows' shape with ``reduction='none'``
        In nats; float64 for float64 and integer logits, otherwise float32.

    Raises
    ------
    {raises}

    Notes
    -----
    Eq. 5 and 6 of the note for a row, the cost c(b) of its algorithm 1 for the mean. A row's loss is within 2 ulp of
    float32 (4 of float64), also where it is 1e-22.

    Examples
    --------
    >>> crossentropy.cross_entropy([[50.0, 0.0]], [0])
    np.float64(1.928749847963918e-22)
    """
    left = passed("cross_entropy", options) if options else {}
    if (not left or is_plain(left)) and (light := registry.light()) and (found := light(logits, targets)):
        return as_scalar(found[0], loss_dtype(logits))
    if _device.holds(logits):
        return registry.device_backend().cross_entropy(logits, targets, **left)
    call = _check.loss(logits, targets, left)
    backend = registry.current()
    by = divisor(backend, call)
    rows = np.empty(row_count(call.x), np.float64)
    if rows.size:
        backend.forward(call.x, call.targets, call.options, rows, None)
    return reduced(backend, rows, call, by)


@takes_options
def cross_entropy_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    grad_output: ArrayLike = 1.0,
    out: np.ndarray | None = None,
    **options: Unpack[LossOptions],
) -> LossAndGrad:
    """The loss, and the gradient of the loss on the logits, at once.

    Parameters
    ----------
    logits, targets : array_like
        As for `cross_entropy`.
    {options}
    grad_output : float, or array_like of the rows' shape with ``reduction='none'``; default 1
        The gradient that arrives at the loss (back-propagation).
    out : ndarray, optional
        Where to put the gradient: of the shape and (native) dtype of logits, writeable, sharing no memory with an input
        but for ``logits`` itself, which the gradient then overwrites.

    Returns
    -------
    LossAndGrad
        Named tuple (loss, grad): the loss as `cross_entropy` returns it (not multiplied by ``grad_output``), the
        gradient of the shape and dtype of logits, rounded once.

    Raises
    ------
    {raises}

    Notes
    -----
    The gradient of a row is p - y for the plain loss (``docs/derivation.md``, section 3); it is within 4 ulp of float32
    (8 of float64), the entry of the target included.
    """
    return _loss_and_grad("cross_entropy_and_grad", logits, targets, grad_output, out, options)


@takes_options
def cross_entropy_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    grad_output: ArrayLike = 1.0,
    out: np.ndarray | None = None,
    **options: Unpack[LossOptions],
) -> np.ndarray:
    """The gradient of the loss on the logits.

    Parameters
    ----------
    logits, targets : array_like
        As for `cross_entropy`.
    {options}
    grad_output, out
        As for `cross_entropy_and_grad`.

    Returns
    -------
    ndarray
        Of the shape and dtype of logits.

    Raises
    ------
    {raises}
    """
    return _loss_and_grad("cross_entropy_grad", logits, targets, grad_output, out, options).grad


def _loss_and_grad(
    name: str,
    logits: ArrayLike,
    targets: ArrayLike,
    grad_output: ArrayLike,
    out: np.ndarray | None,
    options: LossOptions,
) -> LossAndGrad:
    """Loss and gradient, for the public function of that name."""
    left = passed(name, options, ("grad_output", "out")) if options else {}
    plain = (not left or is_plain(left)) and type(grad_output) is float and grad_output == 1.0
    if plain and (light := registry.light()) and (found := light(logits, targets, True, out)):
        return LossAndGrad(as_scalar(found[0], loss_dtype(logits)), found[1])
    if _device.holds(logits):
        of_device = registry.device_backend().cross_entropy_and_grad
        return LossAndGrad(*of_device(logits, targets, grad_output=grad_output, out=out, **left))
    call = _check.loss(logits, targets, left)
    g = _check.grad_output(grad_output, call)
    backend = registry.current()
    by = divisor(backend, call)
    to = gradient_array(call, out, grad_output)
    rows = np.empty(row_count(call.x), np.float64)
    if by == 0:
        to[...] = 0
    elif rows.size:
        grad = _check.classes_last(to, call.axis)
        backend.forward_backward(call.x, call.targets, call.options, scaled(g, by), rows, grad)
    return LossAndGrad(reduced(backend, rows, call, by), to if out is None else out)
