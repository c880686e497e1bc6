"""Losses of one logit each: binary cross-entropy, and its focal form."""

from __future__ import annotations

import math
from typing import NamedTuple

from .exact import times


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
