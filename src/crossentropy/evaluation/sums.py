"""Exact sums of float64 numbers as integers: the same bits whatever the order, the chunks and the number of workers.

A sum is a number of `DIGITS` digits of 32 bits, each in an int64 of its own (R. Neal, "Fast exact summation using small
and large superaccumulators", 2015). Two sums are added digit by digit, by whatever adds integers, MPI among them; it is
rounded once, at the end.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

LOWEST = -1152  # the first digit counts 2**-1152: the 53 bits of the least float64 lie above it
DIGITS = 70  # up to 2**1088: above the largest by so much that a sum of 2**63 of them has room

# A number adds less than 2**33 to a digit. Weights of bincount are float64, whose integers are exact below 2**53.
AT_ONCE = 1 << 20


def exact_sums(values: np.ndarray, groups: np.ndarray | None = None, count: int = 1) -> np.ndarray:
    """The exact sum of finite float64 numbers, of each of ``count`` groups: int64 (count, DIGITS), below 2**32 + 1."""
    found = np.zeros((count, DIGITS), np.int64)
    for first in range(0, len(values), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        _add(found, values[part], None if groups is None else groups[part])
    return found


def _add(found: np.ndarray, values: np.ndarray, groups: np.ndarray | None) -> None:
    mantissas, exponents = np.frexp(values)
    whole = np.ldexp(np.abs(mantissas), 53).astype(np.uint64)
    at = exponents.astype(np.int64) - (53 + LOWEST)
    shift, place = (at & 31).astype(np.uint64), at >> 5
    if groups is not None:
        place += groups * DIGITS
    low, high = (whole & _ONES) << shift, (whole >> _32) << shift  # of 64 bits at most
    sign = np.where(values < 0, -1.0, 1.0)
    flat = found.reshape(-1)
    for step, digits in enumerate((low & _ONES, (low >> _32) + (high & _ONES), high >> _32)):
        flat += np.bincount(place + step, digits * sign, flat.size).astype(np.int64)
    carry(found)


_32, _ONES = np.uint64(32), np.uint64(2**32 - 1)


def carry(sums: np.ndarray) -> None:
    """Bring the digits of sums (..., DIGITS) back to little more than 32 bits, so that many more can be added."""
    over = sums[..., :-1] >> 32
    sums[..., :-1] -= over << 32
    sums[..., 1:] += over


def rounded_sum(digits: np.ndarray) -> float:
    """One sum (DIGITS,) as the nearest float64; inf or -inf beyond them."""
    return rounded_ratio(digits, 1)


def rounded_ratio(digits: np.ndarray, by: int | np.ndarray) -> float:
    """A sum over a positive integer, or over another sum, as the nearest float64; inf or -inf beyond them."""
    ratio = fraction(digits) / (by if isinstance(by, int) else fraction(by))
    try:
        return float(ratio)
    except OverflowError:
        return float("inf") if ratio > 0 else float("-inf")


def fraction(digits: np.ndarray) -> Fraction:
    """A sum as what it is."""
    total = sum(int(digit) << (32 * place) for place, digit in enumerate(digits))
    return Fraction(total, 1 << -LOWEST)
