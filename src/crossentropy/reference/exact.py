"""What the other parts compute with: differences and sums that are exact, products that 0 wins."""

from __future__ import annotations

import math
from collections.abc import Sequence


def two_diff(a: float, b: float) -> tuple[float, float]:
    """a - b as a pair (d, e): d is the rounded difference and d + e is exact (Knuth; Dekker for the name).

    >>> crossentropy.reference.two_diff(1.0, 1e-17)
    (1.0, -1e-17)
    """
    d = a - b
    if math.isinf(d):
        return d, 0.0
    b_seen = a - d
    return d, (a - (d + b_seen)) + (b_seen - b)


def two_sum(a: float, b: float) -> tuple[float, float]:
    """a + b as a pair, likewise.

    >>> crossentropy.reference.two_sum(1.0, 1e-17)
    (1.0, 1e-17)
    """
    return two_diff(a, -b)


def exp_diff(a: float, b: float) -> float:
    """e^(a - b) with the rounding of a - b put right: e^(d + e) = e^d (1 + e) to far below an ulp.

    >>> crossentropy.reference.exp_diff(1.0, 1e-17)
    2.718281828459045
    """
    d, e = two_diff(a, b)
    return math.exp(d) * (1.0 + e)


def times(weight: float, value: float) -> float:
    """Weight times value, where 0 times inf is 0.

    >>> crossentropy.reference.times(0.0, math.inf)
    0.0
    """
    return 0.0 if weight == 0 else weight * value


def total(terms: Sequence[float]) -> float:
    """The sum, rounded once; inf and NaN as IEEE 754 has them (math.fsum raises for inf - inf and for overflow).

    >>> crossentropy.reference.total([1e16, 1.0, -1e16])
    1.0
    """
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):
        return sum(terms)
