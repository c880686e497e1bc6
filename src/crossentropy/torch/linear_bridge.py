"""The losses of hidden states on tensors, without differentiation: eager calls and operators both end here.

Where what arrives at a loss is not known yet, gradients of 16 bits stay float32 until it is: so a factor rounds none of
them twice, and they are scaled before they leave float16's range.
"""

from __future__ import annotations

import math
import sys
from collections import namedtuple
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

import crossentropy

from .._options import DEFAULTS
from ..linear import calls, engine
from ..linear import log_probs as rows_log_probs
from ..linear import products as products_of_arrays
from . import cache, products
from .bridge import Options, Weights, array, arrays_named, bfloat16, on_torchs_threads, tensor

GRADIENTS = calls.GRADIENTS

# How a loss is computed: the options, the rows of logits at once, and the dtype that operands are taken in.
Settings = namedtuple("Settings", [*Options._fields, "rows", "dtype"])


class Layer(NamedTuple):
    """The tensors of a linear layer: input (..., H), linear_weight (V, H), linear_bias (V,) or None."""

    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def rows_shape(self):
        """The shape of the rows."""
        return self.input.shape[:-1]

    @property
    def logits(self):
        """How many logits there are, in all chunks together."""
        return math.prod(self.rows_shape) * len(self.weight)


def real(dtype: torch.dtype) -> torch.dtype:
    """The dtype of logits and losses."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def written_dtype(name: str, parameter: torch.Tensor, dtype: torch.dtype, is_last: bool) -> torch.dtype:
    """What the engine writes a gradient as: its parameter's dtype where it can; ``is_last``: no factor is to come."""
    if name == "bias" or parameter.dtype not in (dtype, real(dtype)):
        return real(dtype)
    return parameter.dtype if is_last else real(parameter.dtype)


def new_gradients(layer: Layer, wrt: Sequence[bool], dtype: torch.dtype, is_last: bool) -> list[torch.Tensor | None]:
    """Tensors for the gradients that are wanted."""
    found: list[torch.Tensor | None] = []
    for name, parameter, wanted in zip(GRADIENTS, layer, wrt, strict=True):
        to = written_dtype(name, parameter, dtype, is_last) if wanted else None
        found.append(None if to is None else cache.empty(parameter.shape, to, parameter.device))
    return found


def finished(grads, dtypes) -> list[torch.Tensor | None]:
    """Gradients in their parameters' dtypes."""
    return [grad if grad is None else _converted(grad, dtype) for grad, dtype in zip(grads, dtypes, strict=True)]


def multiplied(grads: list[torch.Tensor | None], dtypes, factor: torch.Tensor, keeps: bool):
    """The same, times what arrives at the loss; ``keeps`` them as they are, or else lets go of each in turn."""
    number = None if factor.is_cuda else factor.item()  # a device would have to be waited for
    found: list[torch.Tensor | None] = []
    for k, dtype in enumerate(dtypes):
        grad = grads[k]
        if grad is None:
            found.append(None)
            continue
        if not keeps:
            grads[k] = None
        if number is not None and not math.isfinite(number):
            grad = torch.where(grad != 0, grad * factor, 0)  # what is 0 is so because no row counts there
        elif number != 1:
            grad = torch.mul(grad, factor, out=_like(grad, grad.dtype)) if keeps else grad.mul_(factor)
        elif keeps and grad.dtype is dtype:
            grad = _like(grad, dtype).copy_(grad)
        found.append(_converted(grad, dtype))
    return found


