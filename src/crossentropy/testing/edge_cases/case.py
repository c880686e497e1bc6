"""What every edge case is made of: the table that it enters, and the calls that it shares with others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ... import autograd, cross_entropy, cross_entropy_and_grad
from ..ulps import same

INF, NAN = np.inf, np.nan

EDGE_CASES: dict[str, Callable[[np.dtype], None]] = {}  # each takes the dtype of the logits


def edge_case(name):
    """Enter a function into the table under this name."""

    def keep(function):
        EDGE_CASES[name] = function
        return function

    return keep


def both(x, t, **options):
    """Loss and gradient, checked to be the same from the fused call, the loss alone and the saved pair.

    Examples
    --------
    >>> loss, grad = crossentropy.testing.both(np.zeros((1, 2)), [0])
    >>> grad
    array([[-0.5,  0.5]])
    """
    loss, grad = cross_entropy_and_grad(x, t, **options)
    same(cross_entropy(x, t, **options), loss)
    again, saved = autograd.forward(x, t, **options)
    same(again, loss)
    same(autograd.backward(saved), grad)
    return loss, grad


def numbers(n, classes, dtype, seed=1):
    """The same standard normals in every run, shape (n, classes)."""
    return np.random.default_rng(seed).standard_normal((n, classes)).astype(dtype)
