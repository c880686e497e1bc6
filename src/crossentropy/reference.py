"""The specification: log-softmax, cross-entropy and its gradient in pure Python, one row at a time.

Every backend is tested against this file. Read it for the mathematics; nothing here is meant to be fast. A row is a
list of C floats, the logits z. Equation numbers are those of the note by R. Boutin that the package completes
(``docs/derivation.md``), "eq. 5-6" being the loss of one observation.

Accuracy. The difference of two logits is carried as an exact pair, sums are exact (``math.fsum``), and nothing that is
small is formed by subtracting what is large: with m = max z and the sum R of e^(z_c - m) over every class but one at
the maximum,

    lse = log sum_c e^(z_c) = m + log1p(R)        p_c = e^(z_c - m) / (1 + R)        1 - p_y = -expm1(-loss)

so that a loss of 1e-22 keeps every digit. Losses and log-probabilities are within 2 ulp of float64, probabilities and
gradients within 3 (tests/test_reference.py, against 400 digits).

Conventions. A product with a weight or probability of exactly 0 is 0, also with an infinite factor. A row with a NaN or
+inf, or with nothing but -inf, gives NaN, but for its logsumexp; a row of weight 0 is never looked at and gives 0.
"""

from __future__ import annotations

import decimal
import math
import operator
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

# ---------------------------------------------------------------------- one row


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
        terms = [exp_diff(value, m) * (1.0 + (own - low)) for value, own in zip(z, lows, strict=True)]
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


# ---------------------------------------------------------------------- the loss of one row


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
    return [exp_diff(value, s.max) * (1.0 + low) / (1.0 + s.rest) for value, low in zip(z.z, lows, strict=True)]


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


# ---------------------------------------------------------------------- blocks of classes


class Block(NamedTuple):
    """What a row's block of classes adds to its loss.

    The sum of e^z over the block is e^max (1 + rest). ``target`` is the target's logit, -inf where that is a class of
    another block; ``mass`` is the sum of what smoothing and probability targets weigh the classes by, t_c, and
    ``distance`` that of t_c (max - z_c).
    """

    max: float
    rest: float
    target: float
    mass: float
    distance: float


def spread_weights(target: int | Sequence[float] | None, classes: int, all_classes: int, options: Row) -> list[float]:
    """t_c over a block, without what an index target itself weighs: w_c epsilon / C, or w_c q'_c."""
    w = options.class_weight if options.class_weight is not None else [1.0] * classes
    q, floor = target if isinstance(target, Sequence) else [0.0] * classes, options.label_smoothing / all_classes
    return [times(w_c, (1.0 - options.label_smoothing) * q_c + floor) for w_c, q_c in zip(w, q, strict=True)]


def block(z: Sequence[float], target: int | Sequence[float] | None, all_classes: int, options: Row = PLAIN) -> Block:
    """The Block of some classes of a row that has so many: target is one of these, their probabilities, or elsewhere.

    >>> crossentropy.reference.block([2.0, 2.0], None, 4)
    Block(max=2.0, rest=1.0, target=-inf, mass=0.0, distance=0.0)
    """
    given, t = (
        transformed(z, target if isinstance(target, int) else [], options),
        spread_weights(target, len(z), all_classes, options),
    )
    mass, own = total(t), given.z[target] if isinstance(target, int) else -math.inf
    if all(value == -math.inf for value in given.z):
        return Block(-math.inf, 0.0, -math.inf, mass, math.inf if mass else 0.0)
    s = partial(given.z, given.low)
    distance = total([times(t_c, part) for c, t_c in enumerate(t) for part in below_max(given, s, c)])
    return Block(s.max, s.rest, own, mass, distance)


def merge_blocks(a: Block, b: Block) -> Block:
    """The Block of both: what is below its own maximum is so much further below the larger one.

    >>> both = crossentropy.reference.block([2.0], None, 2), crossentropy.reference.block([1.0], 0, 2)
    >>> crossentropy.reference.merge_blocks(*both) == crossentropy.reference.block([2.0, 1.0], 1, 2)
    True
    """
    s = merge(Partial(a.max, a.rest), Partial(b.max, b.rest)) if min(a.max, b.max) > -math.inf else max(a, b)
    further = [times(each.mass, 0.0 if each.max == s.max else s.max - each.max) for each in (a, b)]
    return Block(
        s.max,
        s.rest,
        max(a.target, b.target),
        total([a.mass, b.mass]),
        total([a.distance, b.distance, *further]),
    )


