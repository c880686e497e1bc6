"""JAX's losses by this package's kernels, under optax's names: for jit, vmap and grad, on the CPU.

    >>> from crossentropy.jax import softmax_cross_entropy_with_integer_labels, softmax_cross_entropy, log_softmax

They take what the functions of these names in `optax` and `jax.nn` take, and return what those return, more accurately.
XLA calls the kernels by its foreign function interface, without Python. On other platforms than the CPU, and where the
native backend is not in force, the same formulas are JAX's operations. docs/howto/jax.md says what it takes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import warnings
from typing import Any

try:
    import jax
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: crossentropy.jax needs it; pip install 'crossentropy[jax]'") from None
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._backends import registry

__all__ = ["log_softmax", "softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels"]

STATISTICS = 24  # bytes of a row that log_softmax keeps for its gradient: float64, which JAX has not by default


@dataclasses.dataclass(frozen=True)  # a named tuple would be a tree to JAX, whose leaves it traces
class _How:
    """What a call has beside its arrays: a part of what XLA's programs are kept by."""

    axis: int  # of the classes, from the end: leading axes may be added (vmap)
    isa: int  # its place among the native backend's; -1: the formulas are JAX's operations
    threads: int
    serial_below: int  # elements, on one thread

    def attributes(self) -> dict[str, np.int64]:
        """As XLA hands them to the kernels."""
        return {name: np.int64(value) for name, value in dataclasses.asdict(self).items()}


# ---------------------------------------------------------------------- the public functions


def softmax_cross_entropy_with_integer_labels(
    logits: Any, labels: Any, axis: int | tuple[int, ...] = -1, where: Any = None, *, dtype: Any = None
) -> jax.Array:
    """Cross-entropy of classes against the softmax of logits, -log p_y of each row, as optax's function.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        float16, bfloat16, float32 or float64.
    labels : array_like of integers, of the shape of logits without the class axis
        Classes. A label that is none makes its row's loss and gradient NaN: under jit nothing can be raised. (optax
        counts -1 from the end.)
    axis : int or tuple of int, default -1
        The class axis; of several a label is the flat index.
    where : array_like of bool, optional
        Of the rows' shape: the rows that count; the others' loss is 0, whatever their labels. Or one that broadcasts to
        the shape of logits: the classes that count; the loss of a label that does not is inf.
    dtype : dtype, optional
        Of the losses, float32 or float64; default: that of the logits, as in optax. float32 keeps the losses of 16-bit
        logits as they were computed. Not in optax.

    Returns
    -------
    jax.Array
        Of the rows' shape, in nats.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or axis that does not fit.

    Notes
    -----
    ``value_and_grad`` of a mean takes one pass over the logits under jit, also of one over the rows of ``where``:
    forward makes the gradient of that mean, and backward is done if that is what arrives, and otherwise computes the
    gradient from the logits again. The derivative of the loss is reverse-mode; what is taken of that gradient
    (`jax.hessian`, ``jvp`` of ``grad``) is computed by JAX's operations. Settings of `crossentropy.config` count when a
    function is traced.

    Examples
    --------
    >>> logits = np.array([[50.0, 0.0], [0.0, 0.0]], np.float32)
    >>> crossentropy.jax.softmax_cross_entropy_with_integer_labels(logits, np.array([0, 1])).tolist()
    [1.9287498933537385e-22, 0.6931471824645996]
    """
    x = _floating(logits, "logits")
    t = jnp.asarray(labels)
    if not jnp.issubdtype(t.dtype, jnp.integer):
        raise TypeError(f"labels must be integers, got {t.dtype}")
    if isinstance(t, jax.core.Tracer):
        t = jnp.where(t < 0, -1, t)  # under vmap it may be NumPy's int64, at which JAX stops once it is compiled
    axes = _axes(x, axis)
    mask, counts = _mask(where, x, axes)
    x, rows, at = _one_axis(x, axes)
    if t.shape != rows:
        raise ValueError(f"labels must have the shape of logits without the class axis, {rows}, got {t.shape}")
    if mask is not None:
        x = jnp.where(mask, x, -jnp.inf)
    if counts is not None:
        t = jnp.where(counts, t, 0)
    return _result(_loss(_how(at), x, t, _scale(x, rows, counts)), counts, dtype or x.dtype)


