"""The numbers of a row beside its loss: log-probability, entropy, the largest class, the target's rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .exact import exp_diff, times, total
from .loss import PLAIN, Row, Transformed, below_max, cross_entropy_grad, probabilities, transformed
from .rows import Partial, partial


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
    parts = [times(p_c, value) for p_c, value in zip(p, below, strict=True)]
    for c, p_c in enumerate(p):
        if p_c < 2.0**-1000 and math.isfinite(below[c]):  # may lack digits that p_c (m - z_c) has a place for
            half = exp_diff(given.z[c] / 2, s.max / 2, 0.0 if given.low is None else (given.low[c] - s.low) / 2)
            parts[c] = half * below[c] * half / (1.0 + s.rest)
    return Numbers(given, s, p, below, total(parts))


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
    if math.isnan(r.s.max):
        return -1
    pairs = r.pairs
    return max(range(len(z)), key=lambda c: (pairs[c], -c))


def rank(z: Sequence[float], y: int, options: Row = PLAIN) -> int:
    """How many classes lie above y: those of a larger logit, and those of the same with a lower number.

    So it is 0 for the largest alone. Of a row that is undefined it is the number of classes: y is at no top.

    >>> crossentropy.reference.rank([0.0, 2.0, 2.0], 2)
    1
    """
    r = numbers_of(z, options)
    if math.isnan(r.s.max):
        return len(z)
    pairs = r.pairs
    return sum(pair > pairs[y] or (pair == pairs[y] and c < y) for c, pair in enumerate(pairs))


def log_probs_grad(
    z: Sequence[float], y: int, g_log_prob: float, g_entropy: float, options: Row = PLAIN
) -> list[float]:
    """The gradient of g_log_prob log p_y + g_entropy h on the logits, with 1 - p_y as in `cross_entropy_grad`.

    >>> crossentropy.reference.log_probs_grad([0.0, 0.0], 1, 1.0, 0.0)
    [-0.5, 0.5]
    """
    plain = PLAIN._replace(logit_scale=options.logit_scale, softcap=options.softcap, class_prior=options.class_prior)
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
