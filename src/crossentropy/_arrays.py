"""How arrays lie in memory, wherever that is: the arithmetic of shapes and strides that checks and backends share."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


class Layout:
    """How an array lies from its address on: what checks and plans need to know of it, on the host and on a device.

    Strides are in bytes; the dtype is its name, ``swapped`` where its bytes are in the other order. There is one of a
    kind (`layout`), so that what was found out for one can be found again by it.
    """

    __slots__ = (
        "device",
        "dtype",
        "high",
        "itemsize",
        "low",
        "ndim",
        "on_host",
        "read_only",
        "shape",
        "size",
        "strides",
        "swapped",
    )

    def __init__(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dtype: str,
        itemsize: int,
        read_only: bool = False,
        on_host: bool = False,
        device: int | None = None,
        swapped: bool = False,
    ) -> None:
        self.shape, self.strides, self.dtype, self.itemsize = shape, strides, dtype, itemsize
        self.read_only, self.on_host, self.device, self.swapped = read_only, on_host, device, swapped
        self.ndim, self.size = len(shape), math.prod(shape)
        reach = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
        self.low = sum(r for r in reach if r < 0)  # of the first byte, and one past the last
        self.high = sum(r for r in reach if r > 0) + itemsize


layout = functools.lru_cache(4096)(Layout)


class Array(NamedTuple):
    """An array, and where it lies."""

    value: Any  # the array itself, which keeps its memory
    address: int
    layout: Layout
    held: Any = None  # what else must live as long


def on_host(x: np.ndarray) -> Layout:
    """How a NumPy array lies."""
    dtype = x.dtype
    return _host_layout(x.shape, x.strides, dtype, dtype.char, x.flags.writeable)


@functools.lru_cache(4096)
def _host_layout(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype, char: str, writeable: bool
) -> Layout:
    # Where a longdouble has 64 bits NumPy takes it for equal to float64, which it is not to kernels.
    supported = char != "g" and dtype.name in FLOATS | INTEGERS
    name = dtype.name if supported else "longdouble" if char == "g" else str(dtype)
    return layout(shape, strides, name, dtype.itemsize, not writeable, True, None, not dtype.isnative)


def c_strides(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """The strides of an array in C order."""
    strides = [itemsize]
    for size in shape[:0:-1]:
        strides.append(strides[-1] * size)
    return tuple(strides[::-1][: len(shape)]) if shape else ()


def without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """A shape, or strides, but for one axis."""
    return (*shape[:axis], *shape[axis + 1 :])


def may_share_memory(a: Array, b: Array) -> bool:
    """Whether the memory between two arrays' ends overlaps."""
    mine, other = a.layout, b.layout
    if a.address + mine.low >= b.address + other.high or b.address + other.low >= a.address + mine.high:
        return False
    return bool(mine.size and other.size)


def same_elements(a: Array, b: Array) -> bool:
    """The same elements in the same places."""
    mine, other = a.layout, b.layout
    alike = (mine.shape, mine.strides, mine.dtype, mine.swapped) == (
        other.shape,
        other.strides,
        other.dtype,
        other.swapped,
    )
    return alike and a.address == b.address


def overlaps_itself(a: Layout) -> bool:
    """Two indices share memory, by a test that is exact for strides that nest and errs towards True."""
    extent = a.itemsize
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(a.strides, a.shape, strict=True) if size > 1
    ):
        if stride < extent:
            return a.size > 0
        extent = stride * (size - 1) + extent
    return False


def merged_axes(
    axes: Sequence[int], shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[int, list[int]] | None:
    """Several axes as one, (size, its stride in each array), where there is a stride for that; none are one of size 1.

    The axes are taken from the slowest to the fastest of the first array, so that it does not matter how they are
    numbered: a row's classes may come in any order, as long as it is the same in all arrays.
    """
    order = sorted(axes, key=lambda a: -abs(strides[0][a]))
    kept = merged_rows([shape[a] for a in order], [[of[a] for a in order] for of in strides])
    if not kept:
        return 1, [0] * len(strides)
    return kept[0] if len(kept) == 1 else None


def merged_rows(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """The row dimensions of several arrays, neighbours merged where every array lets them be.

    Parameters
    ----------
    shape : sequence of int
        Of the rows, which all arrays have.
    strides : sequence of sequences of int
        Of each array, by dimension.

    Returns
    -------
    list of (size, strides)
        A dimension each, from the slowest; strides has one number for each array. Dimensions of size 1 are left out.
    """
    kept: list[tuple[int, list[int]]] = []
    for d, size in enumerate(shape):
        if size == 1:
            continue
        here = [of[d] for of in strides]
        if kept and all(outer == size * inner for outer, inner in zip(kept[-1][1], here, strict=True)):
            kept[-1] = (kept[-1][0] * size, here)
        else:
            kept.append((size, here))
    return kept
