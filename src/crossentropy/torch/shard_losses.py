"""Losses of rows whose classes are spread over ranks: what each tells of its block of classes, and what comes of it.

The numbers of a block, their merging, the loss and the gradient are `crossentropy.blocks`'. Here is which of them
travel, and as what: a float32 logit is one in four bytes, and what every rank knows of itself need not be sent.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

import numpy as np
import torch

from .. import blocks
from .._backends import registry
from .._options import DEFAULTS, EXTRAS
from . import cache, calls, private, shard_composed
from .bridge import Options, Weights, array, host_array, loss_dtype, on_torchs_threads
from .shards import Mark, Shards, digest

ELSEWHERE = np.inf  # what stands for the logit of a target of another rank: its own would make the row undefined

# Options that change logits, which are float64 then.
_TRANSFORMS = ("logit_scale", "softcap", "margin")


class Call(NamedTuple):
    """The arguments of a call on this rank, checked but for the numbers in them."""

    input: torch.Tensor
    target: torch.Tensor
    weights: Weights
    options: Options

    @property
    def rows_shape(self):
        """The shape of the rows."""
        return self.input.shape[:-1]

    @property
    def are_classes(self) -> bool:
        """Whether targets are classes, not probabilities."""
        return not self.target.is_floating_point()

    @property
    def fields(self) -> list[str]:
        """Which numbers of a block have to be told."""
        found = ["max", "rest"]
        if self.are_classes:
            found.append("target")
            if self.weights.weight is not None:
                found.append("class_weight")
        else:
            found.append("mass")
        return [*found, "distance"] if self.options.label_smoothing or not self.are_classes else found

    @property
    def dtype(self) -> np.dtype:
        """A row's record: 16 bytes wherever four numbers in float32 do, or two in it and one in float64."""
        options, fields = self.options, self.fields
        changed = any(getattr(options, name) != DEFAULTS[name] for name in _TRANSFORMS)
        long = self.input.dtype == torch.float64 or changed or self.weights.class_prior is not None
        kinds = dict.fromkeys(fields, "f8" if long else "f4")
        if len(fields) == 3:
            kinds["rest"] = "f8"
        return np.dtype([(name, kinds[name]) for name in sorted(fields, key=lambda name: kinds[name] != "f8")])

    def digests(self) -> tuple[int, int]:
        """(of the options, of targets and weights of rows): what must be the same on every rank."""
        given = [t is not None for t in self.weights]
        # The dtype of targets may differ: what they are is told by their values.
        text = repr((tuple(self.rows_shape), self.options, given, self.are_classes))
        v = self.weights.sample_weight
        beside = None if v is None else host_array(v.double())
        y = host_array(self.target.long()) if self.are_classes else None
        return digest(np.frombuffer(text.encode(), np.uint8)), digest(y, beside)

    def weight_sum(self) -> float:
        """The sum of the class weights of this rank."""
        w = self.weights.weight
        return float(self.input.shape[-1]) if w is None else w.double().sum().item()

    def counts(self) -> np.ndarray | None:
        """Which rows count, (N,); None for all."""
        found = None
        if self.are_classes:
            found = host_array(self.target).reshape(-1) != self.options.ignore_index
        if self.weights.sample_weight is not None:
            weighs = host_array(self.weights.sample_weight.double()).reshape(-1) != 0
            found = weighs if found is None else found & weighs
        return None if found is None or found.all() else found


def index_of(ignore_index) -> int:
    """The class that does not count, checked."""
    index = calls.as_number(operator.index, ignore_index)
    if type(index) is not int or not -(2**63) <= index < 2**63:
        raise ValueError(f"ignore_index must be an integer of 64 bits, got {ignore_index!r}")
    return index


