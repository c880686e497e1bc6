"""Rows at random on which the digits of a loss are lost most easily, for sweeps of the accuracy contract.

Scales from 0.1 to 100, up to five classes near the top, and targets that lead more often than not: an ulp of one
exponential shows where it is most of what is left beside the leader. A sweep is a million of them. Truth is taken in
float64 for results in float32, whose ulp is 2^29 times as large, and for float64 in long double.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from .ulps import LIMITS, result_dtype, spacing

LONG = np.longdouble
ROWS, SEED = 10**6, 1
TOPS = 5  # classes near the top, at most
# By code path: tiles of rows (up to 64 classes) and blocks; about a vector, a chunk of vectors, and a group of chunks.
SIZES = (2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 31, 33, 50, 63, 64, 65, 66, 80, 96, 100, 127, 128, 129, 200, 255, 256)
SIZES += (257, 300, 500, 511, 513, 1000, 1024, 1025, 2000, 2047, 2049, 2305, 3000, 4097, 5000)
AT_ONCE = 2**19  # numbers


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


def parts(count: int = ROWS) -> Iterator[tuple[int, int, np.random.Generator]]:
    """(rows, classes, generator) of each part of a sweep of so many rows: fewer rows of more classes."""
    rng = np.random.default_rng(SEED)
    share = np.array(SIZES) ** -0.75
    for classes, n in zip(SIZES, np.maximum(count * share / share.sum(), 64).astype(int), strict=True):
        most = max(64, AT_ONCE // classes)
        for first in range(0, n, most):
            yield min(most, n - first), classes, rng.spawn(1)[0]


def truth(x: np.ndarray, targets: np.ndarray, real: type) -> dict[str, np.ndarray]:
    """log-softmax, loss and gradient in that type, in forms in which nothing cancels."""
    x, each = x.astype(real), np.arange(len(x))
    top = x.argmax(axis=1)
    below = x - x[each, top][:, None]
    e = np.exp(below)
    e[each, top] = 0
    rest = e.sum(axis=1)
    log_p = below - np.log1p(rest)[:, None]
    e[each, top] = 1
    p = e / (1 + rest)[:, None]
    p[each, targets] = 0
    p[each, targets] = -p.sum(axis=1)
    return {"log_softmax": log_p, "loss": -log_p[each, targets], "grad": p}


def errors(got: np.ndarray, exact: np.ndarray, name: str) -> np.ndarray:
    """The largest error of each row in ulps, where what is not finite is infinitely wrong."""
    with np.errstate(invalid="ignore"):
        found = np.abs(got.astype(exact.dtype) - exact) / spacing(exact, name).astype(exact.dtype)
    found = np.where(np.isnan(found), np.inf, found)
    return found if found.ndim == 1 else found.max(axis=1)


class Worst(NamedTuple):
    """The row with the largest error of a sweep, and that error in ulps of the result."""

    error: float = 0.0
    row: np.ndarray | None = None
    target: int | None = None


def worst(dtype: np.dtype, settings: Mapping[str, dict] | None = None, count: int = ROWS) -> dict[str, dict]:
    """The worst row of each result, for each of several settings of `crossentropy.config`.

    Parameters
    ----------
    dtype : dtype
        Of the logits.
    settings : mapping of str to dict, optional
        What to sweep, by name: arguments of `crossentropy.config`. Default: what is in force, named "".
    count : int, default a million
        Rows.

    Returns
    -------
    dict
        For each name a dict from "loss", "log_softmax" and "grad" to a `Worst`.

    Raises
    ------
    AssertionError
        Where a loss alone is not that with its gradient.
    """
    import crossentropy

    settings = settings or {"": {}}
    found = {name: dict.fromkeys(LIMITS[dtype.name], Worst()) for name in settings}
    for n, classes, rng in parts(count):
        x, targets = rows(rng, n, classes)
        x = np.clip(x, -6e4, 6e4).astype(dtype) if dtype.name == "float16" else x.astype(dtype)
        exact = truth(x, targets, LONG if dtype.name == "float64" else np.float64)
        for name, setting in settings.items():
            with crossentropy.config(**setting):
                loss, grad = crossentropy.cross_entropy_and_grad(x, targets, reduction="none")
                alone = crossentropy.cross_entropy(x, targets, reduction="none")
                log_p = crossentropy.log_softmax(x)
            if not np.array_equal(loss, alone):
                raise AssertionError(f"{name}: a loss of {classes} classes is not that with its gradient")
            for what, got in (("loss", loss), ("grad", grad), ("log_softmax", log_p)):
                error = errors(got, exact[what], result_dtype(dtype, what))
                i = int(error.argmax())
                if error[i] > found[name][what].error:
                    found[name][what] = Worst(float(error[i]), x[i].copy(), int(targets[i]))
    return found
