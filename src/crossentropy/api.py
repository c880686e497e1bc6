"""The public functions: check, choose a backend, allocate, call, reduce."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _device, _foreign, _memory
from ._backends import registry
from ._backends.contract import LogAndSign as LogAndSign
from ._options import LossOptions, is_plain, passed, takes_options
from ._reduction import as_scalar, divisor, gradient_array, loss_dtype, reduced, rounded, row_count, scaled


class LossAndGrad(NamedTuple):
    """A loss and its gradient on the logits."""

    loss: Any
    grad: np.ndarray


# ---------------------------------------------------------------------- row functions


def log_softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = -1, *, out: np.ndarray | None = None) -> Any:
    """Log of the softmax, z_c - logsumexp(z), with full relative accuracy where it is near 0.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits: float16, bfloat16, float32, float64, or integers (taken as float64); any strides and byte order.
    axis : int, tuple of int or None, default -1
        The class axis; or several, whose classes together are one row; None: all of them. A scalar is one class.
    out : ndarray, optional
        Where to put the result: x's shape and (native) dtype, writeable, sharing no memory with ``x`` but for ``x``
        itself (in place).

    Returns
    -------
    ndarray, or a scalar for a scalar
        Of x's shape and dtype, in nats, rounded once. Rows with a NaN or +inf, or with -inf alone, are NaN; without
        classes there is nothing, (3, 0) gives (3, 0).

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape, axis or ``out`` that does not fit (`numpy.exceptions.AxisError` for an axis that x lacks).

    Notes
    -----
    The softmax p~_c that the note leaves open (``docs/derivation.md``, section 1); within 1.5 ulp for float32, 2 for
    float64, 0.51 for 16-bit types. Several axes are read where they lie if one stride leads through all their classes,
    as in any contiguous array whose axes are neighbours; otherwise they are copied, and the result once more.

    A result of 4 MB and more, as those of the other functions, lies in memory that is kept for the next one when it is
    gone (`empty_cache`): it does not own that, and cannot be resized in place.

    Examples
    --------
    >>> crossentropy.log_softmax([[0.0, 0.0], [50.0, 0.0]])
    array([[-6.93147181e-01, -6.93147181e-01],
           [-1.92874985e-22, -5.00000000e+01]])
    """
    return _like_x("log_softmax", x, axis, out)


def softmax(x: ArrayLike, axis: int | tuple[int, ...] | None = -1, *, out: np.ndarray | None = None) -> Any:
    """Probabilities e^(z_c) / sum_k e^(z_k).

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `log_softmax`.
    axis, out
        As for `log_softmax`.

    Returns
    -------
    ndarray, or a scalar for a scalar
        Of x's shape and dtype, rounded once. Rows with a NaN or +inf, or with -inf alone, are NaN.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape, axis or ``out`` that does not fit.

    Notes
    -----
    The note's p~_c, whose derivation is section 1 of ``docs/derivation.md``.

    Examples
    --------
    >>> crossentropy.softmax([0.0, np.log(3)])
    array([0.25, 0.75])
    >>> crossentropy.softmax(np.zeros((2, 4, 3)), axis=1)[0, :, 0]
    array([0.25, 0.25, 0.25, 0.25])
    """
    return _like_x("softmax", x, axis, out)


def logsumexp(
    x: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
) -> Any:
    """Log of the sum of exponentials over the class axis, log sum_c b_c e^(x_c).

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        Logits, as for `log_softmax`.
    axis : int, tuple of int or None, default -1
        The class axis, or several, as for `log_softmax`.
    b : array_like, optional
        Weights of either sign, of a shape that broadcasts with x's: float16, bfloat16, float32, float64, or integers or
        booleans (taken as float64). Default: 1 throughout. Where a weight is 0 the logit does not count, whatever it
        is.
    keepdims : bool, default False
        Keep each of those axes with length 1.
    return_sign : bool, default False
        Return the log of the sum's absolute value and the sum's sign. Otherwise a negative sum gives NaN.

    Returns
    -------
    ndarray or scalar, or `LogAndSign` of two of them with ``return_sign``
        Of the rows' shape, in nats; float64 for x of float64 and integers, otherwise float32, whatever b is. Of -inf
        alone, of no class, or of a sum that is 0: -inf (and the sign 0); with a +inf: +inf; with a NaN: NaN.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or axis that does not fit.

    Notes
    -----
    The result is within the limits of `cross_entropy`, in ulp of the larger of its two terms, the largest logit and
    log(1 + R) (``docs/derivation.md``, section 1): they cancel where the logits are nearly log-probabilities already.

    With weights everything is computed in float64: no weight and no logit is too large or too small (1e300, 1e-300),
    and the result is within the contract, in ulp of the largest logit, unless terms of both signs cancel.

    As `scipy.special.logsumexp`, but for these. The default axis is -1 and not None. A float64 ``b`` does not make a
    float32 result float64. Where all classes have weight 0 the result is -inf, and SciPy's NaN if one of their logits
    is +inf or NaN; the sign over no classes is 0, and SciPy's -1: a sum of no terms is 0. An infinite weight on a logit
    so low that its exponential is 0 in float64 gives inf, and SciPy's is NaN. ``keepdims`` of a scalar gives a scalar,
    and not the shape (1,).

    On a device weights are floating and lie there too, and several axes must be as one in memory (nothing is copied).

    Examples
    --------
    >>> crossentropy.logsumexp([1.0, 2.0], b=[1, -1], return_sign=True)
    LogAndSign(log=np.float64(1.5413248546129181), sign=np.float64(-1.0))
    """
    if _device.holds(x):
        return registry.device_backend("x").logsumexp(x, axis, b=b, keepdims=keepdims, return_sign=return_sign)
    if b is None:
        given, axes = _check.logits(x, axis, "x")
        arrays = [given]
        if len(axes) == 1 and given.size and not return_sign:  # the usual call, in two thirds of the time
            last = _check.classes_last(given, axes[0])
            rows = _memory.empty_rows(row_count(last))
            registry.current().logsumexp(last, rows)
            result = rounded(rows.reshape(last.shape[:-1]), loss_dtype(last))
            result = np.expand_dims(result, axes) if keepdims else result[()]
            return result if type(x) is np.ndarray else _foreign.returned(result, x)
    else:
        given, weights, axes = _check.weighted(x, b, axis)
        arrays = [given, weights]
    rows = _memory.full(_check.kept_shape(given.shape, axes), -np.inf)
    sign = _memory.full(rows.shape, 0) if b is not None or return_sign else None
    more = [] if b is None or sign is None else [sign.reshape(-1)]
    if given.size:
        # Where no stride leads through the classes of several axes, a copy is what makes them one row.
        views = _check.one_class_axis(arrays, axes) or [_check.copied_rows(a, axes) for a in arrays]
        registry.current().logsumexp(views[0], rows.reshape(-1), *views[1:], *more)
    if b is None and sign is not None:
        sign[...] = np.where(np.isnan(rows), rows, rows > -np.inf)
    if sign is not None and not return_sign:
        rows[sign < 0] = np.nan
    shape, dtype = _check.kept_shape(given.shape, axes, bool(keepdims)), loss_dtype(given)
    found: Any = rounded(rows.reshape(shape), dtype)[()]
    if sign is not None and return_sign:
        found = LogAndSign(found, rounded(sign.reshape(shape), dtype)[()])
    return _foreign.returned(found, x)


def _like_x(name: str, x: ArrayLike, axis: int | tuple[int, ...] | None, out: np.ndarray | None) -> Any:
    if _device.holds(x):
        return getattr(registry.device_backend("x"), name)(x, axis, out=out)
    source = _check.array(x, "x")
    given, axes = _check.logits(source, axis, "x")
    to = _check.result(out, given, {"x": source}, name="x")
    if given.size:
        function = getattr(registry.current(), name)
        if views := _check.one_class_axis([given, to], axes):
            function(*views)
        else:  # no stride leads through the classes of these axes in both arrays
            rows = _check.copied_rows(given, axes)
            function(rows, rows)
            moved = _check.axes_last(to, axes)
            moved[...] = rows.reshape(moved.shape)
    if out is not None:
        return out
    found = to if to.ndim else to[()]
    return found if type(x) is np.ndarray else _foreign.returned(found, x)


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
        In nats; float64 for float64 and integer logits, otherwise float32. Where the logits are another library's
        array (a tensor on the CPU, JAX's, one of the array API standard), so is the result, of every function.

    Raises
    ------
    {raises}

    Notes
    -----
    Eq. 5 and 6 of the note for a row, the cost c(b) of its algorithm 1 for the mean. A row's loss is within 1.5 ulp
    of float32 (2 of float64), also where it is 1e-22.

    Examples
    --------
    >>> crossentropy.cross_entropy([[50.0, 0.0]], [0])
    np.float64(1.9287498479639178e-22)
    """
    left = passed("cross_entropy", options) if options else {}
    if (not left or is_plain(left)) and (light := registry.light()) and (found := light(logits, targets)):
        return as_scalar(found[0], loss_dtype(logits))
    if _device.holds(logits):
        return registry.device_backend().cross_entropy(logits, targets, **left)
    call = _check.loss(logits, targets, left)
    backend = registry.current()
    by = divisor(backend, call)
    rows = _memory.empty_rows(row_count(call.x))
    if rows.size:
        backend.forward(call.x, call.targets, call.options, rows, None)
    loss = reduced(backend, rows, call, by)
    return loss if type(logits) is np.ndarray else _foreign.returned(loss, logits)


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
        Named tuple (loss, grad): the loss in nats as `cross_entropy` returns it (not multiplied by ``grad_output``),
        the gradient of the shape and dtype of logits, rounded once.

    Raises
    ------
    {raises}

    Notes
    -----
    The gradient of a row is p - y for the plain loss (``docs/derivation.md``, section 3); it is within 3 ulp of float32
    (5 of float64), the entry of the target included.

    Examples
    --------
    >>> loss, grad = crossentropy.cross_entropy_and_grad([[0.0, 0.0], [0.0, 0.0]], [0, 1])
    >>> round(float(loss), 6)
    0.693147
    >>> grad
    array([[-0.25,  0.25],
           [ 0.25, -0.25]])
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

    Notes
    -----
    Derived in ``docs/derivation.md``, section 3; as exact as that of `cross_entropy_and_grad`.

    Examples
    --------
    >>> logits = np.zeros((2, 4), np.float32)
    >>> crossentropy.cross_entropy_grad(logits, [0, 3], reduction="sum", out=logits) is logits
    True
    >>> logits
    array([[-0.75,  0.25,  0.25,  0.25],
           [ 0.25,  0.25,  0.25, -0.75]], dtype=float32)
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
    rows = _memory.empty_rows(row_count(call.x))
    if by == 0:
        to[...] = 0
    elif rows.size:
        grad = _check.classes_last(to, call.axis)
        backend.forward_backward(call.x, call.targets, call.options, scaled(g, by), rows, grad)
    found = LossAndGrad(reduced(backend, rows, call, by), to if out is None else out)
    return found if type(logits) is np.ndarray else _foreign.returned(found, logits)
