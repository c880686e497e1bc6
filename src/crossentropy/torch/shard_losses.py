"""Losses of rows whose classes are spread over ranks: what each tells of its block of classes, and what comes of it.

The numbers of a block, their merging, the loss and the gradient are `crossentropy.blocks`'. Here is which of them
travel, and as what: a float32 logit is one in four bytes, and what every rank knows of itself need not be sent.
"""

from __future__ import annotations

import functools
import operator
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from .. import _merging, blocks
from .._backends import registry
from .._options import DEFAULTS, EXTRAS, OPTIONS, TRANSFORMS
from . import cache, calls, private, shard_composed, shard_device
from .bridge import NO_WEIGHTS, Options, Weights, array, host_array, loss_dtype, on_torchs_threads
from .shards import Mark, Shards, digest

_NUMBERS = ("label_smoothing", *EXTRAS)
_NONE_GIVEN = Weights(*[False] * len(Weights._fields))
_OF_PLAIN = ("max", "rest", "target")  # all that is told of a row whose target is a class, without options


class Kind(NamedTuple):
    """What comes of the options of a call, whatever its tensors hold."""

    record: np.dtype  # a row's: 16 bytes wherever four numbers in float32 do, or two in it and one in float64
    digest: int  # of what must be the same on every rank beside the targets
    plain_blocks: bool  # what is told of a block is max, rest and target, of the logits as they are
    plain_losses: bool  # and so are the losses made from these


@functools.lru_cache
def _kind_of(rows_shape, dtype: torch.dtype, options: Options, given: Weights, are_classes: bool) -> Kind:
    """The kind of a call; ``given`` says which weights there are."""
    fields = ["max", "rest", *(["target"] if are_classes else ["mass"])]
    if are_classes and given.weight:
        fields.append("class_weight")
    if options.label_smoothing or not are_classes:
        fields.append("distance")
    changed = any(getattr(options, name) != DEFAULTS[name] for name in TRANSFORMS)  # logits, to float64
    kinds = dict.fromkeys(fields, "f8" if dtype == torch.float64 or changed or given.class_prior else "f4")
    # A focal factor is a power of what is left beside the target, which may be far below float32's range.
    if len(fields) == 3 or options.focal != DEFAULTS["focal"]:
        kinds["rest"] = "f8"
    # The fields that have 8 bytes come first, and so aligned.
    record = np.dtype([(name, kinds[name]) for name in sorted(fields, key=lambda name: kinds[name] != "f8")])
    # The dtype of targets may differ: what they are is told by their values. -0.0 is 0.0 to the cache, and so is here.
    numbers = [x + 0.0 if isinstance(x, float) else x for x in options]
    digest = zlib.crc32(repr((tuple(rows_shape), numbers, tuple(given), are_classes)).encode())
    plain = len(fields) == len(_OF_PLAIN)
    return Kind(
        record,
        digest,
        plain and not changed and not any(given),
        plain and all(getattr(options, name) == DEFAULTS[name] for name in _merging.OPTIONS),
    )


@dataclass(frozen=True)
class Call:
    """The arguments of a call on this rank, checked but for the numbers in them."""

    input: torch.Tensor
    target: torch.Tensor
    weights: Weights
    options: Options

    @cached_property
    def rows_shape(self):
        """The shape of the rows."""
        return self.input.shape[:-1]

    @cached_property
    def are_classes(self) -> bool:
        """Whether targets are classes, not probabilities."""
        return not self.target.is_floating_point()

    @cached_property
    def kind(self) -> Kind:
        """What comes of the options."""
        given = _NONE_GIVEN if self.weights is NO_WEIGHTS else Weights(*[t is not None for t in self.weights])
        return _kind_of(self.rows_shape, self.input.dtype, self.options, given, self.are_classes)

    @property
    def dtype(self) -> np.dtype:
        """That of a row's record."""
        return self.kind.record

    def digests(self) -> tuple[int, int]:
        """(of the options, of targets and weights of rows): what must be the same on every rank."""
        return self.kind.digest, digest(self.classes, self.sample_weight)

    @cached_property
    def classes(self) -> np.ndarray | None:
        """Targets that are classes, int64 of the rows' shape on the host, in C order."""
        if not self.are_classes:
            return None
        y = self.target
        return np.asarray(host_array(y if y.dtype is torch.int64 else y.long()), order="C")

    def scanned(self, classes: int) -> tuple[int, int]:
        """(the first row that counts and whose target is no class, or -1; how many others count, by their targets)."""
        y = self.classes.reshape(-1)
        first_bad, others = registry.current().scan_targets(y, classes, self.options.ignore_index, None, None)
        return first_bad, int(others)

    @cached_property
    def sample_weight(self) -> np.ndarray | None:
        """The weights of rows, float64 (N,) on the host."""
        v = self.weights.sample_weight
        return None if v is None else host_array(v.double()).reshape(-1)

    def weight_sum(self) -> float:
        """The sum of the class weights of this rank."""
        w = self.weights.weight
        return float(self.input.shape[-1]) if w is None else w.double().sum().item()

    def counts(self, classes: int) -> np.ndarray | None:
        """Which rows count, (N,); None for all."""
        found = None
        if self.classes is not None and self.scanned(classes)[1] != self.classes.size:
            found = self.classes.reshape(-1) != self.options.ignore_index
        if self.sample_weight is not None:
            weighs = self.sample_weight != 0
            found = weighs if found is None else found & weighs
        return None if found is None or found.all() else found


