"""Rows at random on which the digits of a loss are lost most easily, for sweeps of the accuracy contract.

Scales from 0.1 to 100, up to five classes near the top, and targets that lead more often than not: an ulp of one
exponential shows where it is most of what is left beside the leader.
"""

from __future__ import annotations

import numpy as np

TOPS = 5  # classes near the top, at most


def rows(rng: np.random.Generator, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """n rows of logits, float64, and their targets.

    Parameters
    ----------
    rng : Generator
    n, classes : int

    Returns
    -------
    x : ndarray of float64, shape (n, classes)
        To be rounded to the dtype that is judged.
    targets : ndarray of int64, shape (n,)
    """
    each, most = np.arange(n), min(TOPS, classes)
    x = rng.standard_normal((n, classes)) * 10.0 ** rng.uniform(-1, 2, (n, 1))
    x += np.where(rng.random((n, 1)) < 0.3, rng.standard_normal((n, 1)) * 10, 0)
    ahead = rng.random(n) * 10.0 ** rng.uniform(-2, 1.5, n)
    behind = rng.random((n, most)) * 10.0 ** rng.uniform(-4, 1, (n, most))
    behind[:, 0] = 0
    first, step = rng.integers(0, classes, n), rng.integers(1, max(2, classes // TOPS), n)
    where = (first[:, None] + step[:, None] * np.arange(most)) % classes
    tops, top = rng.integers(0, most + 1, n), x.max(axis=1) + ahead
    for i in range(most):
        x[each[tops > i], where[tops > i, i]] = (top - behind[:, i])[tops > i]
    kind = rng.random(n)
    one_of_tops = where[each, rng.integers(0, most, n)]
    targets = np.where(kind < 0.6, x.argmax(axis=1), np.where(kind < 0.75, one_of_tops, rng.integers(0, classes, n)))
    return x, targets