def block_grad(
    z: Sequence[float],
    target: int | Sequence[float] | None,
    all_classes: int,
    top: float,
    rest: float,
    mass: float,
    options: Row = PLAIN,
) -> list[float]:
    """The gradient of `cross_entropy` on a block, from the maximum and rest of all of them: v [a p_c - t_c].

    ``mass`` is a but for the weight of a target in the block itself: that of all blocks, 2 lambda lse, and the weight
    of a target that lies elsewhere.

    >>> crossentropy.reference.block_grad([0.0], 0, 2, 0.0, 1.0, 0.0)
    [-0.5]
    """
    if math.isnan(top):
        return [math.nan] * len(z)
    index = target if isinstance(target, int) else None
    given, t = (
        transformed(z, [] if index is None else index, options),
        spread_weights(target, len(z), all_classes, options),
    )
    p = probabilities(given, Partial(top, rest))
    w_y = 1.0 if options.class_weight is None or index is None else options.class_weight[index]
    own = 0.0 if index is None else (1.0 - options.label_smoothing) * w_y
    a = total([mass, own])
    grad = [total([times(p_c, a), -t_c]) for p_c, t_c in zip(p, t, strict=True)]
    if index is not None:
        grad[index] = total([times(p[index], a), -t[index], -own])
        if p[index] > 0.5:
            grad[index] = total([mass, -t[index], -a * rest / (1.0 + rest)])
    return [times(slope, options.weight * value) for slope, value in zip(given.slope, grad, strict=True)]


def block_log_probs_grad(
    z: Sequence[float], y: int | None, top: float, rest: float, distance: float, g_log_prob: float, g_entropy: float
) -> list[float]:
    """The gradient of `log_probs_grad` on a block, from the numbers of all of them; y is a class of it, or elsewhere.

    >>> crossentropy.reference.block_log_probs_grad([0.0], None, 0.0, 1.0, 0.0, 1.0, 0.0)
    [-0.5]
    """
    if math.isnan(top):
        return [math.nan] * len(z)
    p = probabilities(Transformed(list(z), None, []), Partial(top, rest))
    grad = [
        total([times(p_c * g_entropy, total([top, -value, -distance])), -g_log_prob * p_c])
        for p_c, value in zip(p, z, strict=True)
    ]
    if y is not None:
        below_1 = rest / (1.0 + rest) if p[y] > 0.5 else 1.0 - p[y]
        grad[y] = total([times(p[y] * g_entropy, total([top, -z[y], -distance])), g_log_prob * below_1])
    return grad


# ---------------------------------------------------------------------- the batch (algorithm 1's cost)


def divisor(targets: Sequence[Any], weights: Sequence[float], class_weight: Sequence[float] | None) -> float:
    """What 'mean' divides by: sum_n v_n w_{y_n} over index targets, sum_n v_n over probability targets.

    >>> crossentropy.reference.divisor([0, 1, 1], [1.0, 1.0, 0.0], [2.0, 3.0])
    5.0
    """
    index = [isinstance(target, int) for target in targets]
    return math.fsum(
        v * (class_weight[target] if is_index and class_weight is not None else 1.0)
        for v, target, is_index in zip(weights, targets, index, strict=True)
        if v != 0
    )


def mean(losses: Sequence[float], by: float, empty: float = math.nan) -> float:
    """c(b) of algorithm 1: the sum of the rows' losses over the divisor; ``empty`` where no row counts.

    >>> crossentropy.reference.mean([1.0, 2.0], 2.0)
    1.5
    """
    return total(losses) / by if by else empty


# ---------------------------------------------------------------------- the logits of a linear layer, and what follows


def linear(
    hidden: Sequence[float], weight: Sequence[Sequence[float]], bias: Sequence[float] | None = None
) -> list[float]:
    """The logits of a row of hidden states: z_c = sum_k W_ck x_k + beta_c.

    >>> crossentropy.reference.linear([1.0, 2.0], [[1.0, 0.0], [1.0, 1.0]], [0.5, 0.0])
    [1.5, 3.0]
    """
    betas = bias if bias is not None else [0.0] * len(weight)
    return [total([*map(operator.mul, w, hidden), beta]) for w, beta in zip(weight, betas, strict=True)]


