"""Which row a group of threads works on: where it lies, whether it is read, and its target."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .intrinsics import load

SKIPPED, BAD, READ = (np.int32(n) for n in range(3))  # what becomes of a row: 0 throughout, NaN throughout, its results


class Row(NamedTuple):
    """A row, or the part of one, that a group of threads works on."""

    number: int  # of the row, among all
    begin: int  # the first class; 0 but for a part
    classes: int  # how many, from there on
    state: int  # SKIPPED, BAD or READ
    to_read: int  # classes where it is READ, otherwise 0
    x: int  # address of the logit of class `begin`
    y: int  # the target's class; -1 where there are no targets
    target: int  # the same, counted from `begin`; it may lie past either end
    has_target: bool  # whether the row is READ and the target's class is one of these
    sample_weight: float  # 1 where there is none
    divisor: float  # 1 where there is none


@device
def target_at(at, size):
    """The target at an address, widened; the bits of an int64 where it is uint64. ``size`` as in arguments.TABLE."""
    if size == -8 or size == 8:
        return load(at, np.int64)
    if size == -4:
        return np.int64(load(at, np.int32))
    if size == 4:
        return np.int64(load(at, np.uint32))
    if size == -2:
        return np.int64(load(at, np.int16))
    if size == 2:
        return np.int64(load(at, np.uint16))
    if size == -1:
        return np.int64(load(at, np.int8))
    return np.int64(load(at, np.uint8))


@device
def row_at(address, outer, row, inner, n):
    """Where row n of an array begins."""
    if inner == 0 or n < inner:  # no division, where there is one dimension of rows: 0 says that in a plain kernel
        return address + n * row
    return address + n // inner * outer + n % inner * row


@device
def out_of(a, row):
    """Where a Row's results begin: looked up when they are written, because few registers are free until then."""
    return row_at(a.out, a.out_outer, a.out_row, a.inner, row.number) + row.begin * a.out_class


@functools.cache
def rows_of(kind: str, of_parts: bool) -> Callable:
    """The device function (a, index, divisor): the Row of that number, or where rows are cut the part of that number.

    ``of_parts``: rows are put together from what was found of their parts; then a Row is whole.
    """
    elements = elements_of(kind)
    real, real_size = elements.real, elements.real_size
    zero, one = real(0), real(1)

    @device
    def row_of(a, index, divisor):
        n, begin, classes = index, np.int64(0), a.classes
        if a.parts > 1 and not of_parts:
            n = index // a.parts
            begin = (index - n * a.parts) * a.part_classes
            classes = min(a.part_classes, a.classes - begin)
        y, state, weight = np.int64(-1), READ, one
        if a.targets != 0:
            y = target_at(row_at(a.targets, a.targets_outer, a.targets_row, a.inner, n), a.target_size)
            if np.uint64(y) >= np.uint64(a.classes):
                state = BAD
            if a.has_ignored != 0 and y == a.ignored:
                state = SKIPPED
        if a.sample_weight != 0:
            weight = load(a.sample_weight + n * real_size, real)
            if weight == zero:
                state = SKIPPED
        if divisor == zero:
            state = SKIPPED
        x = row_at(a.x, a.x_outer, a.x_row, a.inner, n) + begin * a.x_class
        target = y - begin
        has_target = state == READ and a.targets != 0
        if a.parts > 1 and not of_parts:
            has_target = has_target and target >= 0 and target < classes
        to_read = classes if state == READ else np.int64(0)
        return Row(n, begin, classes, state, to_read, x, y, target, has_target, weight, divisor)

    return row_of
