"""The public functions: check, choose a backend, allocate, call, reduce."""

from __future__ import annotations

from math import nan
from typing import NamedTuple

import numpy as np

from . import _check, _device, _settings
from ._backends import registry

# The defaults, by which a call without options is known at once: it is the same object.
LAST, ZERO, ONE, MEAN = -1, 0.0, 1.0, "mean"

_OPTIONS = """axis : int, default -1
        The class axis of ``logits``. Its other axes are the rows; no transposed copy is made.
    class_weight : array_like, shape (C,), optional
        w_c >= 0, finite.
    sample_weight : array_like of the rows' shape, optional
        v_n >= 0, finite. A row of weight 0 does not count, whatever it holds: its loss and gradient are 0.
    ignore_index : int, optional
        Rows with this target do not count, whatever they hold: loss and gradient 0. Index targets only.
    label_smoothing : float in [0, 1], default 0
        epsilon: targets become (1 - epsilon) of themselves plus epsilon / C.
    z_loss : float >= 0, default 0
        lambda: adds lambda logsumexp(z)^2 to each row.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides the sum by sum_n v_n w_{y_n} over the rows that are not ignored (index targets), or by sum_n v_n
        (probability targets).
    normalizer : float > 0, optional
        Divisor in place of that one, for gradient accumulation or data parallelism; with 'mean' only.
    empty : float, default nan
        The mean over no row (all ignored, or the weights sum to 0); the gradient is 0 then."""

_RAISES = """TypeError
        logits or targets of a dtype that is not supported; masked arrays and matrices; index targets given as floats.
    ValueError
        Shapes that don't fit; no classes; weights, smoothing, z_loss, normalizer, reduction or out outside their rules.
    IndexError
        A target outside [0, C) that is not ignored: the first, with its value."""


def _documented(function):
    if function.__doc__:  # python -OO has none
        function.__doc__ = function.__doc__.replace("{options}", _OPTIONS).replace("{raises}", _RAISES)
    return function


class LossAndGrad(NamedTuple):
    """A loss and its gradient on the logits."""

    loss: np.generic | np.ndarray
    grad: np.ndarray


# ---------------------------------------------------------------------- row functions


def log_softmax(x, axis=-1, *, out=None):
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


def softmax(x, axis=-1, *, out=None):
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


def logsumexp(x, axis=-1, *, keepdims=False):
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
    rows = np.empty(_row_count(last), np.float64)
    if rows.size:
        registry.current().logsumexp(last, rows)
    result = _rounded(rows.reshape(last.shape[:-1]), _loss_dtype(last))
    return np.expand_dims(result, axis) if keepdims else result[()]


def _like_x(name, x, axis, out):
    if _device.holds(x):
        return getattr(registry.device_backend("x"), name)(x, axis, out=out)
    source = _check.array(x, "x")
    given, axis = _check.logits(source, axis, "x")
    to = _check.result(out, given, {"x": source}, name="x")
    if given.size:
        getattr(registry.current(), name)(_check.classes_last(given, axis), _check.classes_last(to, axis))
    return to if out is None else out


# ---------------------------------------------------------------------- the loss


@_documented
def cross_entropy(
    logits,
    targets,
    *,
    axis=LAST,
    class_weight=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=ZERO,
    z_loss=ZERO,
    reduction=MEAN,
    normalizer=None,
    empty=nan,
):
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
    if class_weight is sample_weight is normalizer is None and label_smoothing is z_loss is ZERO:
        short = axis is LAST and reduction is MEAN and empty is nan and _no_class(ignore_index) and registry.light()
        if short and (loss := short(logits, targets)):
            return _mean(loss[0], _loss_dtype(logits))
    if _device.holds(logits):
        return registry.device_backend().cross_entropy(
            logits,
            targets,
            axis=axis,
            class_weight=class_weight,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            reduction=reduction,
            normalizer=normalizer,
            empty=empty,
        )
    call = _check.loss(
        logits,
        targets,
        axis,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        normalizer,
        empty,
    )
    backend = registry.current()
    by = _divisor(backend, call)
    rows = np.empty(_row_count(call.x), np.float64)
    if rows.size:
        backend.forward(call.x, call.targets, call.options, rows, None)
    return _reduced(backend, rows, call, by)