def index_of(ignore_index) -> int:
    """The class that does not count, checked."""
    index = calls.as_number(operator.index, ignore_index)
    if type(index) is not int or not -(2**63) <= index < 2**63:
        raise ValueError(f"ignore_index must be an integer of 64 bits, got {ignore_index!r}")
    return index


def require_plain(t, name: str, device: torch.device) -> None:
    """Raise unless this is a dense tensor of PyTorch's own on this device."""
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
    if private.is_wrapper(t) or t.is_nested or t.layout is not torch.strided or t.device != device:
        got = f"{type(t).__name__} on {t.device}, {t.layout}"
        raise TypeError(f"{name} must be a plain, dense tensor on {device}, got {got}")


def checked(logits, target, weights: Weights, options: Options) -> Options:
    """The options of a call, or what is wrong with it, as far as it can be told without reading numbers."""
    if logits.dtype not in calls.FLOATS:
        raise TypeError(f"logits must be float32, float64, bfloat16 or float16, got {logits.dtype}")
    rows, shape = tuple(logits.shape[:-1]), tuple(logits.shape)
    epsilon = OPTIONS["label_smoothing"].rule(options.label_smoothing, "label_smoothing")
    options = options._replace(ignore_index=index_of(options.ignore_index), label_smoothing=epsilon)
    require_plain(target, "target", logits.device)
    given = () if weights is NO_WEIGHTS else zip(("weight", *Weights._fields[1:]), weights, strict=True)
    for name, t in (("target", target), *given):
        if t is None:
            continue
        require_plain(t, name, logits.device)
        if t.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} must not require a gradient: there is one on the logits alone")
    if target.is_floating_point():
        if tuple(target.shape) != shape:
            raise ValueError(
                f"target of probabilities must have the shape of the logits, {shape}, got {tuple(target.shape)}"
            )
    elif target.dtype not in calls.INTEGERS:
        raise TypeError(f"target of classes must have an integer dtype, got {target.dtype}")
    elif tuple(target.shape) != rows:
        raise ValueError(
            f"target must have the shape of the rows, {rows}, or be probabilities of shape {shape}, "
            f"got {tuple(target.shape)}"
        )
    w = weights.weight
    if w is not None and (tuple(w.shape) != shape[-1:] or not w.is_floating_point()):
        raise ValueError(f"weight must be floating of shape {shape[-1:]}, got {w.dtype} {tuple(w.shape)}")
    if found := calls.problem_beside(shape[-1:], rows, weights, options, not target.is_floating_point()):
        raise ValueError(found)
    return options


def _named(call: Call) -> dict:
    """The options that are not at their default, as keyword arguments of `crossentropy.blocks`."""
    weight, prior, v = call.weights
    named = {name: value for name in _NUMBERS if (value := getattr(call.options, name)) != DEFAULTS[name]}
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


def by_torch(call: Call) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """(logits, targets, options) for `shard_composed`."""
    named = _named(call)
    if call.weights.sample_weight is not None:
        named["sample_weight"] = _flat(call, call.weights.sample_weight)
    x = call.input.reshape(call.rows_shape.numel(), call.input.shape[-1])
    return x, call.target.reshape(x.shape if not call.are_classes else x.shape[:1]), named


