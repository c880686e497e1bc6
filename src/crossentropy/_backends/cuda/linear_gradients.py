"""Gradients of hidden states, weight and bias on a device: where they go, and the sums over chunks."""

from __future__ import annotations

from typing import NamedTuple

from ... import _arrays, _check
from ..._arrays import Array
from . import arrays, driver, gemm, matrices
from .chunks import grad_rows
from .linear_calls import Call
from .matrix_rows import Rows, copy, launch_one, rows_from


class Gradients(NamedTuple):
    """The arrays that gradients go to, None for one that is not asked for; ``added``: those that are added to."""

    hidden: Array | None
    weight: Array | None
    bias: Array | None
    added: frozenset[str]
    results: tuple  # as a caller gets them


def gradients(call: Call, wrt, out, accumulate) -> Gradients:
    """Where each gradient goes: what ``out`` has for it, else a new array."""
    wanted, given = _check.gradients_wanted(wrt), _check.gradients_given(out, accumulate)
    layer, inputs, found, results = call.layer, call.inputs(), {}, []
    for name in _check.GRADIENTS:
        like = getattr(layer, name)
        if name not in wanted or like is None:
            if name in given:
                raise _check.gradient_not_wanted(name)
            found[name] = None
            continue
        if name in given:
            a = arrays.beside(layer.hidden, given[name], called := f"out[{name!r}]")
            _require_place(a, like, call.real, called, inputs)
            inputs[called] = found[name] = a
    for name in _check.GRADIENTS:  # nothing is made before all is checked
        if name not in found:
            like = getattr(layer, name)
            found[name] = arrays.empty(like.layout.shape, like.layout.dtype, like, call.stream)
        results.append(given[name] if name in given else found[name] and found[name].value)
    return Gradients(**found, added=frozenset(given) if accumulate else frozenset(), results=tuple(results))


def _require_place(a: Array, like: Array, real: str, called: str, inputs: dict[str, Array]) -> None:
    dtype = real if a.layout.dtype == real and like.layout.itemsize == 2 else like.layout.dtype
    _check.require_result(a.layout, arrays.plain(like.layout.shape, dtype, like.layout.device), called=called)
    arrays.require_aligned(a, called)
    for name, other in inputs.items():
        if _arrays.may_share_memory(a, other):
            raise _check.shares_memory(name, False, called)


class Sums:
    """The gradients of hidden states, weight and bias, from the gradient on the logits, chunk by chunk."""

    def __init__(self, call: Call, to: Gradients):
        self.call, self.to = call, to
        self.n, self.classes, self.columns = call.layer.shape
        self.narrow = call.layer.hidden.layout.itemsize == 2
        operand = call.layer.hidden.layout.dtype
        self.kept = grad_rows(self.n, call.chunk, self.columns) if to.weight is not None else call.chunk
        self.grads = call.buffer(self.classes, operand, self.kept) if self.narrow and self.n else None
        self.copies = call.copies_hidden()
        rows = self.kept if self.narrow else call.chunk
        self.x = call.buffer(self.columns, operand, rows) if self.copies else None
        self._weight(to.weight)
        self._hidden(to.hidden)
        self.bias_sums = None
        if to.bias is not None:
            self.slices = min(matrices.SLICES, max(1, call.chunk))
            self.bias_sums = call.buffer(self.classes, "float64", self.slices)
            self.bias_begun = False

    def _weight(self, to):
        """Where the weight's gradient is summed: in its own array where that will do."""
        self.weight = None
        if to is None or not to.layout.size:
            return
        one_product = self.n <= (self.kept if self.narrow else self.call.chunk)
        added, plain = "weight" in self.to.added, gemm.is_plain(to.layout, result=True)
        is_sum = plain and (to.layout.dtype == self.call.real or (one_product and not added))
        self.weight = to if is_sum else self.call.buffer(self.columns, self.call.real, self.classes)
        self.begun = is_sum and added

    def _hidden(self, to):
        """Where a chunk's gradient on hidden states goes before it is put into its place, if it has to."""
        self.hidden, self.hidden_place = None, None
        if to is None or not to.layout.size:
            return
        place = Rows.of(to)
        direct = place.is_flat and "hidden" not in self.to.added and gemm.is_plain(place.at(0, self.n).layout, True)
        self.hidden_place = place
        self.hidden = None if direct else self.call.buffer(self.columns, self.call.real)

    def of_chunk(self, first: int, count: int) -> tuple[Array, Array | None]:
        """Where the hidden states and the 16-bit gradient of a chunk lie; None for one that has no place here."""
        at = first if self.kept >= self.n else 0
        x = None if self.x is None else rows_from(self.x, at if self.narrow else 0, count)
        return x, None if self.grads is None else rows_from(self.grads, at, count)

    def take(self, first: int, count: int, x: Array, grad: Array) -> None:
        """Add what a chunk has for each gradient; ``grad`` is that on its logits."""
        call, stream = self.call, self.call.stream
        if self.hidden_place is not None:
            if self.hidden is None:
                place = self.hidden_place.at(first, count)
                call.multiply(grad, call.weight, place, False)
                copy(None, 0, Rows.of(place), 0, count, stream, counting=call.counting, number=first)
            else:
                found, more = rows_from(self.hidden, 0, count), "hidden" in self.to.added
                call.multiply(grad, call.weight, found, False)
                copy(Rows.of(found), 0, self.hidden_place, first, count, stream, more, call.counting, first)
        if self.bias_sums is not None:
            of_a = grad.address, grad.layout.strides[0], count, self.classes
            across = -(-self.classes // matrices.THREADS)
            kernel = matrices.column_sums(driver.device(), grad.layout.dtype)
            sums = self.bias_sums.address
            launch_one(kernel, across * self.slices, [*of_a, self.slices, sums, int(self.bias_begun)], stream)
            self.bias_begun = True
        if self.weight is not None and not (self.narrow and self.kept >= self.n):
            call.multiply(gemm.transposed(grad), x, self.weight, self.begun)
            self.begun = True

    def finish(self) -> None:
        """The product of what was kept; sums rounded, to where they belong."""
        call, to, stream = self.call, self.to, self.call.stream
        if self.weight is not None and self.narrow and self.n and self.kept >= self.n:
            x = rows_from(self.x, 0, self.n) if self.copies else call.x.at(0, self.n)
            call.multiply(gemm.transposed(rows_from(self.grads, 0, self.n)), x, self.weight, self.begun)
            self.begun = True
        if self.weight is not None:
            if not self.begun and "weight" not in to.added:
                copy(None, 0, Rows.of(to.weight), 0, self.classes, stream, none=True)
            elif self.begun and self.weight is not to.weight:
                more = "weight" in to.added
                copy(Rows.of(self.weight), 0, Rows.of(to.weight), 0, self.classes, stream, more)
        if to.bias is not None:
            kernel = matrices.column_totals(driver.device(), to.bias.layout.dtype)
            slices = self.slices if self.bias_begun else 0
            place = to.bias.address, to.bias.layout.strides[0], int("bias" in to.added)
            across = -(-self.classes // matrices.THREADS)
            launch_one(kernel, across, [self.bias_sums.address, slices, self.classes, *place], stream)
