"""Blocks of a row's classes: what each adds to the loss, how two are merged, a block's gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .exact import times, total
from .loss import PLAIN, Row, Transformed, below_max, probabilities, transformed
from .rows import Partial, merge, partial


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
