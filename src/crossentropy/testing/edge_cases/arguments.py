"""Arguments that are refused, by a message that names them; and integer logits, which are not."""

from __future__ import annotations

import numpy as np

from ... import autograd, cross_entropy, cross_entropy_and_grad, cross_entropy_grad, log_softmax
from ..._options import NUMERIC, OPTIONS
from ..ulps import refuses, require, same
from .case import INF, NAN, both, edge_case, numbers


@edge_case("dtypes and subclasses that are refused")
def _(dtype):
    t = np.zeros(2, int)
    for x in (np.zeros((2, 3), bool), np.zeros((2, 3), complex), np.zeros((2, 3), object), np.zeros((2, 3), "g")):
        with refuses(TypeError, "logits must be float16, bfloat16, float32, float64 or integers"):
            cross_entropy(x, t)
    for x in (np.ma.zeros((2, 3), dtype), np.zeros((2, 3), dtype).view(np.matrix)):
        with refuses(TypeError, f"logits must be a plain array, got {type(x).__name__}"):
            cross_entropy_and_grad(x, t)
        with refuses(TypeError, f"x must be a plain array, got {type(x).__name__}"):
            log_softmax(x)
    with refuses(TypeError, "targets must be integers"):
        cross_entropy(np.zeros((2, 3), dtype), np.zeros(2, bool))


@edge_case("integer logits")
def _(dtype):
    x = np.array([[1, 2, 3], [3, 1, 2]])
    loss, grad = both(x, np.array([0, 1]))
    require((loss.dtype, grad.dtype) == (np.float64, np.float64))
    same(grad, cross_entropy_grad(x.astype(float), [0, 1]))
    with refuses(TypeError, "arguments swapped?"):
        cross_entropy(np.array([0, 1]), np.zeros((2, 3)).astype(dtype))


@edge_case("weights that are negative, not finite or of the wrong length")
def _(dtype):
    x, t = np.zeros((3, 4), dtype), np.array([0, 1, 2])
    for name, good in (("class_weight", 4), ("sample_weight", 3)):
        for value in (-1.0, NAN, INF):
            w = np.ones(good)
            w[1] = value
            with refuses(ValueError, f"{name} must be finite and not negative, got {name}[1] = {value}"):
                cross_entropy(x, t, **{name: w})
        with refuses(ValueError, f"{name} must have shape"):
            cross_entropy(x, t, **{name: np.ones(good + 1)})


@edge_case("masks as weights")
def _(dtype):
    x, t = numbers(4, 5, dtype), np.array([0, 4, 2, 2])
    for name, mask in (
        ("sample_weight", [True, False, True, False]),
        ("class_weight", [True, True, False, True, True]),
    ):
        for given in (mask, np.array(mask)):
            for reduction in ("none", "sum", "mean"):
                got = both(x, t, reduction=reduction, **{name: given})
                want = both(x, t, reduction=reduction, **{name: np.array(mask, float)})
                same(got[0], want[0])
                same(got[1], want[1])
    with refuses(ValueError, "sample_weight must have shape (4,), got (5,)"):
        cross_entropy(x, t, sample_weight=np.ones(5, bool))


@edge_case("weights as other libraries describe them")
def _(dtype):
    x, t = np.zeros((3, 4), dtype), np.array([0, 1, 2])
    for value, message in (
        ({0: 1.0, 2: 3.0}, "got a dict: pass [weights.get(c, 1) for c in range(4)]"),
        ("balanced", "got 'balanced': pass len(y) / (4 * numpy.bincount(y, minlength=4))"),
    ):
        with refuses(TypeError, f"class_weight must be an array with a number for each class, {message}"):
            cross_entropy(x, t, class_weight=value)
        with refuses(TypeError, "sample_weight must be an array with a number for each row, got "):
            cross_entropy_and_grad(x, t, sample_weight=value)


@edge_case("one-hot targets that are not floating")
def _(dtype):
    """They are probabilities of 0 and 1; on a device, where nothing is converted, they are refused."""
    x, hot = numbers(3, 4, dtype), np.eye(3, 4, 1)
    for kind in (np.int64, np.uint8, bool):
        for axis, targets in ((1, hot), (0, np.eye(3, 4))):
            got, want = (both(x, t, axis=axis, label_smoothing=0.1) for t in (targets.astype(kind), targets))
            same(got[0], want[0])
            same(got[1], want[1])
        same(cross_entropy(x[0], hot[0].astype(kind)), cross_entropy(x[0], hot[0]))
    for value in (2, -1):
        counts = hot.astype(int)
        counts[1, 3] = value
        with refuses(ValueError, f"must be one-hot, 0 or 1, got targets[1, 3] = {value}"):
            cross_entropy(x, counts)