def softmax_cross_entropy(
    logits: Any, labels: Any, axis: int | tuple[int, ...] | None = -1, where: Any = None, *, dtype: Any = None
) -> jax.Array:
    """Cross-entropy of probabilities against the softmax of logits, -sum_c q_c log p_c: `optax.softmax_cross_entropy`.

    Parameters
    ----------
    logits : array_like, shape (..., C, ...)
        float16, bfloat16, float32 or float64.
    labels : array_like
        Probabilities of the classes, which need not sum to 1, or one-hot, of a shape that broadcasts to that of logits;
        differentiable.
    axis : int, tuple of int or None, default -1
        The class axis, or several, or all.
    where, dtype : optional
        As for `softmax_cross_entropy_with_integer_labels`.

    Returns
    -------
    jax.Array
        Of the rows' shape, in nats. Where a class has probability 0, its logit may be anything that is finite, or -inf:
        it adds nothing (optax: NaN for -inf).

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or axis that does not fit.

    Examples
    --------
    >>> logits = np.array([1.2, -0.8, -0.5], np.float32)
    >>> round(float(crossentropy.jax.softmax_cross_entropy(logits, np.array([1, 0, 0]))), 4)
    0.2761
    """
    x = _floating(logits, "logits")
    q = jnp.asarray(labels)
    q = q if q.dtype in _FLOATS else q.astype(x.dtype)
    if not _broadcasts(q, x):
        raise ValueError(f"labels must have a shape that broadcasts to that of logits, {x.shape}, got {q.shape}")
    axes = _axes(x, axis)
    mask, counts = _mask(where, x, axes)
    q, _, _ = _one_axis(jnp.broadcast_to(q, x.shape), axes)
    x, rows, at = _one_axis(x, axes)
    if mask is not None:
        x, q = jnp.where(mask, x, -jnp.inf), jnp.where(mask, q, 0)
    return _result(_soft_loss(_how(at), x, q, _scale(x, rows, counts)), counts, dtype or jnp.result_type(x, q))


def log_softmax(x: Any, axis: int | tuple[int, ...] | None = -1, where: Any = None) -> jax.Array:
    """Log of the softmax, as `jax.nn.log_softmax`.

    Parameters
    ----------
    x : array_like, shape (..., C, ...)
        float16, bfloat16, float32 or float64.
    axis : int, tuple of int or None, default -1
        The class axis, or several, or all.
    where : array_like of bool, optional
        Broadcasts to the shape of x: the classes that count; the result is -inf at the others.

    Returns
    -------
    jax.Array
        Of x's shape and dtype, in nats.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape or axis that does not fit.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 1.

    Examples
    --------
    >>> crossentropy.jax.log_softmax(np.array([50.0, 0.0], np.float32)).tolist()
    [-1.9287498933537385e-22, -50.0]
    """
    x = _floating(x, "x")
    axes = _axes(x, axis)
    given = x.shape
    if where is not None:
        where = jnp.asarray(where)
        if where.dtype != bool:
            raise TypeError(f"where must be boolean, got {where.dtype}")
        if not _broadcasts(where, x):
            raise ValueError(f"where must have a shape that broadcasts to that of x, {given}, got {where.shape}")
        x = jnp.where(where, x, -jnp.inf)
    flat, _, at = _one_axis(x, axes)
    y = _log_softmax(_how(at), flat)
    if len(axes) > 1:
        moved = tuple(given[a] for a in range(len(given)) if a not in axes) + tuple(given[a] for a in axes)
        y = jnp.moveaxis(y.reshape(moved), range(len(given) - len(axes), len(given)), axes)
    return y if where is None else jnp.where(where, y, -jnp.inf)


# ---------------------------------------------------------------------- arguments

_FLOATS = tuple(map(jnp.dtype, ("float16", "bfloat16", "float32", "float64")))


def _floating(value: Any, name: str) -> jax.Array:
    x = jnp.asarray(value)
    if x.dtype not in _FLOATS:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if x.ndim == 0:
        raise ValueError(f"{name} must have a class axis, got a scalar")
    return x


