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


def exp_diff(a: float, b: float, low: float = 0.0) -> float:
    """e^(a - b + low) with the rounding of the sum put right: e^(d + e) = e^d (1 + e) to far below an ulp.

    ``low`` is by how much the low parts of pairs differ: of logits near 1e30 that may be 1e13.

    >>> crossentropy.reference.exp_diff(1.0, 1e-17)
    2.718281828459045
    >>> crossentropy.reference.exp_diff(2e30, 2e30, -1e14)
    0.0
    """
    d, e = two_diff(a, b)
    d, more = two_sum(d, low)
    return math.exp(d) * (1.0 + (e + more))


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
