"""The loss of one row, the equations 5 and 6 of the note, and its gradient, with every option."""

from __future__ import annotations

import decimal
import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from .exact import exp_diff, times, total, two_diff, two_sum
from .rows import Partial, partial


class Row(NamedTuple):
    """The options of one row.

    weight is the row's sample weight v; class_weight the w_c (None: all 1); label_smoothing is epsilon, z_loss lambda.
    logit_scale is a, softcap c (0: none), class_prior the b_c (None: all 0), margin m, focal gamma.
    """

    weight: float = 1.0
    class_weight: Sequence[float] | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    logit_scale: float = 1.0
    softcap: float = 0.0
    class_prior: Sequence[float] | None = None
    margin: float = 0.0
    focal: float = 0.0


PLAIN = Row()


class Transformed(NamedTuple):
    """The logits that a loss is of, z + low to twice the digits of a float, and their slopes on what was given.

    A row's largest logit and its target's cancel in a small loss, so that rounding either would show in it.
    """

    z: list[float]
    low: list[float] | None
    slope: list[float]


def scaled(value: float, scale: float) -> tuple[float, float]:
    """scale times value as a pair.

    >>> crossentropy.reference.scaled(0.1, 3.0)
    (0.30000000000000004, -2.7755575615628914e-17)
    """
    product = scale * value
    if not math.isfinite(product):
        return product, 0.0
    return product, float(Fraction(scale) * Fraction(value) - Fraction(product))


def capped(high: float, low: float, cap: float) -> tuple[float, float, float]:
    """c tanh(u / c) of a pair u as a pair, and its slope 1 - tanh^2(u / c): c (1 - s) and s (2 - s) for u >= 0.

    s = 2 E / (1 + E) with E = e^(-2 |u| / c), which keeps its digits where tanh is near 1.

    >>> crossentropy.reference.capped(0.0, 0.0, 30.0)
    (0.0, 0.0, 1.0)
    """
    if not math.isfinite(high):
        return math.copysign(cap, high) if math.isinf(high) else high, 0.0, 0.0 if math.isinf(high) else high
    with decimal.localcontext(decimal.Context(prec=60, Emin=-(10**6), Emax=10**6)):
        u, c = abs(Decimal(high) + Decimal(low)), Decimal(cap)
        e = (-2 * u / c).exp()
        s = 2 * e / (1 + e)
        # Of a small u / c, all but the first terms of the series are below the pair's last digit.
        value = c * (1 - s) if u > c * Decimal("1e-20") else u
        value = value.copy_sign(Decimal(high))
        capped_high = float(value)
        return capped_high, float(value - Decimal(capped_high)), float(s * (2 - s))


def transformed(z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN) -> Transformed:
    """c tanh(a z / c) + b, less m at the target that is a class: scale, softcap, prior and margin in this order.

    >>> crossentropy.reference.transformed([1.0, 2.0], 0, crossentropy.reference.Row(margin=0.5)).z
    [0.5, 2.0]
    """
    a, c, b, m = options.logit_scale, options.softcap, options.class_prior, options.margin
    highs, lows, slopes = list(z), [0.0] * len(z), [1.0] * len(z)
    if a == 1 and not c and b is None and not m:
        return Transformed(highs, None, slopes)
    for k, value in enumerate(z):
        high, low, slope = *scaled(value, a), 1.0
        if c:
            high, low, slope = capped(high, low, c)
        for term in (0.0 if b is None else b[k], -m if isinstance(target, int) and k == target else 0.0):
            high, more = two_sum(high, term)
            high, low = two_sum(high, low + more)
        highs[k], lows[k], slopes[k] = high, low, a * slope
    return Transformed(highs, lows, slopes)


def below_max(z: Transformed, s: Partial, c: int) -> tuple[float, float, float]:
    """m - z_c, whose sum is exact."""
    return *two_diff(s.max, z.z[c]), s.low - z.low[c] if z.low is not None and math.isfinite(z.z[c]) else 0.0


def smoothed(q: Sequence[float], epsilon: float) -> list[float]:
    """q'_c = (1 - epsilon) q_c + epsilon / C.

    >>> crossentropy.reference.smoothed([1.0, 0.0], 0.5)
    [0.75, 0.25]
    """
    return [(1.0 - epsilon) * value + epsilon / len(q) for value in q]


def target_weights(target: int | Sequence[float], classes: int, options: Row) -> list[float]:
    """t_c, the weight of -log p_c in the loss: w_c q'_c; for an index target (1-epsilon) w_y at y, plus epsilon/C w_c.

    Eq. 5 is this with t the one-hot vector of y.

    >>> crossentropy.reference.target_weights(0, 2, crossentropy.reference.Row(class_weight=[3.0, 1.0]))
    [3.0, 0.0]
    """
    w = options.class_weight if options.class_weight is not None else [1.0] * classes
    q = [float(c == target) for c in range(classes)] if isinstance(target, int) else target
    return [w_c * q_c for w_c, q_c in zip(w, smoothed(q, options.label_smoothing), strict=True)]