def _numbers(call: Call, shards: Shards) -> Mapping[str, np.ndarray]:
    """What is found of this rank's classes, by name: (N,) each, of a row that does not count any numbers."""
    place = shards.start, shards.classes
    if shard_device.serves(call.input):
        x, target, named = by_torch(call)
        y = None if call.classes is None else call.classes.reshape(-1)
        return shard_device.numbers(x, target, y, *place, named)
    if shard_composed.is_needed(call.input):
        x, target, named = by_torch(call)
        found = shard_composed.chunk(x, target, *place, **named)
        return {name: found[name] for name in found.dtype.names}
    with on_torchs_threads(call.input):
        if call.classes is not None and call.weights is NO_WEIGHTS:
            counts = call.counts(shards.classes)
            return blocks.columns_of_classes(array(call.input), call.classes.reshape(-1), counts, *place, _named(call))
        given = array(call.target) if call.classes is None else call.classes
        return blocks.columns(array(call.input), given, *place, _as_arrays(_named(call)))


def records(call: Call, shards: Shards, to: np.ndarray) -> None:
    """Write what this rank tells of each row, (N,); of one that does not count any numbers.

    A target's logit is -inf on the ranks that do not have it. That one has it is known from what goes with a message:
    targets are the same everywhere, and the ranks' classes are each class once.
    """
    if _tell(call, shards, to):
        return
    if call.classes is not None and (row := call.scanned(shards.classes)[0]) >= 0:
        raise _bad_target(call, row, shards.classes)
    try:
        numbers = _numbers(call, shards)
    except ValueError as error:  # of class weights, which are called otherwise here
        raise ValueError(str(error).replace("class_weight", "weight")) from None
    with np.errstate(over="ignore", under="ignore"):
        for name in call.dtype.names:
            to[name] = numbers[name]


def _tell(call: Call, shards: Shards, to: np.ndarray) -> bool:
    """The same by the backend alone, where it can do that and has nothing but logits and classes to look at."""
    x, at_once = call.input, getattr(registry.current(), "tell_block", None)
    if at_once is None or not (call.kind.plain_blocks and x.numel()):
        return False
    if shard_device.serves(x) or shard_composed.is_needed(x):
        return False
    y, place = call.classes.reshape(-1), (shards.start, shards.classes)
    row = at_once(array(x), y, *place, call.options.ignore_index, to, torch.get_num_threads())
    if row >= 0:
        raise _bad_target(call, row, shards.classes)
    return True


def _bad_target(call: Call, row: int, classes: int) -> IndexError:
    at = ", ".join(map(str, np.unravel_index(row, tuple(call.rows_shape)))) if call.rows_shape else ""
    name, y = f"target[{at}]" if at else "target", call.classes.reshape(-1)[row]
    ignored = call.options.ignore_index
    return IndexError(f"{name} must be a class in [0, {classes}) or ignore_index {ignored}, got {y}")


# The numbers of whole rows, as they are kept for a backward: float64 (fields, N).
KEPT = ("max", "rest", "target", "mass", "distance", "class_weight", "sample_weight")


def results(call: Call, parts: np.ndarray, shards: Shards, marks: list[Mark], keeps: bool = True):
    """(loss, divisor, statistics) from all ranks' records, (K, N).

    Statistics are None unless a backward needs them, and so is then the divisor of losses that nothing divides.
    """
    counts, n = call.counts(shards.classes), parts.shape[1]
    rows, whole = _merged(call, parts, shards, marks, keeps)
    if call.sample_weight is not None:
        whole["sample_weight"] = call.sample_weight
        with np.errstate(invalid="ignore"):
            rows = rows * call.sample_weight
    if counts is not None:
        rows[~counts] = 0
    if call.options.reduction == "none" and not keeps:
        return _of_rows(rows, call), None, None
    by = _divisor(call, whole, counts, n)
    if call.options.reduction == "mean" and call.options.normalizer is None and not by:
        counts = np.zeros(n, bool)  # for the backward: the gradient of a mean over no row is 0
    kept = torch.from_numpy(_kept(whole, counts, n)) if keeps else None
    loss = _of_rows(rows, call) if call.options.reduction == "none" else _reduced(rows, by, call)
    return loss, torch.tensor(by, dtype=torch.float64), kept


