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


@edge_case("options outside their rules")
def _(dtype):
    x, t = np.zeros((3, 4), dtype), np.array([0, 1, 2])
    for options, message in (
        ({"label_smoothing": 1.5}, "label_smoothing must be in [0, 1], got 1.5"),
        ({"label_smoothing": NAN}, "label_smoothing must be in [0, 1], got nan"),
        ({"normalizer": 0}, "normalizer must be finite and positive, got 0"),
        ({"normalizer": 5, "reduction": "sum"}, "normalizer goes with reduction='mean'"),
        ({"reduction": "average"}, "reduction must be one of"),
    ):
        for call in (cross_entropy, cross_entropy_and_grad, autograd.forward):
            with refuses(ValueError, message):
                call(x, t, **options)
    for name in NUMERIC:
        for value in OPTIONS[name].bad:
            with refuses(ValueError if isinstance(value, float) else TypeError, f"{name} must be "):
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
