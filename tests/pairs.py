"""Choices of options in which each two values meet, for tests that cannot take every combination."""

import random


def pairwise(factors):
    """Choices in which each two values of two factors meet: the best of some drawn at random, until none is missing."""
    rng, names = random.Random(1), list(factors)
    missing = {
        (a, x, b, y) for i, a in enumerate(names) for b in names[i + 1 :] for x in factors[a] for y in factors[b]
    } - {("targets", "probability", "ignored", True)}  # refused
    while missing:
        drawn = [{name: rng.choice(values) for name, values in factors.items()} for _ in range(200)]
        for chosen in drawn:
            chosen["ignored"] &= chosen["targets"] == "index"
        best = max(drawn, key=lambda chosen: sum(chosen[a] == x and chosen[b] == y for a, x, b, y in missing))
        missing = {(a, x, b, y) for a, x, b, y in missing if (best[a], best[b]) != (x, y)}
        yield best
