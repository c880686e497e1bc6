"""Losses of DTensors: the classes, the rows, or both spread over the ranks of a mesh."""

from __future__ import annotations

import contextlib
import sys
from typing import NamedTuple

import torch

from . import calls, private
from .bridge import Options, Weights, class_axis
from .linear_bridge import Layer
from .normalizer import divisor
from .shards import RefusalsTold


def are_among(*tensors) -> bool:
    """Whether any of these is a DTensor."""
    others = [t for t in tensors if isinstance(t, torch.Tensor) and not private.is_plain(t)]
    if not others or not (torch.compiler.is_compiling() or "torch.distributed.tensor" in sys.modules):
        return False
    from torch.distributed.tensor import DTensor

    return any(isinstance(t, DTensor) for t in others)


class Layout(NamedTuple):
    """How what belongs to a loss lies on a mesh: placements for each of its axes."""

    mesh: object
    logits: list
    rows: list  # of targets that are classes, of row weights and losses
    classes: list  # of class weights
    vocab: int | None  # the axis of the mesh over which the classes are spread
    spread: list[int]  # those over which rows are


def layout_of(mesh, placements, axis: int, dim: int) -> Layout:
    """The layout of logits whose classes are at ``axis``, as near to what they have as a loss can take them."""
    from torch.distributed.tensor import Replicate, Shard

    logits: list = [Replicate()] * mesh.ndim
    rows, classes, vocab, spread = list(logits), list(logits), None, []
    for i, placement in enumerate(placements):
        if type(placement) is not Shard:
            continue  # partial sums are to be summed first; what is sharded in another order is gathered
        at = placement.dim % dim
        here = placement if placement.dim == at else Shard(at)  # Dynamo makes none of a number that it took for dynamic
        if at != axis:
            logits[i], rows[i] = here, here if at < axis else Shard(at - 1)
            spread.append(i)
        elif vocab is None:
            logits[i], classes[i], vocab = here, Shard(0), i
    return Layout(mesh, logits, rows, classes, vocab, spread)


def layout_of_layer(layer) -> Layout:
    """That of a linear layer's logits: their classes lie as the rows of the weight do, their rows as the input's."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh, dim = next(t.device_mesh for t in layer if isinstance(t, DTensor)), layer.input.dim()
    of_x, of_w = ([*t.placements] if isinstance(t, DTensor) else [Replicate()] * mesh.ndim for t in layer[:2])
    placements = []
    for p, q in zip(of_x, of_w, strict=True):
        is_rows = type(p) is Shard and p.dim % dim != dim - 1
        placements.append(p if is_rows else Shard(dim - 1) if type(q) is Shard and q.dim % 2 == 0 else Replicate())
    return layout_of(mesh, placements, dim - 1, dim)


def refusals_told(input, *layer):
    """A context in which what this rank refuses is told those with other classes of these logits, where there are any.

    ``layer``: the weight and bias of a linear layer whose logits are meant, of hidden states ``input``.
    """
    given = Layer(input, *layer) if layer else (input,)
    if torch.compiler.is_compiling() or not are_among(*given):
        return contextlib.nullcontext()
    if not layer:
        return _refusals_told(layout_of(input.device_mesh, input.placements, class_axis(input), input.dim()))
    is_layer = all(isinstance(t, torch.Tensor) for t in given[:2]) and given.input.dim() and given.weight.dim() == 2
    return _refusals_told(layout_of_layer(given)) if is_layer else contextlib.nullcontext()


def _refusals_told(layout: Layout):
    return contextlib.nullcontext() if layout.vocab is None else RefusalsTold(layout.mesh.get_group(layout.vocab))


def local(t, layout: Layout, placements, grad_placements=None):
    """What this rank has of a tensor, which lies on the mesh or is the same on each rank; differentiable.

    ``grad_placements`` are those of its gradient, where each rank's is a part of a sum.
    """
    from torch.distributed.tensor import DTensor, Replicate

    if t is None:
        return None
    if not isinstance(t, DTensor):
        if all(p.is_replicate() for p in placements) and grad_placements is None:
            return t
        t = DTensor.from_local(t, layout.mesh, [Replicate()] * layout.mesh.ndim, run_check=False)
    elif t.device_mesh != layout.mesh:
        raise ValueError(f"all DTensors of a loss must be on one mesh, got {layout.mesh} and {t.device_mesh}")
    if list(t.placements) != list(placements):
        t = t.redistribute(layout.mesh, placements)
    return t.to_local(grad_placements=grad_placements or placements)


def wrapped(t, layout: Layout, placements, shape=None):
    """A DTensor of the ranks' parts."""
    from torch.distributed.tensor import DTensor

    if shape is None:
        return DTensor.from_local(t, layout.mesh, placements, run_check=False)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(t, layout.mesh, placements, run_check=False, shape=shape, stride=stride)