def problem(logits, target, weights: Weights, options: Options) -> Exception | None:
    """What is wrong with a call that any rank can tell without reading numbers; None where nothing is."""
    rows, shape = tuple(logits.shape[:-1]), tuple(logits.shape)
    if not isinstance(target, torch.Tensor):
        return TypeError(f"target must be a tensor, got {type(target).__name__}")
    given = (("target", target), *zip(("weight", *Weights._fields[1:]), weights, strict=True))
    for name, t in given:
        if t is None:
            continue
        if not isinstance(t, torch.Tensor) or private.is_wrapper(t) or t.device != logits.device:
            got = f"{type(t).__name__} on {t.device}" if isinstance(t, torch.Tensor) else type(t).__name__
            return TypeError(f"{name} must be a plain tensor on {logits.device}, got {got}")
        if t.requires_grad and torch.is_grad_enabled():
            return ValueError(f"{name} must not require a gradient: there is one on the logits alone")
    if target.is_floating_point():
        if tuple(target.shape) != shape:
            return ValueError(
                f"target of probabilities must have the shape of the logits, {shape}, got {tuple(target.shape)}"
            )
    elif target.dtype not in calls.INTEGERS:
        return TypeError(f"target of classes must have an integer dtype, got {target.dtype}")
    elif tuple(target.shape) != rows:
        return ValueError(
            f"target must have the shape of the rows, {rows}, or be probabilities of shape {shape}, "
            f"got {tuple(target.shape)}"
        )
    w = weights.weight
    if w is not None and (tuple(w.shape) != shape[-1:] or not w.is_floating_point()):
        return ValueError(f"weight must be floating of shape {shape[-1:]}, got {w.dtype} {tuple(w.shape)}")
    if options.focal:
        return ValueError(f"focal must be 0 where classes are spread over ranks, got {options.focal}")
    found = calls.problem_beside(shape[-1:], rows, weights, options, not target.is_floating_point())
    return ValueError(found) if found else None


def _named(call: Call) -> dict:
    """The options as keyword arguments of `crossentropy.blocks`."""
    weight, prior, v = call.weights
    named = {name: getattr(call.options, name) for name in EXTRAS if name != "focal"}
    named["label_smoothing"] = call.options.label_smoothing
    if call.are_classes:
        named["ignore_index"] = call.options.ignore_index
    for name, t in (("class_weight", weight), ("class_prior", prior), ("sample_weight", v)):
        if t is not None:
            named[name] = t
    return named


def _as_arrays(named: dict) -> dict:
    return {name: array(value) if isinstance(value, torch.Tensor) else value for name, value in named.items()}


def _flat(call: Call, x: torch.Tensor | None) -> torch.Tensor | None:
    """What is of the logits' shape, or of the rows', as (N, C) or (N,)."""
    n = call.rows_shape.numel()
    return None if x is None else x.reshape(n, -1) if x.shape == call.input.shape else x.reshape(n)


def _by_torch(call: Call) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """(logits, targets, options) for `shard_composed`."""
    named = _named(call)
    if call.weights.sample_weight is not None:
        named["sample_weight"] = _flat(call, call.weights.sample_weight)
    x = call.input.reshape(call.rows_shape.numel(), call.input.shape[-1])
    return x, call.target.reshape(x.shape if not call.are_classes else x.shape[:1]), named


def _chunk(call: Call, shards: Shards) -> np.ndarray:
    place = shards.start, shards.classes
    if shard_composed.is_needed(call.input):
        x, target, named = _by_torch(call)
        return shard_composed.chunk(x, target, *place, **named)
    with on_torchs_threads(call.input):
        return blocks.chunk(array(call.input), array(call.target), *place, **_as_arrays(_named(call)))


def records(call: Call, shards: Shards) -> np.ndarray:
    """What this rank tells of each row, (N,)."""
    n, classes = call.rows_shape.numel(), call.input.shape[-1]
    counts, found = call.counts(), np.zeros(n, call.dtype)
    mine = np.zeros(n, bool)
    if call.are_classes:
        y = host_array(call.target.long()).reshape(-1)
        _check_classes(call, y, counts, shards.classes)
        mine = (y >= shards.start) & (y < shards.start + classes)
    try:
        block = _chunk(call, shards)
    except ValueError as error:  # of class weights, which are called otherwise here
        raise ValueError(str(error).replace("class_weight", "weight")) from None
    block = block.reshape(-1)
    with np.errstate(over="ignore", under="ignore"):
        for name in call.dtype.names:
            found[name] = block[name]
    if call.are_classes:
        found["target"][found["target"] == np.inf] = np.nan
        found["target"][~mine] = ELSEWHERE
    if counts is not None:
        found[~counts] = 0
        found["rest"][~counts] = -1  # that it does not count, for those who think it does
    return found


def _check_classes(call: Call, y: np.ndarray, counts, classes: int) -> None:
    bad = (y < 0) | (y >= classes)
    ignored = call.options.ignore_index
    bad &= y != ignored
    if bad.any():
        first = int(np.argmax(bad))
        at = ", ".join(map(str, np.unravel_index(first, tuple(call.rows_shape)))) if call.rows_shape else ""
        raise IndexError(
            f"target[{at}] must be a class in [0, {classes}) or ignore_index {ignored}, got {y[first]}"
            if at
            else f"target must be a class in [0, {classes}) or ignore_index {ignored}, got {y[first]}"
        )


