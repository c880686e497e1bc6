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

# A focal factor below it is taken for it where what it does not multiply is divided by it: nothing beside any number.
LEAST_FACTOR = 2.0**-900


def merged(blocks: Sequence[Numbers]) -> dict[str, Any]:
    """The numbers of blocks together, added up in their order; of the names that the first one has."""
    names = blocks[0].keys()
    top = _folded(np.maximum, blocks, "max")
    found, known = {"max": top}, np.isfinite(top).all()
    taken = np.zeros(np.shape(top), bool)
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        for block in blocks:
            m, rest = block["max"], block["rest"]
            ahead, error = _less(top, m)
            scale = np.exp(-ahead)
            scale *= 1 - error
            if not (known and np.isfinite(m).all()):
                scale, ahead = np.where(m == -np.inf, 0, scale), np.where(m == top, 0, ahead)
            leads = (m == top) & ~taken
            taken |= leads
            lost = scale * rest
            lost += scale
            np.copyto(lost, rest, where=leads)
            _add(found, "rest", lost)
            if "distance" in names:
                _add(found, "distance", block["distance"] + times(block["mass"], ahead))
            if "spread" in names:
                _add(found, "spread", scale * block["spread"] + times(scale, ahead) * (1 + rest))
    if not known:
        found["rest"] = np.where(np.isnan(top), np.nan, np.where(top == -np.inf, 0, found["rest"]))
    for name in names - found.keys():
        found[name] = _folded(np.maximum if name in ("target", "sample_weight") else np.add, blocks, name)
    return found


def _add(found: dict[str, Any], name: str, values: Any) -> None:
    if name in found:
        found[name] += values
    else:
        found[name] = values


def _folded(ufunc: Any, blocks: Sequence[Numbers], name: str) -> Any:
    value = blocks[0][name]
    for block in blocks[1:]:
        value = ufunc(value, block[name])
    return value


def _less(a: Any, b: Any) -> tuple[Any, Any]:
    """a - b and the error of its rounding, as `reference.two_diff` has them."""
    d = a - b
    seen = a - d
    error = a - (d + seen)
    error += seen - b
    return d, error if np.isfinite(d).all() else np.where(np.isfinite(d), error, 0)


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
    of: Numbers, mine: Any, all_classes: int, label_smoothing: float = 0.0, z_loss: float = 0.0, focal: float = 0.0
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
        least = np.maximum(f, LEAST_FACTOR)
        floor = label_smoothing / all_classes * of.get("class_weight", 1.0)
        at_target = np.where(
            left < 0.5,  # as two terms that do not cancel: see `reference.cross_entropy_grad`
            f * (mass - floor) + z_term - a * left,
            a * np.exp(-terms.below) - (f * (terms.own + floor) + slope),
        )
        statistics = np.stack([m, of["rest"], a / least], -1)
    return Start(statistics, least, at_target)