def cross_entropy(input, target, weights: Weights, options: Options, dtype, plain):
    """The loss as a DTensor: of each row, laid out as the rows are, or one number, the same on each rank.

    ``plain(input, target, weights, options, inplace, dtype)`` is the loss of plain tensors.
    """
    from torch.distributed.tensor import DTensor

    if not isinstance(input, DTensor):
        raise TypeError(f"input must be a DTensor where target or weights are, got {type(input).__name__}")
    axis = class_axis(input)
    layout = layout_of(input.device_mesh, input.placements, axis, input.dim())
    rows_shape = (*input.shape[:axis], *input.shape[axis + 1 :])
    x = local(input, layout, layout.logits)
    with _refusals_told(layout):
        if not isinstance(target, torch.Tensor):
            raise TypeError(f"target must be a tensor, got {type(target).__name__}")
        are_classes = tuple(target.shape) != tuple(input.shape)
        if are_classes and tuple(target.shape) != rows_shape:
            raise ValueError(
                f"target must have shape {rows_shape}, or that of input, {tuple(input.shape)}, "
                f"got {tuple(target.shape)}"
            )
    y = local(target, layout, layout.rows if are_classes else layout.logits)
    beside = Weights(
        local(weights.weight, layout, layout.classes),
        local(weights.class_prior, layout, layout.classes),
        local(weights.sample_weight, layout, layout.rows),
    )
    wanted = "none" if options.reduction == "none" else "sum"
    of_part = options._replace(reduction=wanted, normalizer=None)
    if layout.vocab is None:
        loss = plain(x, y, beside, of_part, False, dtype)
        by = divisor(y, beside, options.ignore_index) if options.reduction == "mean" else None
        result = loss.dtype
    else:
        from .vocab_parallel import loss_and_divisor

        result = dtype or calls.result_dtype(x, y, beside.weight)
        logits = x.movedim(axis, -1)
        y = y if are_classes else y.movedim(axis, -1)
        loss, by = loss_and_divisor(logits, y, beside, of_part, layout.mesh.get_group(layout.vocab))
    if wanted == "none":
        return wrapped(loss.to(result), layout, layout.rows, torch.Size(rows_shape))
    return reduced(loss, by, options, layout).to(result)


def reduced(loss, by, options: Options, layout: Layout):
    """A sum or mean over all rows from each rank's sum over its own, by one all-reduce of two numbers."""
    from torch.distributed.tensor import Partial, Replicate

    everywhere = [Replicate()] * layout.mesh.ndim
    has_own = options.reduction == "mean" and options.normalizer is None
    numbers = torch.stack([loss.double(), by.to(loss.device, torch.float64)]) if has_own else loss.double()
    if layout.spread:
        partial = [Partial() if i in layout.spread else Replicate() for i in range(layout.mesh.ndim)]
        numbers = wrapped(numbers, layout, partial).redistribute(layout.mesh, everywhere).to_local()
    if has_own:
        by = numbers[1].detach()  # a mean over no row is NaN, and its gradient 0
        numbers = torch.where(by == 0, torch.nan, numbers[0] / torch.where(by == 0, 1, by))
    elif options.normalizer is not None:
        numbers = numbers / options.normalizer
    return wrapped(numbers, layout, everywhere)


def linear_cross_entropy(layer, target, weights: Weights, settings, plain):
    """The loss of a linear layer of DTensors: its classes, its rows, or both spread over a mesh.

    ``plain(layer, target, weights, settings)`` is the loss of plain tensors.
    """
    from torch.distributed.tensor import Partial

    from . import linear_shards

    if not are_among(*layer) or layer.weight.dim() != 2:
        raise TypeError("input or linear_weight, of shape (V, H), must be a DTensor where target or weights are")
    layout = layout_of_layer(layer)
    with _refusals_told(layout):
        if target.is_floating_point():
            raise TypeError("target must be classes where a linear layer is made of DTensors, got probabilities")
    spread = [Partial() if i in layout.spread else p for i, p in enumerate(layout.classes)]
    w, b = (local(t, layout, layout.classes, spread) for t in layer[1:])
    mine = type(layer)(local(layer.input, layout, layout.rows), w, b)
    y = local(target, layout, layout.rows)
    beside = Weights(
        local(weights.weight, layout, layout.classes),
        local(weights.class_prior, layout, layout.classes),
        local(weights.sample_weight, layout, layout.rows),
    )
    wanted = "none" if settings.reduction == "none" else "sum"
    of_part = settings._replace(reduction=wanted, normalizer=None)
    if layout.vocab is None:
        loss = plain(mine, y, beside, of_part)
        by = divisor(y, beside, settings.ignore_index)
    else:
        group = layout.mesh.get_group(layout.vocab)
        loss, by = linear_shards.cross_entropy(mine, y, beside, of_part, group)
    if wanted == "none":
        return wrapped(loss, layout, layout.rows, torch.Size(target.shape))
    return reduced(loss, by, settings, layout).to(loss.dtype)