def _axes(x: jax.Array, axis: Any) -> tuple[int, ...]:
    """The class axes, from 0."""
    given = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    found = tuple(operator.index(a) for a in given)
    for a in found:
        if not -x.ndim <= a < x.ndim:
            raise ValueError(f"axis must be one of logits with {x.ndim} axes, got {axis}")
    found = tuple(a % x.ndim for a in found)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"axis must name one axis or more, and none twice, got {axis}")
    return found


def _one_axis(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, tuple[int, ...], int]:
    """With one class axis: the array, the rows' shape, and that axis from the end."""
    if len(axes) > 1:
        x = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
        x = x.reshape(*x.shape[: x.ndim - len(axes)], -1)
        axes = (x.ndim - 1,)
    return x, x.shape[: axes[0]] + x.shape[axes[0] + 1 :], axes[0] - x.ndim


def _mask(where: Any, x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array | None, jax.Array | None]:
    """Which classes count, as the array that `_one_axis` makes of x, or None for all; which rows do, or None."""
    if where is None:
        return None, None
    where = jnp.asarray(where)
    if where.dtype != bool:
        raise TypeError(f"where must be boolean, got {where.dtype}")
    rows = tuple(size for a, size in enumerate(x.shape) if a not in axes)
    if where.ndim != x.ndim:
        if where.shape != rows:
            raise ValueError(
                f"where must have the rows' shape, {rows}, or that of logits, {x.shape}, got {where.shape}"
            )
        return None, where
    if not _broadcasts(where, x):
        raise ValueError(f"where must have the rows' shape, {rows}, or that of logits, {x.shape}, got {where.shape}")
    if all(where.shape[a] == 1 for a in axes):
        return None, jnp.broadcast_to(where.squeeze(axes), rows)
    mask, _, at = _one_axis(jnp.broadcast_to(where, x.shape), axes)
    return mask, mask.any(at)


def _broadcasts(a: jax.Array, x: jax.Array) -> bool:
    """Whether an array's shape broadcasts to that of x."""
    return a.ndim <= x.ndim and all(n in (1, m) for n, m in zip(a.shape[::-1], x.shape[::-1], strict=False))


def _lanes(x: jax.Array) -> Any:
    """The dtype that a loss is computed in."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _scale(x: jax.Array, rows: tuple[int, ...], counts: jax.Array | None) -> jax.Array:
    """What arrives at the rows' losses if their mean is taken, over those that count: most often that is what does."""
    dtype = _lanes(x)
    if counts is None:
        return jnp.asarray(1 / np.asarray(max(math.prod(rows), 1), dtype))
    return counts / jnp.maximum(counts.sum(), 1).astype(dtype)


def _result(losses: jax.Array, counts: jax.Array | None, dtype: Any) -> jax.Array:
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be floating, got {jnp.dtype(dtype)}")
    return (losses if counts is None else jnp.where(counts, losses, 0)).astype(dtype)


# ---------------------------------------------------------------------- the kernels, or JAX's operations in their place


@functools.cache
def _registered() -> bool:
    """Whether XLA takes the functions of the native backend, which are handed to it once."""
    from ._backends import native

    jax.default_backend()  # before it is there, what is handed over waits for it, and so would an error
    try:
        for name, capsule in native.xla_handlers().items():
            jax.ffi.register_ffi_target(f"crossentropy_{name}", capsule, platform="cpu")
    except Exception as error:  # XLA's own, of no common kind
        message = f"this jaxlib does not take crossentropy's kernels, and JAX's operations compute instead: {error}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return False
    return True


def _how(axis: int) -> _How:
    backend = registry.current()
    if backend.__name__ != f"{__package__}._backends.native" or not _registered():
        return _How(axis, -1, 1, 0)
    return _How(axis, backend.ISAS.index(backend.current_isa()), backend.current_threads(), backend.SERIAL_BELOW)


def _chosen(name: str, how: _How, plain: Any, *arrays: jax.Array, **more: Any) -> Any:
    """By the kernel of that name on the CPU, if it is in force, and by JAX's operations elsewhere."""
    plain = functools.partial(plain, how)
    if how.isa < 0:
        return plain(*arrays)
    # What the operations' results are, with all that JAX knows of arrays, as which axes of a mesh they differ along.
    results = jax.eval_shape(plain, *arrays)
    ffi_call: Any = jax.ffi.ffi_call
    call = ffi_call(f"crossentropy_{name}", results, vmap_method="broadcast_all", **more)

    def kernel(*arrays: jax.Array) -> Any:
        found = call(*arrays, **how.attributes())
        return tuple(found) if isinstance(results, tuple) else found  # JAX 0.5 makes a list of several

    return lax.platform_dependent(*arrays, cpu=kernel, default=plain)


