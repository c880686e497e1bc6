"""Losses of one logit each: the binary cross-entropy with logits and the focal loss of a sigmoid, with their gradients.

Of many labels at once, of detectors, of classifiers of two classes with one column.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays, _check, _device, _memory, _settings
from ._backends import registry
from ._options import DEFAULTS, real, reduction_of
from ._reduction import as_scalar, loss_dtype
from .api import LossAndGrad

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_and_grad",
]

# Numbers that a thread takes at a time, and a multiple of which weights repeat after.
_AT_ONCE = 1 << 14


# The parameters, each described once.
_PARAMETERS = {
    "logits": """logits : array_like
        Of any shape and layout; float32, float64, float16, bfloat16, or integers, which become float64. Or an array on
        a CUDA device: then all other arrays must be there too, floating targets of its dtype, and the results are.
    targets : array_like
        Of the same shape: probabilities t in [0, 1] (which is not looked at, as with those of `cross_entropy`), or
        booleans or integers, 0 and 1.""",
    "weight": """weight : array_like, optional
        Finite numbers, of a shape that broadcasts to that of the logits: a factor of each loss, rounded to the loss's
        dtype. Where it is 0 the loss is 0, whatever the logit is.""",
    "pos_weight": """pos_weight : array_like, optional
        Likewise, a factor of t alone: above 1 it makes positives count more.""",
    "reduction": """reduction : {'mean', 'sum', 'none'}
        'mean' divides by the number of logits, whatever their weights are, as PyTorch does.""",
    "focal": """alpha : float in [0, 1], optional
        Positives count alpha, negatives 1 - alpha; None for 1 each. Soft targets count in between.
    gamma : float >= 0, default 2
        1 - p_t is t sigma(-z) + (1 - t) sigma(z), the probability that the target has not; 0 leaves the cross-entropy
        alone.""",
    "arriving": """grad_output : float, or array_like of the shape of the logits with ``reduction='none'``; default 1
        The gradient that arrives at the loss (back-propagation).
    out : ndarray, optional
        Where to put the gradient: of the shape and (native) dtype of logits, writeable, sharing no memory with an input
        but for ``logits`` itself, which the gradient then overwrites.""",
}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _documented(function: _Function) -> _Function:
    """A public function, whose docstring shows its parameters."""
    if function.__doc__:  # python -OO has none
        for name, text in _PARAMETERS.items():
            function.__doc__ = function.__doc__.replace("{" + name + "}", text)
    return function


@_documented
def binary_cross_entropy_with_logits(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    """The cross-entropy of (1 - t, t) and (1 - sigma(z), sigma(z)), for each logit z and its target t.

    Parameters
    ----------
    {logits}
    {weight}
    {pos_weight}
    {reduction}

    Returns
    -------
    float or ndarray
        In nats: a scalar, or with 'none' of the shape of the logits; float64 for float64 and integer logits, otherwise
        float32. NaN for a NaN. The mean over nothing is NaN.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or option that does not fit. (On a device a bad integer target gives NaN, see `config`.)

    Notes
    -----
    w (r t softplus(-z) + (1 - t) softplus(z)), with softplus(z) = max(z, 0) + log1p(e^-|z|): within 2 ulp of float32
    and of float64, however small (``docs/derivation.md``, section 7); soft targets and weights round once more each.

    Examples
    --------
    >>> crossentropy.binary_cross_entropy_with_logits([50.0, -2.0, 0.5], [True, False, True], reduction="none")
    array([1.92874985e-22, 1.26928011e-01, 4.74076984e-01])
    """
    return losses(called(logits, targets, weight, pos_weight, reduction, None, 0.0))


@_documented
def binary_cross_entropy_with_logits_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    pos_weight: ArrayLike | None = None,
    reduction: str = "mean",
    grad_output: ArrayLike = 1.0,
    out: np.ndarray | None = None,
) -> LossAndGrad:
    """That loss, and its gradient on the logits, at once.

    Parameters
    ----------
    {logits}
    {weight}
    {pos_weight}
    {reduction}
    {arriving}

    Returns
    -------
    LossAndGrad
        Named tuple (loss, grad): the loss in nats as `binary_cross_entropy_with_logits` returns it, and the gradient w
        ((1 - t) sigma(z) - r t sigma(-z)), of the shape and dtype of the logits, within 3 ulp, of 16 bits rounded once.

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy_with_logits`; for a ``grad_output`` or ``out`` that does not fit.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 7.

    Examples
    --------
    >>> crossentropy.binary_cross_entropy_with_logits_and_grad([0.0, 0.0], [1, 0])
    LossAndGrad(loss=np.float64(0.6931471805599453), grad=array([-0.25,  0.25]))
    """
    return with_gradient(called(logits, targets, weight, pos_weight, reduction, None, 0.0), grad_output, out)


@_documented
def sigmoid_focal_loss(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
) -> Any:
    """The focal loss of detectors: the binary cross-entropy times (1 - p_t)^gamma, which lets easy cases count less.

    Parameters
    ----------
    {logits}
    {focal}
    {weight}
    {reduction}

    Returns
    -------
    float or ndarray
        In nats, as of `binary_cross_entropy_with_logits`; of float32 within 4 ulp, of float64 within 16 and 24.

    Raises
    ------
    TypeError, ValueError
        As `binary_cross_entropy_with_logits`; for an alpha or gamma out of its range.

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár: Focal loss for dense object detection, ICCV 2017.

    Examples
    --------
    >>> crossentropy.sigmoid_focal_loss([3.0, 0.0], [1, 1], reduction="none")
    array([2.73208311e-05, 4.33216988e-02])
    """
    return losses(called(logits, targets, weight, None, reduction, alpha, gamma))


@_documented
def sigmoid_focal_loss_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    grad_output: ArrayLike = 1.0,
    out: np.ndarray | None = None,
) -> LossAndGrad:
    """That loss, and its gradient on the logits, at once.

    Parameters
    ----------
    {logits}
    {focal}
    {weight}
    {reduction}
    {arriving}

    Returns
    -------
    LossAndGrad
        The loss in nats as `sigmoid_focal_loss` returns it, and its gradient, of the shape and dtype of the logits.

    Raises
    ------
    TypeError, ValueError
        As `sigmoid_focal_loss`; for a ``grad_output`` or ``out`` that does not fit.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 7.

    Examples
    --------
    >>> crossentropy.sigmoid_focal_loss_and_grad([0.0], [1], alpha=None)
    LossAndGrad(loss=np.float64(0.17328679513998632), grad=array([-0.2982868]))
    """
    return with_gradient(called(logits, targets, weight, None, reduction, alpha, gamma), grad_output, out)


# ---------------------------------------------------------------------- the call


class _Call(NamedTuple):
    """A checked call: the logits as given, and what a backend takes, flat, in C order."""

    x: np.ndarray
    z: np.ndarray
    targets: np.ndarray
    weight: float | np.ndarray
    pos_weight: float | np.ndarray
    alpha: float
    gamma: float
    reduction: str
    at_once: int
    sources: dict[str, np.ndarray]


class _There(NamedTuple):
    """A call whose arrays lie on a device, of checked numbers."""

    logits: Any
    targets: Any
    weight: Any
    pos_weight: Any
    alpha: float
    gamma: float
    reduction: str

    def computed(self, wants_grad: bool, grad_output: Any = 1.0, out: Any = None) -> LossAndGrad:
        """The losses as the reduction has them, and their gradient or None."""
        backend: Any = registry.device_backend()
        return LossAndGrad(*backend.binary(*self, wants_grad, grad_output, out))


def called(
    logits: ArrayLike,
    targets: ArrayLike,
    weight: ArrayLike | None,
    pos_weight: ArrayLike | None,
    reduction: str,
    alpha: float | None,
    gamma: float,
) -> _Call | _There:
    """The call of a loss, checked; an alpha of None is none."""
    alpha = -1.0 if alpha is None else real(alpha, "alpha")
    if not (alpha == -1 or 0 <= alpha <= 1):
        raise ValueError(f"alpha must be in [0, 1], or None, got {alpha}")
    gamma = real(gamma, "gamma")
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and not negative, got {gamma}")
    if reduction != DEFAULTS["reduction"]:
        reduction, *_ = reduction_of({"reduction": reduction})
    if _device.holds(logits):
        return _There(logits, targets, weight, pos_weight, alpha, gamma, reduction)
    sources = {"logits": _check.array(logits, "logits"), "targets": _check.array(targets, "targets")}
    x, _ = _check.floats(sources["logits"], "logits")
    if sources["targets"].shape != x.shape:
        raise ValueError(f"targets must have the shape of logits, {x.shape}, got {sources['targets'].shape}")
    z, t = _flat(x, x.dtype), _targets(sources["targets"], x.dtype)
    lanes = np.dtype(loss_dtype(x))
    w, of_weight = _weights(weight, "weight", x.shape, lanes)
    r, of_positives = _weights(pos_weight, "pos_weight", x.shape, lanes)
    periods = {period for period in (of_weight, of_positives) if period}
    if len(periods) > 1:  # one of them must give way
        r, of_positives = np.resize(np.asarray(r)[:of_positives], z.size), 0
        periods = {of_weight}
    return _Call(x, z, t, w, r, alpha, gamma, reduction, max(periods, default=_AT_ONCE), sources)


def _flat(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Of that dtype, contiguous, in native byte order."""
    native = dtype.newbyteorder("=")
    if x.dtype == native and x.flags.c_contiguous and x.flags.aligned:
        return x.reshape(-1)
    return np.require(x, native, ["C", "A"]).reshape(-1)


def _targets(t: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Flat, of the logits' dtype, or bytes or int64 that are 0 or 1."""
    if t.dtype.kind == "b":
        return _flat(t, t.dtype).view(np.uint8)
    if t.dtype.kind not in "iu":
        _check.require_float(_arrays.on_host(t), "targets")
        return _flat(t, dtype)
    # Seen as unsigned, a negative number is a large one: one read tells.
    if _settings.checks_targets() and t.size and t.view(t.dtype.str.replace("i", "u")).max() > 1:
        first = int(np.argmax((t < 0) | (t > 1)))
        where = _check.at("targets", _check.index_of(first, t.shape))
        raise ValueError(f"integer targets must be 0 or 1, got {where} = {t.reshape(-1)[first]}")
    return _flat(t.view(np.uint8), np.dtype(np.uint8)) if t.itemsize == 1 else _flat(t, np.dtype(np.int64))


def _weights(value: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[Any, int]:
    """A number for all logits, or numbers in their order and 0; or (numbers, their count) that are to be repeated."""
    if value is None:
        return 1.0, 0
    given = _check.array(value, name)
    if given.dtype.kind == "b":
        given = given.astype(np.float64)
    w, _ = _check.floats(given, name)
    try:
        np.broadcast_to(w, shape)
    except ValueError:
        told = f"{name} must have a shape that broadcasts to that of logits, {shape}, got {w.shape}"
        raise ValueError(told) from None
    bad = ~np.isfinite(w)
    if bad.any():
        first = int(bad.argmax())
        raise ValueError(f"{name} must be finite, got {_check.at(name, _check.index_of(first, w.shape))} = {w[bad][0]}")
    if w.size == 1:
        return float(w.reshape(-1)[0]), 0
    while w.ndim and w.shape[0] == 1:
        w = w[0]
    if 0 < w.size < math.prod(shape) and w.shape == shape[len(shape) - w.ndim :]:
        repeats = -(-_AT_ONCE // w.size)
        return np.tile(_flat(w, dtype), repeats), w.size * repeats
    return _flat(np.broadcast_to(w, shape), dtype), 0


def _run(call: _Call, grad_output: float | np.ndarray, grad: np.ndarray | None) -> Any:
    """The losses as the call's reduction has them."""
    dtype = loss_dtype(call.x)
    loss = _memory.empty((call.z.size,), np.dtype(dtype)) if call.reduction == "none" else None
    sums = np.empty(-(-call.z.size // call.at_once))
    backend = registry.current()
    if call.z.size:
        backend.binary(
            *(call.z, call.targets, call.weight, call.pos_weight, call.alpha, call.gamma),
            *(grad_output, call.at_once, sums, loss, grad),
        )
    if loss is not None:
        return loss.reshape(call.x.shape)[()]
    total = float(backend.total(sums))
    if call.reduction == "mean":
        total = total / call.z.size if call.z.size else math.nan
    return as_scalar(total, dtype)


def losses(call: _Call | _There) -> Any:
    """The losses alone."""
    return call.computed(False).loss if isinstance(call, _There) else _run(call, 1.0, None)


def with_gradient(call: _Call | _There, grad_output: Any, out: Any) -> LossAndGrad:
    """These, and their gradient times what arrives."""
    if isinstance(call, _There):
        return call.computed(True, grad_output, out)
    inputs = dict(call.sources)
    if isinstance(grad_output, (int, float)):
        g: float | np.ndarray = real(grad_output, "grad_output")
    else:
        inputs["grad_output"] = given = _check.array(grad_output, "grad_output")
        lies = _arrays.on_host(_check.floats(given, "grad_output")[0])
        _check.require_grad_output(lies, call.reduction, call.x.shape)
        g = _flat(given, np.dtype(loss_dtype(call.x))) if given.ndim else float(given)
    if call.reduction == "mean" and call.z.size:
        g = g / call.z.size
    to = _check.result(out, call.x, inputs)
    native = to.dtype.newbyteorder("=")  # logits that are overwritten may be of the other order
    plain = to.flags.c_contiguous and to.flags.aligned and to.dtype == native
    grad = to.reshape(-1) if plain else np.empty(to.size, native)
    loss = _run(call, g, grad)
    if not plain:
        to[...] = grad.reshape(to.shape)
    return LossAndGrad(loss, to if out is None else out)