def _merged(call: Call, parts: np.ndarray, shards: Shards, marks: list[Mark], keeps: bool):
    """(the rows' losses, but for their weights; the numbers of whole rows by name, as far as they are needed)."""
    options, epsilon = call.options, call.options.label_smoothing
    at_once = getattr(registry.current(), "merge_losses", None)
    if at_once is not None and call.kind.plain_losses:
        whole = np.empty((len(_OF_PLAIN), parts.shape[1])) if keeps else None
        rounded = options.reduction == "none" and call.sample_weight is None and call.input.dtype != torch.float64
        rows = np.empty(parts.shape[1], np.float32 if rounded else np.float64)
        at_once(parts, rows, whole)
        return rows, dict(zip(_OF_PLAIN, whole, strict=True)) if keeps else {}
    of_ranks = {name: parts[name].astype(np.float64) for name in parts.dtype.names}
    if call.are_classes and epsilon:
        of_ranks["mass"] = np.array([[epsilon / shards.classes * mark.weight_sum] for mark in marks])
    whole = _merging.merged_at_once(of_ranks)
    return _merging.losses(whole, *(getattr(options, name) for name in _merging.OPTIONS)), whole


def _kept(whole: dict, counts, n: int) -> np.ndarray:
    found = np.empty((len(KEPT), n))
    for row, name in zip(found, KEPT, strict=True):
        row[...] = whole.get(name, 1.0 if name in ("class_weight", "sample_weight") else 0.0)
    if counts is not None:
        found[-1, ~counts] = 0
    return found


def _divisor(call: Call, whole: dict, counts, n: int) -> float:
    v, w = whole.get("sample_weight"), whole.get("class_weight") if call.are_classes else None
    if v is None and w is None:
        return float(n if counts is None else np.count_nonzero(counts))
    weights = v if w is None else w if v is None else v * w
    return float((weights if counts is None else weights[counts]).sum())


def _of_rows(rows: np.ndarray, call: Call) -> torch.Tensor:
    """The rows' losses as a tensor like the logits, but of the losses' dtype."""
    if rows.dtype == np.float64 and call.input.dtype != torch.float64:
        with np.errstate(over="ignore", under="ignore"):
            rows = rows.astype(np.float32)
    found = torch.from_numpy(rows)
    found = found if call.input.is_cpu else found.to(call.input.device)
    return found if len(call.rows_shape) == 1 else found.reshape(call.rows_shape)


def _reduced(rows: np.ndarray, by: float, call: Call) -> torch.Tensor:
    total = registry.current().total(np.ascontiguousarray(rows))
    if call.options.reduction == "mean":
        by = call.options.normalizer or by
        total = total / by if by else np.nan
    return torch.tensor(total, dtype=loss_dtype(call.input), device=call.input.device)


def like_results(call: Call):
    """Tensors like those of `results`."""
    rows, n = call.rows_shape, 1
    for size in rows:
        n = n * size
    loss = call.input.new_empty(rows if call.options.reduction == "none" else (), dtype=loss_dtype(call.input))
    numbers = {"dtype": torch.float64, "device": "cpu"}
    return loss, torch.empty((), **numbers), torch.empty((len(KEPT), n), **numbers)


def arriving(grad_loss: torch.Tensor, divisor: torch.Tensor, options: Options) -> torch.Tensor:
    """What arrives at the rows' losses: one number, or one each."""
    g = grad_loss.double()
    if options.reduction != "mean":
        return g
    if options.normalizer is not None:
        return g / options.normalizer
    # The mean over no row, whatever its loss would be, has none; nor has that a slope of 1 / 0.
    return torch.where(divisor == 0, 0, g / torch.where(divisor == 0, 1, divisor))


def gradient(call: Call, statistics: torch.Tensor, arrived, start: int, classes: int) -> torch.Tensor:
    """The gradient on this rank's logits of what arrives at each row's loss, over the divisor."""
    out = cache.empty_like(call.input)
    whole = dict(zip(KEPT, array(statistics), strict=True))
    if not whole["sample_weight"].any():  # no row counts, as in a mean over nothing
        return out.zero_()
    g, named, place = arrived[0].double(), _named(call), (start, classes)
    if shard_device.serves(call.input):
        x, target, named = by_torch(call)
        y, g = None if call.classes is None else call.classes.reshape(-1), g.expand(call.rows_shape).reshape(-1)
        shard_device.gradient(x, target, y, whole, *place, named, g, out.view(x.shape))
        return out
    if shard_composed.is_needed(call.input):
        x, target, named = by_torch(call)
        g = g.expand(call.rows_shape).reshape(-1)
        shard_composed.gradient(x, target, whole, *place, grad_output=g, out=out.view(x.shape), **named)
        return out
    g = np.broadcast_to(array(g), tuple(call.rows_shape))
    with on_torchs_threads(call.input):
        more = _as_arrays(named), g, array(out)
        given = array(call.target) if call.classes is None else call.classes
        blocks.write_gradient(array(call.input), given, whole, *place, *more)
    return out
