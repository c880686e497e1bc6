"""A row alone: its logsumexp, softmax and log-softmax, and what leads back through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .exact import exp_diff, times, total, two_diff


class Partial(NamedTuple):
    """What a block of classes is reduced to: its maximum m and R, as in the module's docstring.

    The sum of e^z over the block is e^m (1 + R). A row is one block, or several that are merged: cache blocks, shards
    of a vocabulary, a matrix too large for memory. ``low`` is what the maximum is short of, where logits are pairs.
    """

    max: float
    rest: float
    low: float = 0.0

    @property
    def log_sum(self) -> float:
        """log1p(R), by which the logsumexp passes the maximum."""
        return math.log1p(self.rest)

    @property
    def lse(self) -> float:
        """Log of the sum of e^z."""
        return self.max + (self.log_sum + self.low)


UNDEFINED = Partial(math.nan, math.nan)


def partial(z: Sequence[float], lows: Sequence[float] | None = None) -> Partial:
    """The Partial of a block of at least one logit; NaN where it holds a NaN or +inf, or nothing but -inf.

    With ``lows`` a logit is a pair, z_c + low_c.

    >>> crossentropy.reference.partial([2.0, 2.0, -1e9])
    Partial(max=2.0, rest=1.0, low=0.0)
    """
    m = max(z)
    if any(map(math.isnan, z)) or math.isinf(m):
        return UNDEFINED
    if lows is not None:
        m, low = max(zip(z, lows, strict=True))
        top = list(zip(z, lows, strict=True)).index((m, low))
        terms = [exp_diff(value, m, own - low) for value, own in zip(z, lows, strict=True)]
        return Partial(m, math.fsum(terms[:top] + terms[top + 1 :]), low)
    top = z.index(m)
    others = [value for c, value in enumerate(z) if c != top]
    rest = math.fsum(exp_diff(value, m) for value in others)
    if 0 < rest < 2.0**-1000:  # terms near 2^-1074 are each rounded to a multiple of it: round their sum alone
        second = max(others)
        half = exp_diff(second / 2, m / 2)
        rest = half * math.fsum(exp_diff(value, second) for value in others) * half
    return Partial(m, rest)


def merge(a: Partial, b: Partial) -> Partial:
    """The Partial of two blocks together, from theirs: every term but the larger maximum's own goes into R.

    >>> crossentropy.reference.merge(crossentropy.reference.Partial(2.0, 0.0), crossentropy.reference.Partial(2.0, 1.0))
    Partial(max=2.0, rest=2.0, low=0.0)
    """
    high, low = (a, b) if a.max >= b.max else (b, a)
    scale = exp_diff(low.max, high.max)
    return Partial(high.max, math.fsum([high.rest, scale, scale * low.rest]))


def logsumexp(z: Sequence[float]) -> float:
    """log sum_c e^(z_c), in nats: -inf over no class or -inf alone, +inf where there is one, NaN where a NaN is.

    >>> crossentropy.reference.logsumexp([0.0, 0.0])
    0.6931471805599453
    """
    m = math.nan if any(map(math.isnan, z)) else max(z, default=-math.inf)
    return m if math.isinf(m) else partial(z).lse


LN2 = math.log(2)
LN2_HIGH = float.fromhex("0x1.62e42fefa4p-1")  # of 41 bits: its products with an exponent are exact
LN2_LOW = float.fromhex("-0x1.8432a1b0e2634p-43")


def scaled_term(weight: float, value: float, top: float, power: int) -> float:
    """weight e^(value - top) 2^-power, for numbers of which none alone need have a place among the floats.

    >>> crossentropy.reference.scaled_term(3.0, 1000.0, 1000.0, 1)
    1.5
    """
    m, e = math.frexp(weight)
    d, error = two_diff(value, top)
    if d < -5000:
        return 0.0
    n = round(d / LN2)
    return math.ldexp(m * math.exp((d - n * LN2_HIGH) - n * LN2_LOW) * (1.0 + error), n + e - power)


def undefined_term(value: float, weight: float) -> float:
    """weight e^value where either is infinite or NaN: inf times e^-1000 is inf, and not inf times a rounded 0.

    >>> crossentropy.reference.undefined_term(-math.inf, 2.0)
    0.0
    """
    if math.isnan(value):
        return value
    return weight * (0.0 if value == -math.inf else math.inf)


def weighted_logsumexp(z: Sequence[float], weights: Sequence[float]) -> tuple[float, float]:
    """(log |s|, sign of s) for s = sum_c b_c e^(z_c); (-inf, 0) where s is 0.

    A class of weight 0 does not count, whatever its logit. Terms that are infinite or NaN decide alone, as IEEE 754 has
    their sum. Otherwise, with the largest term taken to be about e^m 2^k,

        s = e^m 2^k S        S = sum_c b_c e^(z_c - m) 2^-k        log |s| = m + log |S 2^k|

    where 2^k is put back into S as far as that has a place, since k ln2 + log S would cancel where |s| is near e^m.

    >>> crossentropy.reference.weighted_logsumexp([0.0, 0.0], [1.0, -3.0])
    (0.6931471805599453, -1.0)
    """
    terms = [(value, b) for value, b in zip(z, weights, strict=True) if b != 0]
    undefined = [undefined_term(value, b) for value, b in terms if not (math.isfinite(b) and value < math.inf)]
    if undefined:
        s = sum(undefined)
        return abs(s), s if math.isnan(s) else math.copysign(1.0, s)
    finite = [(value, b) for value, b in terms if value != -math.inf]
    if not finite:
        return -math.inf, 0.0
    top, power = finite[0][0], math.frexp(finite[0][1])[1]
    for value, b in finite:
        e = math.frexp(b)[1]
        if value - top > (power - e) * LN2:
            top, power = value, e
    parts = [scaled_term(b, value, top, power) for value, b in finite]
    s = math.fsum(parts)
    if s == 0:
        return -math.inf, 0.0
    sign = math.copysign(1.0, s)
    if abs(power) < 900:
        parts, power = [math.ldexp(part, power) for part in parts], 0
    above_1 = math.fsum([*(sign * part for part in parts), -1.0])
    log = math.log1p(above_1) if abs(above_1) < 0.5 else math.log(abs(math.fsum(parts)))
    return top + (power * LN2 + log), sign


def softmax(z: Sequence[float]) -> list[float]:
    """The estimated probabilities p~_c = e^(z_c) / sum_k e^(z_k) that the note leaves open.

    >>> crossentropy.reference.softmax([0.0, 0.0, -math.inf])
    [0.5, 0.5, 0.0]
    """
    s = partial(z)
    return [exp_diff(value, s.max) / (1.0 + s.rest) for value in z]


def log_softmax(z: Sequence[float]) -> list[float]:
    """log p_c = (z_c - m) - log1p(R): two terms <= 0, so that neither can cancel the other.

    >>> crossentropy.reference.log_softmax([50.0, 0.0])
    [-1.9287498479639178e-22, -50.0]
    """
    s = partial(z)
    return [total([*two_diff(value, s.max), -s.log_sum]) for value in z]


def log_softmax_backward(grad_output: Sequence[float], z: Sequence[float]) -> list[float]:
    """Gradient on the logits, from that on log p: d log p_k / d z_c = delta_kc - p_c, hence g_c - p_c sum_k g_k.

    For the class y that leads, p_y > 1/2, this would cancel. Without g_y in the sum, and with 1 - p_y = R / (1 + R),

        grad_y = g_y (1 - p_y) - p_y sum_{k != y} g_k = (g_y R - sum_{k != y} g_k) / (1 + R).

    >>> crossentropy.reference.log_softmax_backward([-1.0, 0.0], [0.0, 0.0])
    [-0.5, 0.5]
    """
    s = partial(z)
    if math.isnan(s.max):
        return [math.nan] * len(z)
    share = total(grad_output) / (1.0 + s.rest)
    grad = [total([g, -times(exp_diff(value, s.max), share)]) for g, value in zip(grad_output, z, strict=True)]
    if s.rest < 1:
        top = z.index(s.max)
        others = total([g for c, g in enumerate(grad_output) if c != top])
        grad[top] = (times(s.rest, grad_output[top]) - others) / (1.0 + s.rest)
    return grad


def log_softmax_terms(grad_output: Sequence[float], z: Sequence[float]) -> list[float]:
    """The larger of the two terms of each entry of that gradient: in its ulp an entry is judged.

    >>> crossentropy.reference.log_softmax_terms([-1.0, 0.0], [0.0, 0.0])
    [1.0, 0.5]
    """
    s = partial(z)
    g_sum = abs(total(grad_output))
    terms = [max(abs(g), p * g_sum) for g, p in zip(grad_output, softmax(z), strict=True)]
    if s.rest < 1:
        top = z.index(s.max)
        others = abs(total([g for c, g in enumerate(grad_output) if c != top]))
        terms[top] = max(abs(grad_output[top]) * s.rest, others) / (1.0 + s.rest)
    return terms
