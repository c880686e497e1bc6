"""Matrices in the memory of arrays on a device: rows of any array, chunks of them, and copies of those that count."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..._arrays import Array, layout, merged_rows
from . import arrays, driver, launch, matrices

ALIGNED = 8  # numbers from one row of a new matrix to the next are a multiple of it: at least 16 bytes
MOST_BLOCKS = 4096  # of a grid; each goes on with other rows


def matrix(like: Array, rows: int, columns: int, dtype: str, stream: int) -> Array:
    """A new matrix beside an array, each of whose rows begins at a multiple of 16 bytes."""
    width, size = -(-columns // ALIGNED) * ALIGNED, arrays.SIZES[dtype]
    made = arrays.empty((rows, width), dtype, like, stream)
    return made._replace(layout=_layout((rows, columns), (width * size, size), made.layout))


def _layout(shape, strides, like):
    return layout(shape, strides, like.dtype, like.itemsize, like.read_only, False, like.device)


def rows_from(a: Array, first: int, count: int) -> Array:
    """Some rows of a matrix."""
    strides = a.layout.strides
    lies = _layout((count, a.layout.shape[1]), strides, a.layout)
    return a._replace(address=a.address + first * strides[0], layout=lies)


def numbers_from(a: Array, first: int, count: int) -> Array:
    """Some numbers of an array of a number for each row, which lie one stride apart."""
    step = a.layout.strides[-1] if a.layout.ndim else 0
    return a._replace(address=a.address + first * step, layout=_layout((count,), (step,), a.layout))


class Rows(NamedTuple):
    """An array (..., K) as rows in C order, in two dimensions; ``above`` are those that are left."""

    array: Array
    count: int
    columns: int
    inner: int
    outer_stride: int
    row_stride: int
    column_stride: int
    above: tuple[tuple[int, int], ...] = ()  # (size, stride)

    @classmethod
    def of(cls, a: Array) -> Rows:
        """The rows of an array."""
        *shape, columns = a.layout.shape
        *strides, column = a.layout.strides
        dims = [(1, [0])] * 2 + merged_rows(shape, [strides])
        (_, (outer,)), (inner, (row,)) = dims[-2:]
        above = tuple((size, stride) for size, (stride,) in dims[2:-2])
        if len(dims) == 3:
            outer = inner * row
        return cls(a, math.prod(shape), columns, inner, outer, row, column, above)

    @classmethod
    def of_one(cls, a: Array | None) -> Rows | None:
        """One row, of numbers side by side, that stands for any number of rows."""
        return a and cls(a, 1, a.layout.size, 1 << 62, 0, 0, a.layout.itemsize)

    @property
    def is_flat(self) -> bool:
        """Whether one stride leads from row to row."""
        return not self.above and self.outer_stride == self.inner * self.row_stride

    def at(self, first: int, count: int) -> Array:
        """Some of them as a matrix, where they are flat."""
        lies = _layout((count, self.columns), (self.row_stride, self.column_stride), self.array.layout)
        return self.array._replace(address=self.array.address + first * self.row_stride, layout=lies)

    def blocks(self):
        """(first row, the rows from there on whose two dimensions lead on)."""
        each = self.count // max(1, math.prod(size for size, _ in self.above))
        for k, index in enumerate(np.ndindex(*(size for size, _ in self.above))):
            offset = sum(i * stride for i, (_, stride) in zip(index, self.above, strict=True))
            array = self.array._replace(address=self.array.address + offset)
            yield k * each, self._replace(array=array, count=each, above=())

    def in_two_dimensions(self, like: Array, stream: int) -> Rows:
        """These, or a copy of all of them where two dimensions do not lead to every row."""
        if not self.above or not self.count:
            return self
        to = Rows.of(matrix(like, self.count, self.columns, self.array.layout.dtype, stream))
        copy(self, 0, to, 0, self.count, stream)
        return to

    def is_in_vectors(self) -> bool:
        """Whether every row is vectors of 16 bytes throughout."""
        size = self.array.layout.itemsize
        starts = self.array.address, self.outer_stride, self.row_stride, self.columns * size
        return self.column_stride == size and not any(number % 16 for number in starts)


class Counting(NamedTuple):
    """What says which rows count; arrays of one number for each row, and of one for all."""

    real: str
    targets: Array | None
    ignored: int | None
    sample_weight: Array | None
    divisor: Array | None

    @property
    def matters(self) -> bool:
        """Whether there may be rows that do not count."""
        return self.ignored is not None or self.sample_weight is not None or self.divisor is not None

    def arguments(self, number: int, none: bool = False) -> list[int]:
        """Those of matrices.py, for a pass that begins with the row of that number; ``none``: no row counts."""
        t, v, by = self.targets, self.sample_weight, self.divisor
        of_t = [0, 0, 0]
        if t is not None:
            of_t = [t.address, t.layout.strides[0], launch.TARGET_SIZES[t.layout.dtype]]
        ignored = [0, 0] if self.ignored is None else [1, launch.as_int64(self.ignored)]
        return [number, *of_t, *ignored, *(0 if a is None else a.address for a in (v, by)), int(none)]


EVERY = Counting("float32", None, None, None, None)


def copy(
    source: Rows | None, source_first: int, to: Rows, to_first: int, count: int, stream: int, add: bool = False,
    counting: Counting = EVERY, number: int = 0, none: bool = False,
) -> None:  # fmt: skip
    """Copy rows, or add them to what is there, in the order of their numbers; 0 for those that do not count.

    Parameters
    ----------
    source : Rows, optional
        In two dimensions, unless all are copied. Without it, rows that do not count become 0.
    source_first, to_first
        The number of the first row that is read, and written.
    to : Rows
        In any number of dimensions, if it is written in order from a row on.
    count : int
        Rows.
    add : bool
        Whether to add.
    counting, number, none
        Which rows count, the number by which that knows the first, and whether none does.
    """
    if source is None and not counting.matters and not none:
        return
    if not count or not to.columns:
        return
    for first, part in to.blocks():
        low, high = max(to_first, first), min(to_first + count, first + part.count)
        if low < high:
            skipped = low - to_first
            _copy(
                source,
                source_first + skipped,
                part,
                low - first,
                high - low,
                stream,
                add,
                counting,
                number + skipped,
                none,
            )


def _copy(source, source_first, to, to_first, count, stream, add, counting, number, none):
    if source is not None and source.above:
        for first, part in source.blocks():
            low, high = max(source_first, first), min(source_first + count, first + part.count)
            if low < high:
                skipped = low - source_first
                _copy(
                    part, low - first, to, to_first + skipped, high - low, stream, add, counting, number + skipped, none
                )
        return
    kinds = to.array.layout.dtype if source is None else source.array.layout.dtype, to.array.layout.dtype
    vectors = to.is_in_vectors() and (source is None or source.is_in_vectors())
    if vectors:  # rows are whole vectors of either dtype
        width = 16 // min(a.array.layout.itemsize for a in (source or to, to))
        vectors = to.columns % width == 0
    kernel = matrices.copied(driver.device(), *kinds, counting.real, vectors)
    of_source = [0] * 6 if source is None else [*_addressed(source), source_first]
    arguments = [*of_source, *_addressed(to), to_first, count, to.columns, int(add), *counting.arguments(number, none)]
    launch_one(kernel, min(count, MOST_BLOCKS), arguments, stream)


def launch_one(kernel: driver.Kernel, grid: int, arguments: list, stream: int) -> None:
    """Launch a kernel outside a plan."""
    start, values = kernel.prepare(grid, arguments)
    start(stream, values)


def _addressed(rows: Rows) -> list[int]:
    return [rows.array.address, rows.outer_stride, rows.row_stride, rows.inner, rows.column_stride]
