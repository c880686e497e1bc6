"""Targets of every kind, and rows that do not count because of them."""

from __future__ import annotations

import itertools

import numpy as np

from ... import autograd, config, cross_entropy, cross_entropy_and_grad, reference
from ..ulps import LIMITS, dtypes, exact, largest_error, near, refuses, require, same
from .case import NAN, both, edge_case, numbers


@edge_case("target outside the classes")
def _(dtype):
    x = np.zeros((3, 4), dtype)
    for t, message in (
        ([0, 4, 2], "targets[1] = 4 is not in [0, 4)"),
        (np.array([0, 2**63, 1], np.uint64), "targets[1] = 9223372036854775808 is not in [0, 4)"),
        (np.array([0, 200, 201], np.uint8), "targets[1] = 200 is not in [0, 4)"),
    ):
        for call in (cross_entropy, cross_entropy_and_grad, autograd.forward):
            with refuses(IndexError, message):
                call(x, t)
    with config(check=False):
        loss, grad = both(x, np.array([0, 4, 2]), reduction="none")
    require(np.isnan(loss).tolist() == [False, True, False])
    require(np.isnan(grad.astype(float)).all(axis=1).tolist() == [False, True, False])


@edge_case("negative target")
def _(dtype):
    x = np.zeros((3, 4), dtype)
    for value in (-1, -(2**63)):
        with refuses(IndexError, f"targets[2] = {value} is not in [0, 4)"):
            cross_entropy(x, np.array([0, 1, value]))
    with config(check=False):
        require(np.isnan(cross_entropy(x, np.array([0, 1, -1]), reduction="none")).tolist() == [False, False, True])


@edge_case("targets of any integer dtype")
def _(dtype):
    x, y = numbers(6, 100, dtype), np.array([0, 99, 7, 50, 7, 3])
    expected = both(x, y, reduction="none", ignore_index=7)
    for kind in "bBhHiIqQ":
        got = both(x, y.astype(kind), reduction="none", ignore_index=7)
        same(got[0], expected[0])
        same(got[1], expected[1])


@edge_case("probability targets")
def _(dtype):
    x = numbers(3, 9, dtype)
    q = np.random.default_rng(2).dirichlet(np.ones(9), 3)
    for kind in dtypes().values():
        narrow = q.astype(kind)
        loss, grad = both(x, narrow, reduction="none")
        losses, grads, units = exact(x, narrow.astype(np.float64).tolist(), [reference.PLAIN] * 3)
        near(loss, losses, 1e-6)  # in float32 for 16-bit and float32 logits, whatever q is
        require(largest_error(grad, grads, dtype.name, units) <= LIMITS[dtype.name]["grad"] + 1)
        require(grad.dtype == dtype and loss.dtype == (np.float64 if dtype == np.float64 else np.float32))
    with refuses(ValueError, "ignore_index is for index targets"):
        cross_entropy(x, q, ignore_index=1)


@edge_case("ignored rows are never looked at")
def _(dtype):
    x = numbers(4, 9, dtype)
    x[[1, 3]] = NAN
    q = np.random.default_rng(2).dirichlet(np.ones(9), 4)
    q[1] = NAN
    kinds = [(np.array([2, -100, 5, -100]), {"ignore_index": -100}), (q, {"sample_weight": [1.0, 0.0, 1.0, 0.0]})]
    for (t, options), reduction in itertools.product(kinds, ("none", "sum", "mean")):
        loss, grad = both(x, t, reduction=reduction, **options)
        want = both(x[[0, 2]], t[[0, 2]], reduction=reduction)
        same(loss[[0, 2]] if reduction == "none" else loss, want[0])
        same(grad[[0, 2]], want[1])
        require(not grad[[1, 3]].any())
        require(reduction != "none" or loss[[1, 3]].tolist() == [0, 0])


@edge_case("a row of sample weight 0 may have any target")
def _(dtype):
    near(cross_entropy(np.zeros((2, 3), dtype), [0, 9], sample_weight=[1, 0]), np.log(3), 1e-7)


@edge_case("ignore_index that a dtype ends at, or does not have")
def _(dtype):
    x = np.zeros((2, 3), dtype)
    for ignored, kind in ((255, np.uint8), (-1, np.int64), (2**64 - 1, np.uint64), (-(2**63), np.int64)):
        loss = cross_entropy(x, np.array([1, ignored], kind), ignore_index=ignored, reduction="none")
        near(loss, [np.log(3), 0], 1e-7)
    for ignored, kind in ((-100, np.uint8), (300, np.uint8), (2**64 - 1, np.int64), (-1, np.uint64)):
        near(cross_entropy(x, np.array([1, 2], kind), ignore_index=ignored), np.log(3), 1e-7)


@edge_case("a target that is masked, and has no weight")
def _(dtype):
    for classes in (3, 65):
        x = numbers(20, classes, dtype)
        x[:, 0] = -np.inf
        x[5, 1] = NAN
        w = np.ones(classes)
        w[0] = 0
        loss, grad = both(x, np.zeros(20, int), class_weight=w, reduction="none")
        undefined = np.arange(20) == 5
        same(np.isnan(loss), undefined)
        same(np.isnan(grad.astype(float)), np.repeat(undefined[:, None], classes, 1))
        require(not loss[~undefined].any())  # 0 times inf is 0
        require(not grad[~undefined].astype(float).any())
