"""The three products of a linear cross-entropy by kernels of our own, and conversions between 16 bits and float32.

Which product is which: products.py. The kernels are in kernels/products/, and kernels/README.md describes them.
"""

from __future__ import annotations

import functools

import numpy as np

from .. import _settings
from .._backends import native
from .._backends.native import _native  # type: ignore[attr-defined]

_CODES = {"float16": 0, "bfloat16": 1, "float32": 2}  # `element` in kernels/types.h

# The units by the ISA of which each is a part: what config(isa=...) leaves.
_UNITS_OF = {
    "avx512": ("amx", "avx512_bf16", "avx512"),
    "avx2": ("avx2",),
    "neon": ("neon",),
    "base": ("base",),
}
_OF_PAIRS = ("amx", "avx512_bf16")  # whose operands are bfloat16

# Multiplications, and elements of one pass, below which one thread is faster than two.
SERIAL_BELOW = 2**18
PASSED_SERIALLY_BELOW = 2**16


@functools.cache
def _supported() -> tuple[str, ...]:
    return _native.supported_product_units()


def units(dtype: str = "float32") -> tuple[str, ...]:
    """Which units this machine runs in this context for operands of a dtype, best first.

    Parameters
    ----------
    dtype : str
        The name of that of the hidden states and the weight: float32, float16 or bfloat16.

    Returns
    -------
    tuple of str
        Some of ``'amx'``, ``'avx512_bf16'`` (bfloat16 alone), ``'avx512'``, ``'avx2'``, ``'neon'``, ``'base'``.
    """
    asked = _settings.isa()
    left = _UNITS_OF[native.isa_named(asked)] if asked else _supported()
    return tuple(unit for unit in _supported() if unit in left and (dtype == "bfloat16" or unit not in _OF_PAIRS))


def _unit(asked: str | None, *operands: np.ndarray) -> str:
    """The unit for these operands, which are not gradients."""
    of_pairs = all(each.dtype.name == "bfloat16" for each in operands)
    possible = units("bfloat16" if of_pairs else "float32")
    if asked is None:
        return possible[0]
    if asked not in possible:
        raise ValueError(
            f"unit must be one of {', '.join(map(repr, possible))} for {operands[0].dtype.name} operands on this "
            f"machine, got {asked!r}"
        )
    return asked


def _factor(name: str, x: np.ndarray) -> tuple[np.ndarray, int]:
    """What _native.product takes of an operand: memory that it can get a buffer of, and the element code."""
    if x.dtype.name not in _CODES:
        raise TypeError(f"{name} must be float32, float16 or bfloat16, got {x.dtype}")
    if not _is_plain(x):
        x = np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("="))
    return (x if x.dtype.name == "float32" else x.view(np.uint16)), _CODES[x.dtype.name]


def _is_plain(x: np.ndarray) -> bool:
    """Whether one stride of a matrix is that of an element, and the other is a multiple of it."""
    if not x.dtype.isnative or not x.flags.aligned:
        return False
    size = x.itemsize
    strides = [stride for length, stride in zip(x.shape, x.strides, strict=True) if length > 1]
    return (len(strides) < 2 or size in strides) and all(stride % size == 0 for stride in strides)