@edge_case("rows where a mask is False")
def _(dtype):
    """They do not count, whatever they hold, for index targets and probabilities, alone and beside weights."""
    x, t = numbers(4, 5, dtype), np.array([0, 4, -7, 2])
    where = np.array([True, True, False, True])
    x[2], weights = NAN, np.array([1.0, 0.5, 2.0, 0.0])
    for targets in (t, np.full((4, 5), 0.2) * (t[:, None] >= 0)):
        for more in ({}, {"sample_weight": weights}):
            for reduction in ("none", "sum", "mean"):
                got = both(x, targets, where=where, reduction=reduction, **more)
                v = where * more.get("sample_weight", np.ones(4))
                want = both(x, targets, sample_weight=v, reduction=reduction)
                same(got[0], want[0])
                same(got[1], want[1])
    grid = x.reshape(2, 2, 5), t.reshape(2, 2)
    same(cross_entropy(*grid, where=where.reshape(2, 2)), cross_entropy(x, t, where=where))
    require(np.isnan(cross_entropy(x, t, where=np.zeros(4, bool))))
    with refuses(TypeError, "where must be boolean, got int64"):
        cross_entropy(x, t, where=where.astype(np.int64))
    with refuses(ValueError, "where must have shape (4,), got (3,)"):
        cross_entropy(x, t, where=where[:3])


@edge_case("options that need index targets")
def _(dtype):
    x, q = np.zeros((3, 4), dtype), np.full((3, 4), 0.25)
    for name, value in (("margin", 0.5), ("focal", 2.0), ("ignore_index", -100)):
        with refuses(ValueError, f"{name} is for index targets"):
            cross_entropy(x, q, **{name: value})


@edge_case("a prior that will not do")
def _(dtype):
    x, t = np.zeros((3, 4), dtype), np.array([0, 1, 2])
    for value, error, message in (
        (np.inf, ValueError, "class_prior must be finite or -inf, got class_prior[2] = inf"),
        (NAN, ValueError, "class_prior must be finite or -inf, got class_prior[2] = nan"),
    ):
        with refuses(error, message):
            cross_entropy(x, t, class_prior=np.array([0, 0, value, 0]))
    with refuses(ValueError, "class_prior must have shape (4,), got (5,)"):
        cross_entropy(x, t, class_prior=np.zeros(5))
    with refuses(TypeError, "class_prior must be"):
        cross_entropy(x, t, class_prior=np.ones(4, bool))


@edge_case("arguments of a single row")
def _(dtype):
    x = np.zeros(4, dtype)
    with refuses(IndexError, "targets = 9 is not in [0, 4)"):
        cross_entropy(x, 9)
    with refuses(ValueError, "sample_weight must be finite and not negative, got sample_weight = -1.0"):
        cross_entropy(x, 1, sample_weight=-1.0)


@edge_case("options outside their rules")
def _(dtype):
    x, t = np.zeros((3, 4), dtype), np.array([0, 1, 2])
    for options, message in (
        ({"label_smoothing": 1.5}, "label_smoothing must be in [0, 1], got 1.5"),
        ({"label_smoothing": NAN}, "label_smoothing must be in [0, 1], got nan"),
        ({"normalizer": 0}, "normalizer must be finite and positive, got 0; pass max(count, 1), with the count of all"),
        ({"normalizer": NAN}, "normalizer must be finite and positive, got nan"),
        ({"normalizer": 5, "reduction": "sum"}, "normalizer goes with reduction='mean'"),
        ({"reduction": "average"}, "reduction must be one of"),
    ):
        for call in (cross_entropy, cross_entropy_and_grad, autograd.forward):
            with refuses(ValueError, message):
                call(x, t, **options)
    for name in NUMERIC:
        for value in OPTIONS[name].bad:
            with refuses(ValueError if isinstance(value, (int, float)) else TypeError, f"{name} must be "):
                cross_entropy(x, t, **{name: value})


@edge_case("out that will not do")
def _(dtype):
    memory = numbers(1, 64, dtype)[0]
    before = memory.copy()
    x, t = memory[:12].reshape(3, 4), np.array([0, 1, 2])
    read_only = np.broadcast_to(x, x.shape)
    for out, message in (
        (read_only, "out must be writeable"),
        (np.zeros((3, 5), dtype), "out must have shape (3, 4), got (3, 5)"),
        (np.zeros((3, 4), np.complex64), "out must have dtype"),
        (memory[1:13].reshape(3, 4), "out must not share memory with logits"),
        (np.lib.stride_tricks.as_strided(memory[32:], (3, 4), (0, dtype.itemsize)), "out must not overlap itself"),
    ):
        with refuses(ValueError, message):
            cross_entropy_and_grad(x, t, out=out)
        with refuses(ValueError, message.replace("logits", "x")):
            log_softmax(x, out=out)
    same(memory, before)