def _converted(grad: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return grad if grad.dtype is dtype else _like(grad, dtype).copy_(grad)


def _like(grad: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return cache.empty(grad.shape, dtype, grad.device)


def loss(layer: Layer, target, weights: Weights, settings: Settings) -> torch.Tensor:
    """The loss, by one product."""
    arrays, named = _arrays(layer, settings.dtype), _named(target, weights, settings)
    with on_torchs_threads(layer.weight, layer.logits):
        if layer.input.is_cuda:
            return crossentropy.linear_cross_entropy(*arrays[:2], array(target), bias=arrays[2], **named)
        checked = calls.layer(*arrays, named.pop("rows"))
        call = calls.loss(checked, array(target), named)
        return tensor(engine.loss(checked, call, _products(settings.dtype)))


def loss_and_gradients(layer: Layer, target, weights: Weights, settings: Settings, wrt: Sequence[bool], arriving=None):
    """(loss, gradients): of what arrives at the loss, or, where that is None, of 1, kept for a factor to come."""
    grads = new_gradients(layer, wrt, settings.dtype, is_last=arriving is not None)
    arrays, named = _arrays(layer, settings.dtype), _named(target, weights, settings)
    out = {name: array(grad) for name, grad in zip(GRADIENTS, grads, strict=True) if grad is not None}
    with on_torchs_threads(layer.weight, layer.logits):
        if layer.input.is_cuda:
            more = {"wrt": tuple(out), "out": out, "grad_output": 1.0 if arriving is None else arriving}
            call = crossentropy.linear_cross_entropy_and_grad
            return call(*arrays[:2], array(target), bias=arrays[2], **named, **more).loss, grads
        checked = calls.layer(*arrays, named.pop("rows"))
        call = calls.loss(checked, array(target), named)
        to = calls.gradients(checked, out.keys(), out, False, {})
        found = engine.loss_and_gradients(checked, call, _products(settings.dtype), to, _numbers(arriving, 1.0))
    return tensor(found), grads


def log_probs(layer: Layer, index, ignore_index, rows, dtype, wrt: Sequence[bool] = (), arriving=()):
    """(log_prob, entropy, gradients) of chosen classes; the gradients of what arrives at the two."""
    arrays = _arrays(layer, dtype)
    grads = new_gradients(layer, wrt, dtype, is_last=True) if wrt else []
    out = {name: array(grad) for name, grad in zip(GRADIENTS, grads, strict=False) if grad is not None}
    with on_torchs_threads(layer.weight, layer.logits):
        if layer.input.is_cuda:
            more = {"bias": arrays[2], "rows": rows, "ignore_index": ignore_index}
            if not wrt:
                return *crossentropy.linear_log_probs(*arrays[:2], array(index), **more), grads
            more |= {"wrt": tuple(out), "out": out}
            for name, g in zip(("grad_log_prob", "grad_entropy"), arriving, strict=True):
                more[name] = 0.0 if g is None else g
            return *crossentropy.linear_log_probs_and_grad(*arrays[:2], array(index), **more)[:2], grads
        checked = calls.layer(*arrays, rows)
        call = calls.loss(checked, array(index), {"reduction": "none", "ignore_index": ignore_index})
        to = calls.gradients(checked, out.keys(), out, False, {}) if wrt else None
        given = [_numbers(g, 0.0) for g in arriving]
        log_prob, entropy = rows_log_probs.log_probs(checked, call, _products(dtype), to, given)
    return tensor(log_prob), tensor(entropy), grads


def _arrays(layer: Layer, dtype: torch.dtype) -> list:
    """The layer as the package's functions take it."""
    as_dtypes = dtype, dtype, real(dtype)
    return [None if t is None else _view(t.detach().to(d)) for t, d in zip(layer, as_dtypes, strict=True)]


class _Memory:
    """The memory of a tensor, which lives as long as an array over it."""

    def __init__(self, t: torch.Tensor) -> None:
        size, kind = t.element_size(), "u2" if t.dtype == torch.bfloat16 else f"f{t.element_size()}"
        self.tensor, strides = t, tuple(size * stride for stride in t.stride())
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(t.shape),
            "typestr": f"{'<' if sys.byteorder == 'little' else '>'}{kind}",
            "data": (t.data_ptr(), False),
            "strides": strides,
        }


def _view(t: torch.Tensor):
    """As `array`; but the tensor's memory can still be resized, which ``numpy()`` ends, and FSDP does to parameters."""
    t = t.resolve_neg()
    if t.is_cuda or not t.numel():
        return array(t)
    a = np.asarray(_Memory(t))
    return a.view(bfloat16()) if t.dtype == torch.bfloat16 else a


def _named(target, weights: Weights, settings: Settings) -> dict:
    """Options as the package's functions have them: those that are not at their defaults."""
    named = {name: value for name, value in settings._asdict().items() if value != DEFAULTS.get(name, _NO_DEFAULT)}
    del named["dtype"]
    if target.is_floating_point():
        named.pop("ignore_index", None)
    return named | arrays_named(weights)


_NO_DEFAULT = object()


def _products(dtype: torch.dtype):
    """The package's own products where they are the fastest; else PyTorch's, which has none of 16 bits for us."""
    kind = array(torch.empty(0, dtype=dtype)).dtype
    return products_of_arrays.own_for(kind) or (products if kind.itemsize > 2 else products_of_arrays.for_arrays(kind))


def _numbers(arriving, missing: float):
    """What arrives, as the engine takes it: a float, or float64 for each row."""
    if arriving is None:
        return missing
    return arriving.item() if arriving.dim() == 0 else array(arriving.double().reshape(-1).contiguous())


def dtypes_of(layer: Layer) -> list[torch.dtype | None]:
    """Those of the parameters, and so of their gradients."""
    return [None if t is None else t.dtype for t in layer]
