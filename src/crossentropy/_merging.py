"""The arithmetic of blocks of classes, on a few numbers of each row: merging, losses, what a gradient starts from.

A block's numbers are float64 arrays by name, as `crossentropy.blocks` documents them. A name that is missing stands for
what changes nothing: no mass, no distance, a class weight of 1. So what came by a wire is merged as far as it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Numbers = Mapping[str, Any]
OPTIONS = ("label_smoothing", "z_loss", "focal")  # what there is to do once the blocks are merged, in this order

AT_ONCE = 2**15  # numbers of a kind that are merged at once: 256 kB

# A focal factor below it is taken for it where what it does not multiply is divided by it: nothing beside any number.
LEAST_FACTOR = 2.0**-900


def merged(blocks: Sequence[Numbers]) -> dict[str, Any]:
    """The numbers (N,) of blocks together, some rows at a time so that the arithmetic stays in the caches."""
    count, rows = len(blocks), len(blocks[0]["max"])
    step = max(1, AT_ONCE // count)
    found = {name: np.empty(rows) for name in blocks[0]}
    for first in range(0, rows, step):
        part = slice(first, first + step)
        together = {name: np.array([block[name][part] for block in blocks], np.float64) for name in found}
        for name, values in merged_at_once(together).items():
            found[name][part] = values
    return found


def merged_at_once(blocks: Numbers) -> dict[str, Any]:
    """The numbers of blocks together, added up in their order, from (blocks, N) or (blocks, 1) of each name."""
    m, rest = blocks["max"], blocks["rest"]
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        top = m.max(0)
        ahead = top - m
        known = np.isfinite(ahead).all()
        seen = top - ahead
        error = top - (ahead + seen)  # of that difference, as `reference.two_diff` has it
        error += seen - m
        if not known:
            error[~np.isfinite(ahead)] = 0
        scale = np.exp(-ahead)
        scale -= scale * error
        if not known:
            scale[m == -np.inf] = 0
            ahead = np.where(m == top, 0, ahead)
        is_top = m == top
        taken = is_top[0]
        for each in is_top[1:]:  # the first one alone: the others count as any class does
            each &= ~taken
            taken = taken | each
        lost = scale * rest
        lost += np.where(is_top, 0, scale)
        found = {"max": top, "rest": lost.sum(0)}
        if not known:
            found["rest"] = np.where(np.isnan(top), np.nan, np.where(top == -np.inf, 0, found["rest"]))
        if "distance" in blocks:
            found["distance"] = (blocks["distance"] + times(blocks["mass"], ahead)).sum(0)
        if "spread" in blocks:
            found["spread"] = (scale * blocks["spread"] + times(scale, ahead) * (1 + rest)).sum(0)
    for name in blocks.keys() - found.keys():
        found[name] = blocks[name].max(0) if name in ("target", "sample_weight") else blocks[name].sum(0)
    return found


def times(weight: Any, value: Any) -> Any:
    """Weight times value, where 0 times inf is 0."""
    return np.where(weight == 0, 0, weight * value)


# ---------------------------------------------------------------------- from the numbers of all classes


class _Terms(NamedTuple):
    """As `reference.Terms` has them; log_p but for its sign."""

    log_sum: Any  # log(1 + rest)
    own: Any  # what an index target itself weighs, (1 - epsilon) w_y; 0 without one
    below: Any  # -log p_y; None without one
    data: Any  # D


def _terms_of(of: Numbers, label_smoothing: float) -> _Terms:
    log_sum, own, below, data = np.log1p(of["rest"]), 0.0, None, 0.0
    if "target" in of:
        below = of["max"] - of["target"]
        below += log_sum
        own = (1 - label_smoothing) * of.get("class_weight", 1.0)
        data = below if np.ndim(own) == 0 and own == 1 else times(own, below)
    if "distance" in of:
        data = data + of["distance"] + times(of["mass"], log_sum)
    return _Terms(log_sum, own, below, data)


def _focus_of(terms: _Terms, focal: float) -> tuple[Any, Any, Any]:
    """(f, 1 - p_y, gamma (1 - p_y)^(gamma - 1) p_y D), with the factor f = (1 - p_y)^gamma.

    Where no other class has any probability, what comes of f in a loss and a gradient is 0.
    """
    left = -np.expm1(-terms.below)
    factor = np.where(left == 0, 0, left**focal)
    slope = times(focal * (factor / np.where(left == 0, 1, left)) * np.exp(-terms.below), terms.data)
    return factor, left, np.where(left == 0, 0, slope)


def losses(of: Numbers, label_smoothing: float = 0.0, z_loss: float = 0.0, focal: float = 0.0) -> Any:
    """The losses of rows that weigh 1; NaN of one that is undefined."""
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        terms = _terms_of(of, label_smoothing)
        loss = times(_focus_of(terms, focal)[0], terms.data) if focal else terms.data
        if z_loss:
            loss = loss + z_loss * (of["max"] + terms.log_sum) ** 2
        known = np.isfinite(of["max"])
        return loss if known.all() else np.where(known, loss, np.nan)


class Start(NamedTuple):
    """What a backend's `backward` of a block starts from, and what is done to what it gives.

    With a focal factor f the gradient of a class is f times [(a / f) p_c - t_c], and that of the target, of which this
    is not so, a number by itself: the backend is told that it lies elsewhere.
    """

    statistics: np.ndarray  # (N, 3), contract.Statistics
    scale: Any = None  # what multiplies the rows' scales
    at_target: Any = None  # the gradient on the target's logit as transformed


def start_of(
    of: Numbers,
    mine: Any,
    all_classes: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    focal: float = 0.0,
    *,
    least: float = LEAST_FACTOR,
) -> Start:
    """The Start of a block; ``mine`` are the rows whose target is in it, None for probabilities."""
    m = of["max"] if np.isfinite(of["max"]).all() else np.where(np.isfinite(of["max"]), of["max"], np.nan)
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        mass = of.get("mass", 0.0)
        z_term = times(2 * z_loss, m + np.log1p(of["rest"])) if z_loss else 0.0
        if not focal:
            mass = mass + z_term
            if mine is not None:  # to a block that has it, the target's own weight is known
                mass = mass + np.where(mine, 0, (1 - label_smoothing) * of.get("class_weight", 1.0))
            return Start(np.stack(np.broadcast_arrays(m, of["rest"], mass), -1))
        terms = _terms_of(of, label_smoothing)
        f, left, slope = _focus_of(terms, focal)
        a = f * (mass + terms.own) + slope + z_term
        scale = np.maximum(f, least)
        floor = label_smoothing / all_classes * of.get("class_weight", 1.0)
        at_target = np.where(
            left < 0.5,  # as two terms that do not cancel: see `reference.cross_entropy_grad`
            f * (mass - floor) + z_term - a * left,
            a * np.exp(-terms.below) - (f * (terms.own + floor) + slope),
        )
        statistics = np.stack([m, of["rest"], a / scale], -1)
    return Start(statistics, scale, at_target)