def results(call: Call, parts: np.ndarray, shards: Shards, marks: list[Mark]):
    """(loss, divisor, statistics) from all ranks' records, (K, N)."""
    ranks, n = parts.shape
    counts = call.counts()
    of_blocks = np.zeros((ranks, n), blocks.DTYPE)
    for name in parts.dtype.names:
        of_blocks[name] = parts[name]
    v = call.weights.sample_weight
    of_blocks["sample_weight"] = 1.0 if v is None else host_array(v.double()).reshape(-1)
    if call.are_classes:
        owned = parts["target"] != ELSEWHERE
        _check_owners(owned.sum(axis=0), parts["rest"] == -1, counts)
        of_blocks["target"][~owned] = -np.inf
        if call.weights.weight is None:
            of_blocks["class_weight"] = owned
        for block, mark in zip(of_blocks, marks, strict=True):
            block["mass"] = call.options.label_smoothing / shards.classes * mark.weight_sum
    if counts is not None:
        of_blocks[:, ~counts] = blocks.identity(1)
    whole = blocks.combine(*of_blocks)
    numbers = {name: value for name, value in _named(call).items() if not isinstance(value, torch.Tensor)}
    rows = blocks.aggregate(whole, **numbers)
    by = _divisor(call, whole)
    return (
        _reduced(rows, by, call),
        torch.tensor(by),
        torch.from_numpy(whole.view(np.float64).reshape(n, len(blocks.DTYPE))),
    )


def _check_owners(owners, ignored, counts) -> None:
    """Raise unless each row that counts has its target on exactly one rank, which the digests have seen to."""
    here = np.zeros(len(owners), bool) if counts is None else ~counts
    if (ignored != here).any() or (owners[~here] != 1).any():
        raise RuntimeError("target must be on exactly one rank for each row that counts: ranks have other classes")


def _divisor(call: Call, whole: np.ndarray) -> float:
    v = whole["sample_weight"]
    return float((v * whole["class_weight"]).sum() if call.are_classes else v.sum())


def _reduced(rows: np.ndarray, by: float, call: Call) -> torch.Tensor:
    dtype = loss_dtype(call.input)
    if call.options.reduction == "none":
        return torch.from_numpy(rows).to(call.input.device, dtype).reshape(call.rows_shape)
    total = registry.current().total(np.ascontiguousarray(rows))
    if call.options.reduction == "mean":
        by = call.options.normalizer or by
        total = total / by if by else np.nan
    return torch.tensor(total, dtype=dtype, device=call.input.device)


def like_results(call: Call):
    """Tensors like those of `results`."""
    rows, n = call.rows_shape, 1
    for size in rows:
        n = n * size
    loss = call.input.new_empty(rows if call.options.reduction == "none" else (), dtype=loss_dtype(call.input))
    numbers = {"dtype": torch.float64, "device": "cpu"}
    fields = len(blocks.DTYPE.names)
    return loss, torch.empty((), **numbers), torch.empty((n, fields), **numbers)


def arriving(grad_loss: torch.Tensor, divisor: torch.Tensor, options: Options) -> torch.Tensor:
    """What arrives at the rows' losses: one number, or one each."""
    g = grad_loss.double()
    if options.reduction != "mean":
        return g
    # Of a mean over no row: 1 / 0 would make NaN of gradients that are 0.
    return g / (torch.where(divisor == 0, 1, divisor) if options.normalizer is None else options.normalizer)


def gradient(call: Call, statistics: torch.Tensor, arrived, start: int, classes: int) -> torch.Tensor:
    """The gradient on this rank's logits of what arrives at each row's loss, over the divisor."""
    out = cache.empty_like(call.input)
    whole = array(statistics).view(blocks.DTYPE).reshape(tuple(call.rows_shape))
    g, named, place = arrived[0].double(), _named(call), (start, classes)
    if shard_composed.is_needed(call.input):
        x, target, named = _by_torch(call)
        g = g.expand(call.rows_shape).reshape(-1)
        shard_composed.gradient(x, target, whole.reshape(-1), *place, grad_output=g, out=out.view(x.shape), **named)
        return out
    g = np.broadcast_to(array(g), tuple(call.rows_shape))
    with on_torchs_threads(call.input):
        more = {"grad_output": g, "out": array(out), **_as_arrays(named)}
        blocks.gradient(array(call.input), array(call.target), whole, *place, **more)
    return out