@_documented
def cross_entropy_and_grad(
    logits,
    targets,
    *,
    axis=LAST,
    class_weight=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=ZERO,
    z_loss=ZERO,
    reduction=MEAN,
    normalizer=None,
    empty=nan,
    grad_output=ONE,
    out=None,
):
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
    if class_weight is sample_weight is normalizer is None and label_smoothing is z_loss is ZERO:
        short = axis is LAST and reduction is MEAN and empty is nan and grad_output is ONE and _no_class(ignore_index)
        short = short and registry.light()
        if short and (found := short(logits, targets, True, out)):
            return LossAndGrad(_mean(found[0], _loss_dtype(logits)), found[1])
    if _device.holds(logits):
        both = registry.device_backend().cross_entropy_and_grad(
            logits,
            targets,
            axis=axis,
            class_weight=class_weight,
            sample_weight=sample_weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            reduction=reduction,
            normalizer=normalizer,
            empty=empty,
            grad_output=grad_output,
            out=out,
        )
        return LossAndGrad(*both)
    call = _check.loss(
        logits,
        targets,
        axis,
        class_weight,
        sample_weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        normalizer,
        empty,
    )
    return _loss_and_grad(call, grad_output, out)


@_documented
def cross_entropy_grad(
    logits,
    targets,
    *,
    axis=LAST,
    class_weight=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=ZERO,
    z_loss=ZERO,
    reduction=MEAN,
    normalizer=None,
    empty=nan,
    grad_output=ONE,
    out=None,
):
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
    return cross_entropy_and_grad(
        logits,
        targets,
        axis=axis,
        class_weight=class_weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        reduction=reduction,
        normalizer=normalizer,
        empty=empty,
        grad_output=grad_output,
        out=out,
    ).grad


def _loss_and_grad(call, grad_output, out):
    g = _check.grad_output(grad_output, call)
    backend = registry.current()
    by = _divisor(backend, call)
    to = gradient_array(call, out, grad_output)
    rows = np.empty(_row_count(call.x), np.float64)
    if by == 0:
        to[...] = 0
    elif rows.size:
        grad = _check.classes_last(to, call.axis)
        backend.forward_backward(call.x, call.targets, call.options, scaled(g, by), rows, grad)
    return LossAndGrad(_reduced(backend, rows, call, by), to if out is None else out)


# ---------------------------------------------------------------------- steps that the functions share


def _no_class(ignore_index):
    """Whether it ignores nothing where every target is a class: the short way is for such targets alone."""
    return ignore_index is None or (type(ignore_index) is int and ignore_index < 0)


def gradient_array(call, out, grad_output):
    """The array that the gradient goes to, in the shape of the logits."""
    x = np.moveaxis(call.x, -1, call.axis)
    if out is None:
        return _check.result(None, x, {})
    g = grad_output if isinstance(grad_output, np.ndarray) else None
    return _check.result(out, x, call.sources | {"grad_output": g})


def scaled(g, by):
    """grad_output over the divisor, as backends take it."""
    return g if by is None else g / by


def _row_count(x):
    return x.size // x.shape[-1] if x.shape[-1] else 0


def _loss_dtype(x):
    return np.float64 if x.itemsize == 8 else np.float32


def _divisor(backend, call):
    """What 'mean' divides by, None for the other reductions; raises for a bad target."""
    options, mean = call.options, call.reduction == "mean" and call.normalizer is None
    if options.probabilities:
        v = options.sample_weight
        by = float(_row_count(call.x) if v is None else v.sum())
    else:
        classes = call.x.shape[-1]
        first_bad, by = backend.scan_targets(
            call.targets, classes, options.ignore_index, options.class_weight, options.sample_weight
        )
        if first_bad >= 0:
            if _settings.checks_targets():
                raise _check.bad_target(call.targets, first_bad, call.rows_shape, classes)
            by = by or 1.0  # the bad rows count, as NaN: this is not the mean over no row
    return by if mean else call.normalizer


def _rounded(values, dtype):
    """Rounded once; a loss beyond float32 is inf, as it would be in any float32 arithmetic."""
    if dtype is np.float64:
        return values
    with np.errstate(over="ignore", under="ignore"):
        return values.astype(dtype)


def _reduced(backend, rows, call, by):
    """The rows' losses, float64, reduced in a fixed order."""
    dtype = _loss_dtype(call.x)
    if call.reduction == "none":
        return _rounded(rows.reshape(call.rows_shape), dtype)
    if by == 0:
        return dtype(call.empty)
    total = backend.total(rows)
    return _mean(total if by is None else total / by, dtype)


def _mean(value, dtype):
    if dtype is np.float32 and not 2e-38 < abs(value) < 3e38:  # where NumPy would warn
        return _rounded(np.array(value), dtype)[()]
    return dtype(value)