def linear_grad(
    grad: Sequence[Sequence[float]], hidden: Sequence[Sequence[float]], weight: Sequence[Sequence[float]]
) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """The gradients on rows of hidden states, weight and bias, G W, G^T X and sum_n G_n, from the rows G on logits.

    >>> crossentropy.reference.linear_grad([[1.0, -1.0]], [[1.0, 2.0]], [[1.0, 0.0], [1.0, 1.0]])
    ([[0.0, -1.0]], [[1.0, 2.0], [-1.0, -2.0]], [1.0, -1.0])
    """
    classes, by_class = list(zip(*weight, strict=True)), list(zip(*grad, strict=True))
    columns = list(zip(*hidden, strict=True))
    on_hidden = [[total(list(map(operator.mul, g, w))) for w in classes] for g in grad]
    on_weight = [[total(list(map(operator.mul, g, x))) for x in columns] for g in by_class]
    return on_hidden, on_weight, [total(g) for g in by_class]


# ---------------------------------------------------------------------- the numbers of a row


class Numbers(NamedTuple):
    """A row's logits as options transform them, but for the margin, which is the loss's own; what they add up to."""

    z: Transformed
    s: Partial
    p: list[float]
    below: list[float]  # m - z_c
    distance: float  # sum_c p_c (m - z_c): how far below the maximum they lie on average, a sum of terms >= 0

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """The logits with what they are short of: in their order, which differences from the maximum would round."""
        return list(zip(self.z.z, self.z.low or [0.0] * len(self.z.z), strict=True))


def numbers_of(z: Sequence[float], options: Row = PLAIN) -> Numbers:
    """What the numbers of a row are made of; NaN where its maximum is.

    >>> crossentropy.reference.numbers_of([0.0, 0.0]).p
    [0.5, 0.5]
    """
    given = transformed(z, [], options)
    s = partial(given.z, given.low)
    p, below = probabilities(given, s), [total(below_max(given, s, c)) for c in range(len(z))]
    return Numbers(given, s, p, below, total([times(p_c, value) for p_c, value in zip(p, below, strict=True)]))


def log_prob(z: Sequence[float], y: int, options: Row = PLAIN) -> float:
    """log p_y, as in `log_softmax`.

    >>> crossentropy.reference.log_prob([0.0, 0.0], 1)
    -0.6931471805599453
    """
    r = numbers_of(z, options)
    return -total([*below_max(r.z, r.s, y), r.s.log_sum])


def entropy(z: Sequence[float], options: Row = PLAIN) -> float:
    """The entropy of the softmax, -sum_c p_c log p_c, in nats, with 0 for a class of probability 0.

    Since -log p_c = (m - z_c) + log1p(R), it is sum_c p_c (m - z_c) + log1p(R): two terms >= 0, so that it keeps its
    digits where one class leads, and is 0 only where all others are at -inf.

    >>> crossentropy.reference.entropy([0.0, 0.0])
    0.6931471805599453
    """
    r = numbers_of(z, options)
    return total([r.distance, r.s.log_sum])


def entropy_grad(z: Sequence[float], options: Row = PLAIN) -> list[float]:
    """The gradient of the entropy h on the logits: -p_c (log p_c + h) = p_c ((m - z_c) - sum_k p_k (m - z_k)).

    >>> crossentropy.reference.entropy_grad([0.0, 0.0])
    [0.0, 0.0]
    """
    r = numbers_of(z, options)
    grad = [times(p_c, total([*below_max(r.z, r.s, c), -r.distance])) for c, p_c in enumerate(r.p)]
    return [times(slope, value) for slope, value in zip(r.z.slope, grad, strict=True)]


def largest(z: Sequence[float], options: Row = PLAIN) -> int:
    """The class of the largest logit, the first of several; -1 for a row that is undefined.

    >>> crossentropy.reference.largest([0.0, 2.0, 2.0])
    1
    """
    r = numbers_of(z, options)
    return -1 if math.isnan(r.s.max) else max(range(len(z)), key=lambda c: (r.pairs[c], -c))


def rank(z: Sequence[float], y: int, options: Row = PLAIN) -> int:
    """How many classes lie above y: those of a larger logit, and those of the same with a lower number.

    So it is 0 for the largest alone. Of a row that is undefined it is the number of classes: y is at no top.

    >>> crossentropy.reference.rank([0.0, 2.0, 2.0], 2)
    1
    """
    r = numbers_of(z, options)
    if math.isnan(r.s.max):
        return len(z)
    return sum(pair > r.pairs[y] or (pair == r.pairs[y] and c < y) for c, pair in enumerate(r.pairs))


def log_probs_grad(
    z: Sequence[float], y: int, g_log_prob: float, g_entropy: float, options: Row = PLAIN
) -> list[float]:
    """The gradient of g_log_prob log p_y + g_entropy h on the logits, with 1 - p_y as in `cross_entropy_grad`.

    >>> crossentropy.reference.log_probs_grad([0.0, 0.0], 1, 1.0, 0.0)
    [-0.5, 0.5]
    """
    plain = options._replace(weight=1.0, class_weight=None, label_smoothing=0.0, z_loss=0.0, margin=0.0, focal=0.0)
    of_log_prob = [-value for value in cross_entropy_grad(z, y, plain)]
    terms = zip(of_log_prob, entropy_grad(z, options), strict=True)
    return [total([times(g_log_prob, a), times(g_entropy, b)]) for a, b in terms]


