"""Targets that are a teacher's logits: Kullback-Leibler and Jensen-Shannon divergences of two rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from .exact import exp_diff, times, total, two_diff
from .rows import Partial, partial

KINDS = ("forward", "reverse", "js")


def expm1_less(d: float) -> float:
    """phi(d) = e^d - 1 - d >= 0, with all its digits where d is small."""
    if abs(d) >= 0.5:
        return math.expm1(d) - d
    return math.fsum(d**k / math.factorial(k) for k in range(2, 22))


def less_log1p(x: float) -> float:
    """psi(x) = x - log(1 + x) >= 0, with all its digits where x is small: log(1 + x) is 2 atanh s, s = x / (2 + x)."""
    if not -0.4 <= x <= 0.7:
        return x - math.log1p(x) if x > -1.0 else math.inf
    s = x / (2.0 + x)
    return s * (x - 2.0 * math.fsum(s ** (2 * k) / (2 * k + 1) for k in range(1, 30)))


class Pair(NamedTuple):
    """Of two rows of logits: the softmax of each over T, and d_c = log p_s,c - log p_t,c (0 where both are masked)."""

    student: list[float]
    teacher: list[float]
    gap: list[float]


def divided(value: float, m: float, temperature: float) -> tuple[float, float]:
    """(value - m) / T as a pair.

    >>> crossentropy.reference.divided(1.0, 2.0, 3.0)
    (-0.3333333333333333, -1.850371707708594e-17)
    """
    d, e = two_diff(value, m)
    over = d / temperature
    if not math.isfinite(over):
        return over, 0.0
    return over, float((Fraction(d) + Fraction(e)) / Fraction(temperature) - Fraction(over))


def tempered(z: Sequence[float], m: float, temperature: float) -> tuple[list[float], Partial]:
    """The softmax of z over T, and the Partial of (z - m) / T: z / T may be so large that its own rounding shows."""
    highs, lows = map(list, zip(*(divided(value, m, temperature) for value in z), strict=True))
    s = partial(highs, lows)
    return [exp_diff(high, 0.0, low) / (1.0 + s.rest) for high, low in zip(highs, lows, strict=True)], s


def pair(student: Sequence[float], teacher: Sequence[float], temperature: float = 1.0) -> Pair | None:
    """The Pair of two rows; None where the softmax of either is undefined.

    Rows that are nearly equal, up to a constant, would lose all digits of d_c in log p_s,c - log p_t,c. So differences
    are taken first: with x_c = ((s_c - t_c) - (s_k - t_k)) / T for some class k,

        d_c = x_c - log sum_c p_t,c e^(x_c)        log sum_c p_t,c e^(x_c) = log1p(sum_c p_t,c (e^(x_c) - 1))

    k is a class that has some probability in both rows: elsewhere x_c may be so large that its rounding shows in d_c.
    """
    max_s, max_t = partial(student).max, partial(teacher).max
    if math.isnan(max_s) or math.isnan(max_t):
        return None
    (p_s, s), (p_t, t) = tempered(student, max_s, temperature), tempered(teacher, max_t, temperature)
    both = list(zip(student, teacher, strict=True))
    counts = [max(of_class) > -math.inf for of_class in both]
    finite = [c for c, of_class in enumerate(both) if min(of_class) > -math.inf]
    k = max(finite, key=lambda c: min(student[c] - max_s, teacher[c] - max_t), default=0)
    base = (-student[k], teacher[k]) if finite else (0.0, 0.0)
    x = [
        total([z, -y, *base]) / temperature if counted else 0.0
        for z, y, counted in zip(student, teacher, counts, strict=True)
    ]
    if max(map(abs, x)) <= 1.0:
        shift = math.log1p(math.fsum(p * math.expm1(each) for p, each in zip(p_t, x, strict=True)))
    else:
        shift = total([total([max_s, -max_t, *base]) / temperature, s.log_sum, -t.log_sum])
    gap = [each - shift if counted else 0.0 for each, counted in zip(x, counts, strict=True)]
    return Pair(p_s, p_t, gap)


def divergence(p: Sequence[float], q: Sequence[float], gap: Sequence[float]) -> float:
    """KL(p || q) = sum p_c phi(gap_c) >= 0 with gap = log q - log p: the terms of p_c (log p_c - log q_c) - p_c + q_c.

    No digit cancels between its terms, of which none is negative. A class with p_c = 0 adds q_c, one with q_c = 0 alone
    makes it infinite.
    """
    terms = [
        p_c * expm1_less(g) if abs(g) < 0.5 else total([q_c, -p_c, -times(p_c, g)])
        for p_c, q_c, g in zip(p, q, gap, strict=True)
    ]
    return total(terms)


def log_over_mixture(gap: float, beta: float) -> float:
    """log(p_s / m) of m = beta p_t + (1 - beta) p_s, from gap = log p_s - log p_t: -log1p(beta (e^-gap - 1))."""
    if gap < -700.0:  # p_s is next to nothing beside p_t
        return gap - math.log(beta)
    return -math.log1p(beta * math.expm1(-gap))


def mixture_divergence(p: Sequence[float], q: Sequence[float], gap: Sequence[float], beta: float) -> float:
    """KL(q || m), m = beta p + (1 - beta) q, gap = log q - log p: the sum of q_c psi(beta (e^-gap_c - 1)) >= 0."""
    terms = []
    for p_c, q_c, g in zip(p, q, gap, strict=True):
        if q_c == 0:
            terms.append(beta * p_c)
        elif abs(g) < 0.5:
            terms.append(q_c * less_log1p(beta * math.expm1(-g)))
        else:
            terms += [q_c * log_over_mixture(g, beta), beta * p_c, -beta * q_c]
    return math.fsum(terms)


def distillation(
    student: Sequence[float],
    teacher: Sequence[float],
    kind: str = "forward",
    temperature: float = 1.0,
    beta: float = 0.5,
) -> float:
    """T^2 times a divergence of the softmaxes p_s and p_t of the logits over T.

    forward: KL(p_t || p_s). reverse: KL(p_s || p_t). js: beta KL(p_t || m) + (1 - beta) KL(p_s || m), where m is
    beta p_t + (1 - beta) p_s.
    """
    found = pair(student, teacher, temperature)
    if found is None:
        return math.nan
    p_s, p_t, gap = found
    back = [-g for g in gap]
    if kind == "forward":
        loss = divergence(p_t, p_s, gap)
    elif kind == "reverse":
        loss = divergence(p_s, p_t, back)
    else:
        of_teacher = mixture_divergence(p_s, p_t, back, 1.0 - beta)
        loss = beta * of_teacher + (1.0 - beta) * mixture_divergence(p_t, p_s, gap, beta)
    return temperature * temperature * loss


def distillation_grad(
    student: Sequence[float],
    teacher: Sequence[float],
    kind: str = "forward",
    temperature: float = 1.0,
    beta: float = 0.5,
) -> list[float]:
    """The gradient of that loss on the student's logits.

    forward: T (p_s - p_t), which is T p_t (e^d - 1). reverse: T p_s (d - KL). js: T (1 - beta) p_s (log(p_s / m) - KL),
    with KL(p_s || m). Where reverse's loss is infinite, it is NaN.
    """
    found = pair(student, teacher, temperature)
    if found is None:
        return [math.nan] * len(student)
    p_s, p_t, gap = found
    if kind == "forward":
        return [
            temperature * (p * math.expm1(g) if abs(g) < 0.5 else q - p) for q, p, g in zip(p_s, p_t, gap, strict=True)
        ]
    if kind == "reverse":
        kl = divergence(p_s, p_t, [-g for g in gap])
        if math.isinf(kl):
            return [math.nan] * len(student)
        return [temperature * times(p, g - kl) for p, g in zip(p_s, gap, strict=True)]
    kl = mixture_divergence(p_t, p_s, gap, beta)
    factor = temperature * (1.0 - beta)
    return [factor * p * (log_over_mixture(g, beta) - kl) if p else 0.0 for p, g in zip(p_s, gap, strict=True)]
