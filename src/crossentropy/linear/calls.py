"""A checked call of a loss of hidden states: what is wrong with one is told before any product runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from .. import _arrays, _check, _device, _foreign, _memory
from .._options import integer

GRADIENTS = _check.GRADIENTS


class Layer(NamedTuple):
    """hidden (..., H), weight (V, H) and bias (V,), checked: logits are hidden @ weight.T + bias."""

    hidden: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    rows_shape: tuple[int, ...]
    real: np.dtype  # of the logits, and of what is summed: float32, or float64 for float64
    chunk: int | None  # rows, where the caller asks for so many
    sources: dict[str, np.ndarray]  # the arguments as arrays: what an ``out`` must not share memory with

    @property
    def classes(self) -> int:
        """V."""
        return len(self.weight)

    @property
    def row_count(self) -> int:
        """How many rows there are, N."""
        return int(np.prod(self.rows_shape, dtype=np.int64))


def layer(hidden: Any, weight: Any, bias: Any, rows: Any) -> Layer:
    """The arguments that every function of hidden states has."""
    sources = {"hidden": _check.array(hidden, "hidden"), "weight": _check.array(weight, "weight")}
    x, x_lies = _check.floats(sources["hidden"], "hidden")
    w, w_lies = _check.floats(sources["weight"], "weight")
    if not x.ndim:
        raise ValueError("hidden must have shape (..., H), got a scalar")
    if w.ndim != 2 or w.shape[1] != x.shape[-1]:
        raise ValueError(f"weight must have shape (V, H) with the H of hidden, {x.shape[-1]}, got {w.shape}")
    if not len(w):
        raise ValueError(f"weight must have at least one class, got shape {w.shape}")
    if w_lies.dtype != x_lies.dtype:
        raise TypeError(f"weight must have the dtype of hidden, {x_lies.dtype}, got {w_lies.dtype}")
    b = None
    if bias is not None:
        sources["bias"] = _check.array(bias, "bias")
        b, _ = _check.floats(sources["bias"], "bias")
        if b.shape != (len(w),):
            raise ValueError(f"bias must have shape {(len(w),)}, got {b.shape}")
    chunk = None
    if rows is not None and (chunk := integer(rows, "rows")) < 1:
        raise ValueError(f"rows must be at least 1, got {chunk}")
    real = np.dtype(np.float64 if x.itemsize == 8 else np.float32)
    return Layer(x, w, b, x.shape[:-1], real, chunk, sources)


def loss(layer: Layer, targets: Any, left: dict[str, Any]) -> _check.Loss:
    """The call of the loss whose logits are the layer's: checked as one of logits, which are never there as a whole."""
    nowhere = np.broadcast_to(np.zeros((), layer.hidden.dtype), (*layer.rows_shape, layer.classes))
    call = _check.loss(nowhere, targets, left)
    return call._replace(sources=layer.sources | {name: a for name, a in call.sources.items() if name != "logits"})


# ---------------------------------------------------------------------- where gradients go


class Gradients(NamedTuple):
    """The arrays that gradients go to, None for one that is not asked for; ``added``: those that are added to."""

    hidden: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None
    added: frozenset[str]
    results: tuple[np.ndarray | None, ...]  # the same, as a caller gets them: what it gave for one is that itself


wanted = _check.gradients_wanted


def gradients(
    layer: Layer, wrt: Collection[str], out: Any, accumulate: Any, inputs: dict[str, np.ndarray]
) -> Gradients:
    """Where each gradient goes: what ``out`` has for it, else a new array."""
    given = _check.gradients_given(out, accumulate)
    arrays: dict[str, np.ndarray | None] = dict.fromkeys(GRADIENTS)
    for name in GRADIENTS:
        like = getattr(layer, name)
        if name not in wrt or like is None:
            if name in given:
                raise _check.gradient_not_wanted(name)
            continue
        others = inputs | {f"out[{key!r}]": a for key, a in arrays.items() if a is not None and key in given}
        arrays[name] = _place(given.get(name), like, layer.real, others, f"out[{name!r}]")
    added = frozenset(given) if accumulate else frozenset()
    return Gradients(**arrays, added=added, results=tuple(given.get(name, arrays[name]) for name in GRADIENTS))


def _place(out: Any, like: np.ndarray, real: np.dtype, others: dict[str, np.ndarray], called: str) -> np.ndarray:
    if out is None:
        return _memory.empty(like.shape, like.dtype.newbyteorder("="))
    if _device.is_tensor(out):
        out = _foreign.as_array(out, called)
    if isinstance(out, np.ndarray) and out.dtype == real and like.itemsize < real.itemsize:
        like = np.broadcast_to(np.zeros((), real), like.shape)  # a sum of float32 for parameters of 16 bits
    return _check.result(out, like, others, may_be_x=False, called=called)


# ---------------------------------------------------------------------- rows that count


def counting_rows(call: _check.Loss) -> np.ndarray | None:
    """The numbers of the rows that count; None where all of them do."""
    options, counts = call.options, None
    if options.ignore_index is not None:
        counts = call.targets != options.ignore_index
    if options.sample_weight is not None:
        weighted = options.sample_weight != 0
        counts = weighted if counts is None else counts & weighted
    return None if counts is None or counts.all() else np.flatnonzero(counts)


def rows_at(a: np.ndarray, rows_shape: tuple[int, ...], which: Any) -> np.ndarray:
    """Rows of an array (..., K) by their numbers in C order, a slice or an array: a view where there is one."""
    if a.ndim == 2:
        return a[which]
    flat = _merged(a)
    if flat is not None:
        return flat[which]
    numbers = np.arange(which.start, which.stop) if isinstance(which, slice) else which
    return a[np.unravel_index(numbers, rows_shape)]


def _merged(a: np.ndarray) -> np.ndarray | None:
    """The array as (rows, K) in the same memory; None where no stride leads through its rows."""
    rows = _arrays.merged_rows(a.shape[:-1], [a.strides[:-1]])
    if len(rows) > 1:
        return None
    size, (stride,) = rows[0] if rows else (int(np.prod(a.shape[:-1], dtype=np.int64)), [0])
    return np.lib.stride_tricks.as_strided(a, (size, a.shape[-1]), (stride, a.strides[-1]), writeable=a.flags.writeable)
