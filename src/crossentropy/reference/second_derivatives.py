"""Second derivatives: the diagonal, its bounds, the boosters' factors, products with a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .exact import times, total
from .loss import PLAIN, Row, target_weights
from .rows import partial, softmax

HESSIANS = ("diagonal", "upper_bound", "gauss_newton_product", "xgboost", "lightgbm")
XGBOOST_LEAST = 1e-16  # kRtEps of its multi-class objective


def curvature(z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN) -> tuple[float, float]:
    """a = sum_c t_c + 2 lambda lse and b = 2 lambda: the Hessian is v [a (diag p - p p^T) + b p p^T]."""
    t = target_weights(target, len(z), options)
    return total([*t, times(2.0 * options.z_loss, partial(z).lse)]), 2.0 * options.z_loss


def cross_entropy_hessian(
    z: Sequence[float], target: int | Sequence[float], options: Row = PLAIN, kind: str = "diagonal"
) -> list[float]:
    """The diagonal of the Hessian of `cross_entropy` on z, or what stands for it.

    diagonal: v [a p_c (1 - p_c) + b p_c^2], with 1 - p_c = R / (1 + R) for the class that leads (p_c > 1/2).
    upper_bound: the diagonal of v [max(a, 0) (I - 1 1^T / C) / 2 + b I], which is no less than the Hessian whatever p
    is (Boehning 1992). lightgbm: C / (C - 1) times the diagonal. xgboost: twice the diagonal, and 1e-16 at least.
    """
    classes = len(z)
    if options.weight == 0:
        return [0.0] * classes
    s = partial(z)
    if math.isnan(s.max):
        return [math.nan] * classes
    a, b = curvature(z, target, options)
    if kind == "upper_bound":
        return [options.weight * (max(a, 0.0) * 0.5 * (1.0 - 1.0 / classes) + b)] * classes
    of_others = s.rest / (1.0 + s.rest)
    factor = {"diagonal": 1.0, "xgboost": 2.0, "lightgbm": classes / (classes - 1.0) if classes > 1 else 1.0}[kind]
    least = XGBOOST_LEAST if kind == "xgboost" else -math.inf
    return [
        max(factor * options.weight * (a * p * (of_others if p > 0.5 else 1.0 - p) + b * p * p), least)
        for p in softmax(z)
    ]


def cross_entropy_hessian_product(
    z: Sequence[float], target: int | Sequence[float], vector: Sequence[float], options: Row = PLAIN
) -> list[float]:
    """The Hessian of `cross_entropy` times a vector u: v [a p_c (u_c - sum p u) + b p_c sum p u].

    Both are taken from u_k of the class k at the maximum, so that where it leads, u_k - sum p u loses nothing.
    """
    if options.weight == 0:
        return [0.0] * len(z)
    s = partial(z)
    if math.isnan(s.max):
        return [math.nan] * len(z)
    a, b = curvature(z, target, options)
    p, at_top = softmax(z), vector[z.index(s.max)]
    below = [total([u, -at_top]) for u in vector]
    mean = math.fsum(times(p_c, w) for p_c, w in zip(p, below, strict=True))
    whole = times(b, at_top + mean)
    return [options.weight * times(p_c, times(a, w - mean) + whole) for p_c, w in zip(p, below, strict=True)]