# By jit, so that what runs outside of any is compiled once.
_compiled = functools.partial(jax.jit, static_argnums=0)


@_compiled
def _forward(how: _How, x: jax.Array, t: jax.Array) -> jax.Array:
    """The rows' losses."""
    return _chosen("losses", how, _plain_losses, x, t)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@_compiled
def _forward_with_gradient(how: _How, x: jax.Array, t: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rows' losses, and their gradient for what may arrive: a number for all, or for each."""
    return _chosen("losses", how, _plain_losses_and_gradient, x, t, scale)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@_compiled
def _gradient(how: _How, before: jax.Array, x: jax.Array, t: jax.Array, scale: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient for what arrives; ``before`` is that for ``scale``, and in its memory it goes."""

    def plain(how: _How, before: jax.Array, x: jax.Array, t: jax.Array, scale: jax.Array, g: jax.Array) -> jax.Array:
        return _plain_gradient(how, x, t, g)

    return _chosen("gradient", how, plain, before, x, t, scale, g, input_output_aliases={0: 0})


@_compiled
def _log_softmax_alone(how: _How, x: jax.Array) -> jax.Array:
    return _chosen("log_softmax", how, _plain_log_softmax, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@_compiled
def _log_softmax_with_statistics(how: _How, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The log-softmax, and what its gradient needs of each row."""

    def plain(how: _How, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        row = (x.sum(how.axis)[..., None] > 0).astype(jnp.uint8)  # nothing reads it
        return _plain_log_softmax(how, x), jnp.broadcast_to(row, (*row.shape[:-1], STATISTICS))

    return _chosen("log_softmax", how, plain, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@_compiled
def _log_softmax_gradient(how: _How, g: jax.Array, x: jax.Array, statistics: jax.Array) -> jax.Array:
    def plain(how: _How, g: jax.Array, x: jax.Array, statistics: jax.Array) -> jax.Array:
        return _plain_log_softmax_gradient(how, g, x)

    return _chosen("log_softmax_gradient", how, plain, g, x, statistics)


# ---------------------------------------------------------------------- the formulas as JAX's operations


def _plain_log_softmax(how: _How, x: jax.Array) -> jax.Array:
    if x.size == 0:
        return x
    return jax.nn.log_softmax(x.astype(_lanes(x)), how.axis).astype(x.dtype)


def _plain_log_softmax_gradient(how: _How, g: jax.Array, x: jax.Array) -> jax.Array:
    if x.size == 0:
        return g
    g, p = g.astype(_lanes(x)), jax.nn.softmax(x.astype(_lanes(x)), how.axis)
    return (g - p * g.sum(how.axis, keepdims=True)).astype(x.dtype)


def _weights(how: _How, x: jax.Array, t: jax.Array) -> jax.Array:
    """The weights of the classes in a row's loss; NaN where a label is no class."""
    if t.dtype in _FLOATS:
        return t.astype(_lanes(x))
    n = x.shape[how.axis]
    t = jnp.where((t < 0) | (t >= n), -1, t.astype(jnp.int32))  # no class that fits into memory is past 2^31
    classes = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim + how.axis)
    t = jnp.expand_dims(t, how.axis)
    return jnp.where(t < 0, jnp.nan, (classes == t).astype(_lanes(x)))


def _plain_losses(how: _How, x: jax.Array, t: jax.Array) -> jax.Array:
    if x.shape[how.axis] == 0:
        return jnp.full_like(x.sum(how.axis), jnp.nan, _lanes(x))
    z, weights = x.astype(_lanes(x)), _weights(how, x, t)
    terms = jnp.where(weights == 0, 0, weights * -jax.nn.log_softmax(z, how.axis))
    return terms.sum(how.axis)


def _plain_losses_and_gradient(how: _How, x: jax.Array, t: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    losses = _plain_losses(how, x, t)
    return losses, _plain_gradient(how, x, t, jnp.broadcast_to(scale, losses.shape))


def _plain_gradient(how: _How, x: jax.Array, t: jax.Array, g: jax.Array) -> jax.Array:
    if x.size == 0:
        return jnp.zeros_like(x)
    z, weights = x.astype(_lanes(x)), _weights(how, x, t)
    mass = weights.sum(how.axis, keepdims=True)
    of_rows = mass * jax.nn.softmax(z, how.axis) - weights
    return (jnp.expand_dims(g, how.axis) * of_rows).astype(x.dtype)


# ---------------------------------------------------------------------- derivatives


@_forward_with_gradient.defjvp
def _(how: _How, primals: Any, tangents: Any) -> Any:
    found = _forward_with_gradient(how, *primals)
    x, t, _ = primals
    return found, _tangents(lambda x, t: (_plain_losses(how, x, t), jnp.zeros(x.shape, x.dtype)), (x, t), tangents[:2])


@_gradient.defjvp
def _(how: _How, primals: Any, tangents: Any) -> Any:
    _, x, t, _, g = primals
    along = tangents[1], tangents[2], tangents[4]
    found = _gradient(how, *primals)
    return found, _tangents(functools.partial(_plain_gradient, how), (x, t, g), along)


@_log_softmax_with_statistics.defjvp
def _(how: _How, primals: Any, tangents: Any) -> Any:
    found = _log_softmax_with_statistics(how, *primals)
    dot = _tangents(functools.partial(_plain_log_softmax, how), primals, tangents)
    return found, (dot, np.zeros(found[1].shape, jax.dtypes.float0))


@_log_softmax_gradient.defjvp
def _(how: _How, primals: Any, tangents: Any) -> Any:
    found = _log_softmax_gradient(how, *primals)
    return found, _tangents(functools.partial(_plain_log_softmax_gradient, how), primals[:2], tangents[:2])


def _tangents(function: Any, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """What JAX makes of the formula in this direction."""
    return jax.jvp(function, primals, tangents)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(how: _How, x: jax.Array, t: jax.Array, scale: jax.Array) -> jax.Array:
    """The rows' losses, of classes."""
    return _forward(how, x, t)


def _loss_forward(how: _How, x: jax.Array, t: jax.Array, scale: jax.Array) -> Any:
    losses, grad = _forward_with_gradient(how, x, t, scale)
    return losses, (grad, x, t, scale)


def _loss_backward(how: _How, saved: Any, g: jax.Array) -> Any:
    return _gradient(how, *saved, g), None, None


_loss.defvjp(_loss_forward, _loss_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _soft_loss(how: _How, x: jax.Array, q: jax.Array, scale: jax.Array) -> jax.Array:
    """The rows' losses, of probabilities."""
    return _forward(how, x, q)


def _soft_loss_forward(how: _How, x: Any, q: Any, scale: Any) -> Any:
    losses, grad = _forward_with_gradient(how, x.value, q.value, scale.value)
    return losses, (grad, x.value, q.value, scale.value, () if q.perturbed else None)


def _soft_loss_backward(how: _How, saved: Any, g: Any) -> Any:
    *of_logits, perturbed = saved
    g = lax.full(g.shape, 0, g.dtype) if isinstance(g, jax.custom_derivatives.SymbolicZero) else g
    grad = _gradient(how, *of_logits, g)
    if perturbed is None:
        return grad, None, None
    _, x, q, _ = of_logits
    log_p = _log_softmax(how, x).astype(g.dtype)
    return grad, (-jnp.expand_dims(g, how.axis) * log_p).astype(q.dtype), None


_soft_loss.defvjp(_soft_loss_forward, _soft_loss_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_softmax(how: _How, x: jax.Array) -> jax.Array:
    return _log_softmax_alone(how, x)


def _log_softmax_forward(how: _How, x: jax.Array) -> Any:
    y, statistics = _log_softmax_with_statistics(how, x)
    return y, (x, statistics)


def _log_softmax_backward(how: _How, saved: Any, g: jax.Array) -> Any:
    return (_log_softmax_gradient(how, g, *saved),)


_log_softmax.defvjp(_log_softmax_forward, _log_softmax_backward)