class Terms(NamedTuple):
    """What the loss of a row and its gradient are made of."""

    z: Transformed
    s: Partial
    t: list[float]
    data: float  # D = sum_c t_c (lse - z_c)
    log_p: float  # of the class that is the target; 0 where there is none
    factor: float  # f = (1 - p_y)^gamma
    slope: float  # of f on log p_y, but for its sign: gamma (1 - p_y)^(gamma - 1) p_y


def terms_of(z: Sequence[float], target: int | Sequence[float], options: Row) -> Terms:
    """The terms of a row; NaN where its maximum is."""
    given, t = transformed(z, target, options), target_weights(target, len(z), options)
    s = partial(given.z, given.low)
    data = total([times(t_c, part) for c, t_c in enumerate(t) for part in (*below_max(given, s, c), s.log_sum)])
    log_p = -total([*below_max(given, s, target), s.log_sum]) if isinstance(target, int) else 0.0
    if not options.focal or math.isnan(s.max):
        return Terms(given, s, t, data, log_p, 1.0, 0.0)
    below_1, gamma = -math.expm1(log_p), options.focal
    if below_1 == 0:  # no other class has any probability: the limit of what the slope is multiplied by
        return Terms(given, s, t, data, log_p, 0.0, 0.0)
    factor = below_1**gamma
    return Terms(given, s, t, data, log_p, factor, gamma * (factor / below_1) * math.exp(log_p))


def cross_entropy(z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN) -> float:
    """The loss of one row: v [f sum_c t_c (lse - z_c) + lambda lse^2] (eq. 5; eq. 6 where the target is one class).

    lse - z_c = (m - z_c) + log1p(R) is a sum of two terms >= 0. The logits are those of `transformed`, and
    f = (1 - p_y)^gamma, 1 without focal.

    >>> crossentropy.reference.cross_entropy([50.0, 0.0], 0)
    1.9287498479639178e-22
    """
    if options.weight == 0:
        return 0.0
    r = terms_of(z, target, options)
    if math.isnan(r.s.max):
        return math.nan
    return options.weight * total([times(r.factor, r.data), times(options.z_loss, r.s.lse * r.s.lse)])


def cross_entropy_grad(z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN) -> list[float]:
    """The gradient of that loss on z: v [a p_c - t_c] with a = sum_c t_c + 2 lambda lse.

    For an index target y, p_y is near 1 when the loss is small, and a p_y - t_y would lose all its digits. Where p_y
    passes 1/2,

        a p_y - t_y = (a - t_y) + a (p_y - 1) = sum_{c != y} t_c + 2 lambda lse + a expm1(log p_y).

    Focal multiplies each t_c by f, and adds g = gamma (1 - p_y)^(gamma - 1) p_y D to that of the target. Where D is
    infinite, so is the gradient: as g (p_c - delta_cy) is, and 0 times g where p_c is 0. The slopes of
    `transformed` multiply what comes of this.

    >>> crossentropy.reference.cross_entropy_grad([50.0, 0.0], 0)
    [-1.9287498479639178e-22, 1.9287498479639178e-22]
    """
    if options.weight == 0:
        return [0.0] * len(z)
    r = terms_of(z, target, options)
    if math.isnan(r.s.max):
        return [math.nan] * len(z)
    p = probabilities(r.z, r.s)
    z_term, t = times(2.0 * options.z_loss, r.s.lse), [times(r.factor, t_c) for t_c in r.t]
    gained = times(r.slope, r.data)  # g; inf where a class that label smoothing gives a weight is masked
    if isinstance(target, int):
        t[target] = total([t[target], gained])
    a = total([*t, z_term])
    grad = [total([times(p_c, a), -t_c]) for p_c, t_c in zip(p, t, strict=True)]
    if isinstance(target, int) and p[target] > 0.5:
        others = [t_c for c, t_c in enumerate(t) if c != target]
        grad[target] = total([*others, z_term, a * math.expm1(r.log_p)])
    elif isinstance(target, int) and gained == math.inf:
        grad[target] = -math.inf  # of a p_y - t_y: g (p_y - 1)
    return [times(slope, options.weight * value) for slope, value in zip(r.z.slope, grad, strict=True)]


def probabilities(z: Transformed, s: Partial) -> list[float]:
    """p_c of logits that may be pairs."""
    lows = [0.0] * len(z.z) if z.low is None else [low - s.low for low in z.low]
    return [exp_diff(value, s.max, low) / (1.0 + s.rest) for value, low in zip(z.z, lows, strict=True)]


def largest_terms(z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN) -> list[float]:
    """The larger of the two terms of each entry of the gradient, v a p_c and v t_c: in its ulp an entry is judged.

    >>> crossentropy.reference.largest_terms([0.0, 0.0], 0)
    [1.0, 0.5]
    """
    r = terms_of(z, target, options)
    t = [times(r.factor, t_c) for t_c in r.t]
    if isinstance(target, int):
        t[target] += times(r.slope, r.data)
    a = total([*t, abs(times(2.0 * options.z_loss, r.s.lse))])
    p = probabilities(r.z, r.s)
    return [
        options.weight * slope * max(times(p_c, a), abs(t_c)) for p_c, t_c, slope in zip(p, t, r.z.slope, strict=True)
    ]
