"""Choices of options in which every few values meet, where their full product would be too many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

DRAWN = 64  # choices, of which the one that covers most is taken


def covering(
    factors: Mapping[str, Sequence[Any]], strength: int, refused: Callable[[Mapping[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Choices of a value of each factor, in which any ``strength`` values of as many factors occur together.

    ``refused`` says of some of a choice, or all of it, that it is not to be had: such values need not meet. The choices
    are the same in every run.
    """
    rng, names = np.random.default_rng(20190601), list(factors)
    sizes = np.array([len(factors[name]) for name in names])
    groups = np.array(list(itertools.combinations(range(len(names)), strength)))
    counts = sizes[groups].prod(axis=1)
    first = np.concatenate([[0], counts.cumsum()])  # the number of each group's first combination of values
    missing = np.ones(first[-1], bool)
    for group, start in zip(groups, first, strict=False):
        for number, values in enumerate(itertools.product(*(factors[names[factor]] for factor in group))):
            missing[start + number] = not refused(dict(zip((names[factor] for factor in group), values, strict=True)))
    found = []
    while missing.any():
        drawn = np.array([_drawn(rng, factors, refused) for _ in range(DRAWN)])
        numbers = np.zeros((DRAWN, len(groups)), int)
        for place in range(strength):
            numbers = numbers * sizes[groups[:, place]] + drawn[:, groups[:, place]]
        numbers += first[:-1]
        best = missing[numbers].sum(axis=1).argmax()
        missing[numbers[best]] = False
        found.append({name: factors[name][value] for name, value in zip(names, drawn[best], strict=True)})
    return found


def _drawn(rng, factors, refused) -> list[int]:
    """The number of a value of each factor, in an order of its own, so that each has its turn to be free."""
    order, chosen, numbers = rng.permutation(len(factors)), {}, [0] * len(factors)
    names = list(factors)
    for place in order:
        values = factors[names[place]]
        allowed = [i for i, value in enumerate(values) if not refused({**chosen, names[place]: value})]
        numbers[place] = allowed[rng.integers(len(allowed))]
        chosen[names[place]] = values[numbers[place]]
    return numbers