def log_probs_terms(
    z: Sequence[float], y: int, g_log_prob: float, g_entropy: float, options: Row = PLAIN
) -> list[float]:
    """The largest of the terms of each entry of that gradient: in its ulp an entry is judged.

    >>> crossentropy.reference.log_probs_terms([0.0, 0.0], 1, 1.0, 0.0)
    [0.5, 0.5]
    """
    r = numbers_of(z, options)
    of_log_prob = [abs(value) for value in log_probs_grad(z, y, g_log_prob, 0.0, options)]
    of_entropy = [
        abs(g_entropy) * times(p_c, max(r.distance, value)) * abs(slope)
        for p_c, value, slope in zip(r.p, r.below, r.z.slope, strict=True)
    ]
    return [max(a, b) for a, b in zip(of_log_prob, of_entropy, strict=True)]


# ---------------------------------------------------------------------- targets that are a teacher's logits

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


def pair(student: Sequence[float], teacher: Sequence[float], temperature: float = 1.0) -> Pair | None:
    """The Pair of two rows; None where the softmax of either is undefined.

    Rows that are nearly equal, up to a constant, would lose all digits of d_c in log p_s,c - log p_t,c. So differences
    are taken first: with x_c = ((s_c - t_c) - (s_k - t_k)) / T for some class k,

        d_c = x_c - log sum_c p_t,c e^(x_c)        log sum_c p_t,c e^(x_c) = log1p(sum_c p_t,c (e^(x_c) - 1))
    """
    a, b = ([z / temperature for z in row] for row in (student, teacher))
    s, t = partial(a), partial(b)
    if math.isnan(s.max) or math.isnan(t.max):
        return None
    p_s, p_t = ([exp_diff(z, m.max) / (1.0 + m.rest) for z in row] for row, m in ((a, s), (b, t)))
    counts = [max(pair_of_logits) > -math.inf for pair_of_logits in zip(a, b, strict=True)]
    finite = [c for c, pair_of_logits in enumerate(zip(a, b, strict=True)) if min(pair_of_logits) > -math.inf]
    k = finite[0] if finite else 0
    base = (-student[k], teacher[k]) if finite else (0.0, 0.0)
    x = [
        total([z, -y, *base]) / temperature if counted else 0.0
        for z, y, counted in zip(student, teacher, counts, strict=True)
    ]
    if max(map(abs, x)) <= 1.0:
        shift = math.log1p(math.fsum(p * math.expm1(each) for p, each in zip(p_t, x, strict=True)))
    else:
        over_k = total([-base[0], -base[1]]) / temperature
        shift = math.fsum([s.max, s.log_sum, -t.max, -t.log_sum, -over_k])
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


# ---------------------------------------------------------------------- losses of one logit each


class Binary(NamedTuple):
    """The options of a loss of one logit."""

    weight: float = 1.0
    pos_weight: float = 1.0  # of the target's share, t
    gamma: float = 0.0  # of the focal factor; 0 is none
    alpha: float | None = None  # what the target's share counts, and 1 - alpha the rest


def softplus(z: float) -> float:
    """log(1 + e^z) = max(z, 0) + log1p(e^(-|z|)): a sum of terms >= 0, none of which is a difference.

    >>> crossentropy.reference.softplus(-50.0)
    1.9287498479639178e-22
    """
    return max(z, 0.0) + math.log1p(math.exp(-abs(z))) if z == z else z


def sigmoid(z: float) -> float:
    """1 / (1 + e^-z), which for a negative z is u / (1 + u) with u = e^z.

    >>> crossentropy.reference.sigmoid(0.0)
    0.5
    """
    u = math.exp(-abs(z))
    return (u if z < 0 else 1.0) / (1 + u) if z == z else z


def _binary(z: float, t: float, options: Binary) -> tuple[float, float, float, float]:
    """The plain loss and gradient, the probability q that the target has not, and what the target counts."""
    up, rest = options.pos_weight * t, 1 - t
    loss = times(up, softplus(-z)) + times(rest, softplus(z))
    slope = rest * sigmoid(z) - up * sigmoid(-z)
    q = rest * sigmoid(z) + t * sigmoid(-z)
    return loss, slope, q, 1.0 if options.alpha is None else options.alpha * t + (1 - options.alpha) * rest