def _product(unit: str, a: np.ndarray, b: np.ndarray, names: tuple[str, str], out: np.ndarray, add: bool) -> None:
    """out (+)= a b^T; names are those of a and b."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or out.shape != (a.shape[0], b.shape[0]):
        raise ValueError(
            f"{names[0]}, {names[1]} and out must be matrices that fit, got shapes {a.shape}, {b.shape} and {out.shape}"
        )
    if out.dtype != np.float32 or not out.dtype.isnative or not out.flags.writeable:
        raise TypeError(f"out must be float32 and writeable, got {out.dtype}")
    if not out.size:
        return
    if not a.shape[1]:
        if not add:
            out[...] = 0
        return
    if not _is_plain(out) or 0 in [stride for n, stride in zip(out.shape, out.strides, strict=True) if n > 1]:
        raise ValueError(f"out must have one stride of {out.itemsize} bytes, got strides {out.strides}")
    threads = 1 if a.size * b.shape[0] < SERIAL_BELOW else native.current_threads()
    _native.product(unit, threads, _factor(names[0], a), _factor(names[1], b), out, add)


def logits(x: np.ndarray, weight: np.ndarray, out: np.ndarray, *, unit: str | None = None) -> None:
    """out = x weight^T.

    Parameters
    ----------
    x : ndarray (rows, H)
        float32, float16 or bfloat16, as `weight`. Where both are bfloat16, a unit of bfloat16 operands takes subnormal
        numbers for 0.
    weight : ndarray (V, H)
        In any layout one stride of which is that of an element; others are copied.
    out : ndarray (rows, V)
        float32, with one such stride. It must not overlap the operands.
    unit : str, optional
        One of `units`; by default the first of them.
    """
    _product(_unit(unit, x, weight), x, weight, ("x", "weight"), out, False)


def hidden(grad: np.ndarray, weight: np.ndarray, out: np.ndarray, *, unit: str | None = None) -> None:
    """out = grad weight.

    Parameters
    ----------
    grad : ndarray (rows, V)
        float32 or 16 bits. A unit of bfloat16 operands rounds it to bfloat16.
    weight : ndarray (V, H)
    out : ndarray (rows, H)
        float32.
    unit : str, optional
        As for `logits`.
    """
    if grad.dtype.name == "float16" and unit is None:
        unit = units()[0]
    _product(_unit(unit, weight), grad, weight.T, ("grad", "weight.T"), out, False)


def weight(grad: np.ndarray, x: np.ndarray, out: np.ndarray, add: bool = False, *, unit: str | None = None) -> None:
    """out = grad^T x, or where `add` holds out += grad^T x.

    Parameters
    ----------
    grad : ndarray (rows, V)
        float32 or 16 bits. A unit of bfloat16 operands rounds it to bfloat16.
    x : ndarray (rows, H)
    out : ndarray (V, H)
        float32.
    add : bool
        Whether the product is added to what is there.
    unit : str, optional
        As for `logits`.
    """
    if grad.dtype.name == "float16" and unit is None:
        unit = units()[0]
    _product(_unit(unit, x), grad.T, x.T, ("grad.T", "x.T"), out, add)


def rounds(rows: int, x: np.ndarray, *, unit: str | None = None) -> bool:
    """Whether `rounded_weight` takes so many rows: whether a unit adds up as many before it writes anything."""
    return rows <= _native.numbers_at_once(_unit(unit, x))


def rounded_weight(grad: np.ndarray, x: np.ndarray, out: np.ndarray, *, unit: str | None = None) -> None:
    """out = grad^T x, rounded once: what `weight` and `convert` give, with no array of float32 between them.

    Parameters
    ----------
    grad : ndarray (rows, V)
        As for `weight`; at least one row, and no more than `rounds` says.
    x : ndarray (rows, H)
    out : ndarray (V, H)
        float16 or bfloat16, contiguous. It must not overlap the operands.
    unit : str, optional
        As for `logits`.
    """
    if grad.ndim != 2 or x.ndim != 2 or not len(grad) == len(x) > 0 or out.shape != (grad.shape[1], x.shape[1]):
        raise ValueError(f"grad, x and out must be matrices that fit, got {grad.shape}, {x.shape} and {out.shape}")
    if out.itemsize != 2 or out.dtype.name not in _CODES or not _is_contiguous(out) or not out.flags.writeable:
        raise TypeError(f"out must be contiguous, writeable and of 16 bits, got {out.dtype}")
    if grad.dtype.name == "float16" and unit is None:
        unit = units()[0]
    if not rounds(len(grad), x, unit=unit):
        raise ValueError(f"a unit does not add up {len(grad)} rows at once")
    if out.size:
        threads = 1 if grad.size * x.shape[1] < SERIAL_BELOW else native.current_threads()
        factors = _factor("grad.T", grad.T), _factor("x.T", x.T)
        _native.product(_unit(unit, x), threads, *factors, None, False, _bits(out), native.current_isa())


def convert(x: np.ndarray, out: np.ndarray) -> None:
    """out = x, rounded once to nearest even; a NaN stays one.

    Parameters
    ----------
    x : ndarray
        float32, or float16 or bfloat16.
    out : ndarray
        float16 or bfloat16, or float32; of the shape of `x`, which it must not overlap.
    """
    kinds = (x.dtype.name, out.dtype.name)
    if not all(kind in _CODES for kind in kinds) or (kinds[0] == "float32") == (kinds[1] == "float32"):
        raise TypeError(f"x and out must be float32 and 16 bits, in either order, got {x.dtype} and {out.dtype}")
    if x.shape != out.shape:
        raise ValueError(f"out must have the shape of x, {x.shape}, got {out.shape}")
    if not (_is_contiguous(x) and _is_contiguous(out)):
        out[...] = x
        return
    if x.size:
        _native.convert(native.current_isa(), _threads_of_a_pass(x), _bits(x), _bits(out))


def add_bias(logits: np.ndarray, bias: np.ndarray) -> None:
    """logits += bias.

    Parameters
    ----------
    logits : ndarray (rows, V)
        float32 or float64, its columns next to each other.
    bias : ndarray (V,)
        Contiguous, of that dtype.
    """
    if logits.size:
        _native.add_bias(_threads_of_a_pass(logits), logits, bias)


def sum_bias(grad: np.ndarray, sums: np.ndarray) -> None:
    """sums += grad.sum(axis=0), in float64.

    Parameters
    ----------
    grad : ndarray (rows, V)
        float32 or float64, its columns next to each other.
    sums : ndarray (V,)
        float64, contiguous.
    """
    if grad.size:
        _native.sum_bias(_threads_of_a_pass(grad), grad, sums)


def _threads_of_a_pass(x: np.ndarray) -> int:
    return 1 if x.size < PASSED_SERIALLY_BELOW else native.current_threads()


def _is_contiguous(x: np.ndarray) -> bool:
    return x.flags.c_contiguous and x.flags.aligned and x.dtype.isnative


def _bits(x: np.ndarray) -> tuple[np.ndarray, int]:
    return (x if x.dtype.name == "float32" else x.view(np.uint16)), _CODES[x.dtype.name]
