"""Whether a loss of hidden states is for the kernels, what is wrong with its arguments, and what it is computed in."""

from __future__ import annotations

import operator

import torch
from torch.nn import _reduction

from .._options import integer
from . import calls, private
from .bridge import Weights
from .linear_bridge import Layer

REDUCTIONS = ("none", "mean", "sum")  # at the numbers that PyTorch's get_enum gives them
IGNORE_INDEX = -100


def are_ours(layer: Layer, *beside) -> bool:
    """Whether the kernels take such tensors; others are handed to PyTorch's functions, which may raise."""
    x = layer.input
    if x.dtype not in calls.FLOATS or not (x.is_cpu or x.is_cuda or x.is_meta):
        return False
    others = [t for t in (x, *layer[1:], *beside) if t is not None]
    if not all(calls.is_beside(x, t) for t in others) or any(t.is_nested for t in others):
        return False
    return not (x.is_cuda and calls.lacks_cuda()) and layer.weight.is_floating_point() and len(layer.weight) > 0


def require_tensors(input, linear_weight, target, linear_bias, weight=None, named: str = "target") -> None:
    """Raise for what is no tensor."""
    for name, value in (("input", input), ("linear_weight", linear_weight), (named, target)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    for name, value in (("linear_bias", linear_bias), ("weight", weight)):
        if value is not None and not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a tensor or None, got {type(value).__name__}")


def is_traced(layer: Layer, *beside) -> bool:
    """Whether a call must be an operator because something other than eager autograd has to see it."""
    return private.is_traced(layer.input, *layer[1:], *beside)


def reduction_named(reduction: str) -> str:
    """The reduction, under its present name."""
    return reduction if reduction in REDUCTIONS else REDUCTIONS[_reduction.get_enum(reduction)]


def rows_of(options, rows) -> int | None:
    """The rows of logits at once, as a call or PyTorch's options ask for them."""
    if rows is not None and (rows := integer(rows, "rows")) < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    if options is None:
        return rows
    known = getattr(torch.nn, "LinearCrossEntropyOptions", None)  # from 2.13 on
    if known is None or not isinstance(options, known):
        raise TypeError(f"options must be None or torch.nn.LinearCrossEntropyOptions, got {options!r}")
    asked = options.batch_chunk_size
    if rows is not None and asked is not None and rows != asked:
        raise ValueError(f"rows must be the batch_chunk_size of options, {asked}, where both are given, got {rows}")
    return rows or asked


def layer_of(input, linear_weight, linear_bias) -> tuple[Layer, torch.dtype]:
    """A checked layer, and the dtype that it is computed in: that of its parameters, or autocast's."""
    layer = Layer(input, linear_weight, linear_bias)
    if input.dim() < 1:
        raise RuntimeError("input must have shape (..., H), got a scalar")
    if linear_weight.dim() < 2 or linear_weight.shape[-1] != input.shape[-1]:
        got = tuple(linear_weight.shape)
        raise RuntimeError(f"linear_weight must have shape (V, H) with the H of input, {input.shape[-1]}, got {got}")
    if linear_weight.dim() > 2 and input.dim() != 2:
        raise RuntimeError(
            f"a linear_weight of shape (C, d1, ..., H), {tuple(linear_weight.shape)}, needs an input of shape (N, H), "
            f"got {tuple(input.shape)}"
        )
    if linear_bias is not None and linear_bias.shape != linear_weight.shape[:-1]:
        wanted, got = tuple(linear_weight.shape[:-1]), tuple(linear_bias.shape)
        raise RuntimeError(f"linear_bias must have shape {wanted}, got {got}")
    if linear_bias is not None and not linear_bias.is_floating_point():
        raise RuntimeError(f"linear_bias must be floating, got {linear_bias.dtype}")
    dtypes = [_computed_dtype(t) for t in layer[:2]]
    if dtypes[0] is not dtypes[1]:
        raise RuntimeError(f"linear_weight must have the dtype of input, {dtypes[0]}, got {dtypes[1]}")
    return layer, dtypes[0]


def _computed_dtype(t: torch.Tensor) -> torch.dtype:
    """The dtype in which PyTorch's linear layer takes a tensor: autocast leaves float64 alone."""
    kind = t.device.type
    if t.dtype is torch.float64 or t.is_meta or not torch.is_autocast_enabled(kind):
        return t.dtype
    return torch.get_autocast_dtype(kind)


def target_of(layer: Layer, target, name: str = "target") -> tuple[torch.Tensor, bool]:
    """A checked target, and whether it is probabilities, which its shape tells."""
    rows_shape, classes = layer.rows_shape, layer.weight.shape[:-1]
    if target.shape == (*rows_shape, *classes) and name == "target":
        if not target.is_floating_point():
            raise RuntimeError(
                f"a {name} of the logits' shape is probabilities and must be floating, got {target.dtype}"
            )
        return target, True
    if not rows_shape and target.shape == (1,):  # which PyTorch takes, too
        target = target.reshape(())
    wanted = (*rows_shape, *classes[1:])
    if target.shape != wanted:
        both = f"{wanted}, or {(*rows_shape, *classes)} for probabilities" if name == "target" else f"{wanted}"
        batch = len(rows_shape) == 1 and target.dim() > 0 and target.shape[0] != rows_shape[0]
        error = ValueError if batch else RuntimeError  # PyTorch's, either way
        raise error(f"{name} must have shape {both}, got {tuple(target.shape)}")
    if target.dtype not in calls.INTEGERS:
        raise RuntimeError(f"{name} of classes must have an integer dtype, got {target.dtype}")
    return target, False


def index_ignored(ignore_index, probabilities: bool) -> int:
    """The class that does not count."""
    if ignore_index is None:
        return IGNORE_INDEX
    if probabilities:
        raise RuntimeError(f"ignore_index is for targets that are classes, got {ignore_index!r} with probabilities")
    index = calls.as_number(operator.index, ignore_index)
    if type(index) is not int or not -(2**63) <= index < 2**63:
        raise RuntimeError(f"ignore_index must be an integer of 64 bits, got {ignore_index!r}")
    return index


def smoothing(label_smoothing) -> float:
    """epsilon, checked."""
    number = calls.as_number(float, label_smoothing)
    if type(number) is not float or not 0 <= number <= 1:
        raise RuntimeError(f"label_smoothing must be in [0, 1], got {label_smoothing!r}")
    return number


def require_weight(layer: Layer, weight, probabilities: bool) -> None:
    """Raise unless class weights are floating, a number for each class."""
    if weight is None:
        return
    if weight.shape != layer.weight.shape[:1] or weight.is_complex():
        wanted = tuple(layer.weight.shape[:1])
        raise RuntimeError(f"weight must be real of shape {wanted}, got {weight.dtype} {tuple(weight.shape)}")
    if not weight.is_floating_point() and not probabilities:
        raise RuntimeError(f"weight must be floating with a target of classes, got {weight.dtype}")


def shifted(layer: Layer, target, weights: Weights, ignore_index) -> tuple[Layer, torch.Tensor, Weights, bool]:
    """(layer, target, weights, whether there still is a last position), each position with the target of the next one.

    For classes the last position gets a target that does not count: the hidden states stay where they are.
    """
    x = layer.input
    if x.dim() < 2 or layer.weight.dim() > 2:
        got = f"{tuple(x.shape)} and {tuple(layer.weight.shape)}"
        raise RuntimeError(f"shift=True needs input of shape (..., T, H) and linear_weight of shape (V, H), got {got}")
    target, probabilities = target_of(layer, target)
    if probabilities:
        axis, count, first = x.dim() - 2, max(x.shape[-2] - 1, 0), min(1, x.shape[-2])
        if (v := weights.sample_weight) is not None and v.shape == layer.rows_shape:
            weights = weights._replace(sample_weight=v.narrow(-1, first, count))
        return layer._replace(input=x.narrow(axis, 0, count)), target.narrow(axis, first, count), weights, False
    if (v := weights.sample_weight) is not None and v.shape == layer.rows_shape:
        weights = weights._replace(sample_weight=torch.cat([v[..., 1:], torch.zeros_like(v[..., :1])], -1))
    last = torch.full_like(target[..., :1], index_ignored(ignore_index, False), dtype=torch.int64)
    return layer, torch.cat([target[..., 1:].long(), last], -1), weights, True