def binary_cross_entropy(z: float, t: float, options: Binary = Binary()) -> float:  # noqa: B008  # it has no state
    """The loss of a logit z, whose target is t with certainty 1 (or in between): the cross-entropy of (1 - t, t).

    loss = w (r t softplus(-z) + (1 - t) softplus(z)), in a focal loss times (alpha t + (1 - alpha)(1 - t)) q^gamma
    with q = t sigma(-z) + (1 - t) sigma(z) (Lin et al. 2017).

    >>> crossentropy.reference.binary_cross_entropy(50.0, 1.0)
    1.9287498479639178e-22
    """
    loss, _, q, share = _binary(z, t, options)
    if options.gamma:
        loss = times(q**options.gamma, loss)
    return times(options.weight * share, loss)


def binary_cross_entropy_grad(z: float, t: float, options: Binary = Binary()) -> float:  # noqa: B008
    """Its gradient: w ((1 - t) sigma(z) - r t sigma(-z)); with a focal factor, of the product of both.

    >>> crossentropy.reference.binary_cross_entropy_grad(0.0, 1.0)
    -0.5
    """
    loss, slope, q, share = _binary(z, t, options)
    if options.gamma:
        both = sigmoid(z) * sigmoid(-z)
        turn = options.gamma * (1 - 2 * t) * times(both, loss) / q if q > 0 and both > 0 else 0.0
        slope = times(q**options.gamma, slope + turn)
    return times(options.weight * share, slope)


# ---------------------------------------------------------------------- second derivatives

HESSIANS = ("diagonal", "upper_bound", "gauss_newton_product", "xgboost", "lightgbm")
XGBOOST_LEAST = 1e-16  # kRtEps of its multi-class objective


def curvature(z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN) -> tuple[float, float]:
    """a = sum_c t_c + 2 lambda lse and b = 2 lambda: the Hessian is v [a (diag p - p p^T) + b p p^T]."""
    t = target_weights(target, len(z), options)
    return total([*t, times(2.0 * options.z_loss, partial(z).lse)]), 2.0 * options.z_loss


def cross_entropy_hessian(
    z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN, kind: str = "diagonal"
) -> list[float]:
    """The diagonal of the Hessian of `cross_entropy` on z, or what stands for it.

    diagonal: v [a p_c (1 - p_c) + b p_c^2], with 1 - p_c = R / (1 + R) for the class that leads (p_c > 1/2).
    upper_bound: the diagonal of v [max(a, 0) (I - 1 1^T / C) / 2 + b I], which is no less than the Hessian whatever p
    is (Boehning 1992). lightgbm: C / (C - 1) times the diagonal. xgboost: twice the diagonal, and 1e-16 at least.
    """
    classes = len(z)
    if options.weight == 0:
        return [0.0] * classes
    s = partial(z)
    if math.isnan(s.max):
        return [math.nan] * classes
    a, b = curvature(z, target, options)
    if kind == "upper_bound":
        return [options.weight * (max(a, 0.0) * 0.5 * (1.0 - 1.0 / classes) + b)] * classes
    of_others = s.rest / (1.0 + s.rest)
    factor = {"diagonal": 1.0, "xgboost": 2.0, "lightgbm": classes / (classes - 1.0) if classes > 1 else 1.0}[kind]
    least = XGBOOST_LEAST if kind == "xgboost" else -math.inf
    return [
        max(factor * options.weight * (a * p * (of_others if p > 0.5 else 1.0 - p) + b * p * p), least)
        for p in softmax(z)
    ]


def cross_entropy_hessian_product(
    z: Sequence[float], target: int | Sequence[float], vector: Sequence[float], options: Row = PLAIN
) -> list[float]:
    """The Hessian of `cross_entropy` times a vector u: v [a p_c (u_c - sum p u) + b p_c sum p u].

    Both are taken from u_k of the class k at the maximum, so that where it leads, u_k - sum p u loses nothing.
    """
    if options.weight == 0:
        return [0.0] * len(z)
    s = partial(z)
    if math.isnan(s.max):
        return [math.nan] * len(z)
    a, b = curvature(z, target, options)
    p, at_top = softmax(z), vector[z.index(s.max)]
    below = [total([u, -at_top]) for u in vector]
    mean = math.fsum(times(p_c, w) for p_c, w in zip(p, below, strict=True))
    whole = times(b, at_top + mean)
    return [options.weight * times(p_c, times(a, w - mean) + whole) for p_c, w in zip(p, below, strict=True)]
