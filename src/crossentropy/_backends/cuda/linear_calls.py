"""A call of a linear loss on a device: checked, and what its chunks share; the logits of a chunk, and their losses."""

from __future__ import annotations

import math
from typing import NamedTuple

from ... import _settings
from ..._arrays import Array
from ..._options import integer
from . import arrays, calls, gemm, launch, losses
from .arguments import takes
from .calls import CLASS_PRIOR, CLASS_WEIGHT, DIVISOR, GRAD_OUTPUT, OUT, SAMPLE_WEIGHT, TARGETS, Values, X
from .chunks import logit_rows
from .kernels import Result
from .matrix_rows import Counting, Rows, copy, matrix, numbers_from, rows_from
from .plans import Number, plan_for

BIAS = LOSS = DIVISOR + 1  # more arrays of a plan: of the call, and of a chunk
ENTROPY_GRAD = BIAS + 1


class Layer(NamedTuple):
    """hidden (..., H), weight (V, H) and bias (V,), described and checked."""

    hidden: Array
    weight: Array
    bias: Array | None
    rows_shape: tuple[int, ...]
    real: str  # the dtype of the logits
    chunk: int | None  # rows, where the caller asks for so many

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, V, H)."""
        return math.prod(self.rows_shape), *self.weight.layout.shape


def layer_of(hidden, weight, bias, rows) -> Layer:
    """The arguments that every function of hidden states has."""
    x = arrays.describe(hidden, "hidden")
    w = arrays.beside(x, weight, "weight")
    b = None if bias is None else arrays.beside(x, bias, "bias")
    for a, name in ((x, "hidden"), (w, "weight"), (b, "bias")):
        if a is not None:
            calls.require_float(a, name)
    if not x.layout.ndim:
        raise ValueError("hidden must have shape (..., H), got a scalar")
    shape = w.layout.shape
    if len(shape) != 2 or shape[1] != x.layout.shape[-1]:
        raise ValueError(f"weight must have shape (V, H) with the H of hidden, {x.layout.shape[-1]}, got {shape}")
    if not shape[0]:
        raise ValueError(f"weight must have at least one class, got shape {shape}")
    if max(shape) > gemm.MOST:
        raise ValueError(f"weight must have at most {gemm.MOST} rows and columns on a device, got shape {shape}")
    if w.layout.dtype != x.layout.dtype:
        raise TypeError(f"weight must have the dtype of hidden, {x.layout.dtype}, got {w.layout.dtype}")
    if b is not None and b.layout.shape != shape[:1]:
        raise ValueError(f"bias must have shape {shape[:1]}, got {b.layout.shape}")
    if rows is not None and not 1 <= (rows := integer(rows, "rows")) <= gemm.MOST:
        raise ValueError(f"rows must be at least 1{'' if rows < 1 else f' and at most {gemm.MOST}'}, got {rows}")
    return Layer(x, w, b, x.layout.shape[:-1], launch.real_of(x.layout), rows)


# ---------------------------------------------------------------------- a call


class Call:
    """A checked call: what of it is the same for every chunk is on its way to the device."""

    def __init__(self, function, layer: Layer, targets, options, arriving=()):
        """``arriving`` has (place, name, value) of what arrives at the results."""
        self.layer, self.real = layer, layer.real
        nowhere = arrays.plain((*layer.rows_shape, layer.shape[1]), self.real, layer.hidden.layout.device)
        given, fixed, values = calls.of_logits(Array(layer.hidden.value, 0, nowhere), targets, options)
        given += [layer.bias, None]
        self.factors = {}
        for place, name, value in arriving:
            self.factors[place], given[place] = calls.arriving(given[X], value, name)
        names = tuple((place, name) for place, name, _ in arriving)
        self.stream = arrays.stream_of(layer.hidden.value)
        self.plan = plan_for(function, given, (fixed, names), _plan_call)
        self.given, self.fixed, self.values = given, fixed, values

    def inputs(self) -> dict[str, Array]:
        """The arrays that are read, by their names."""
        layer, given = self.layer, self.given
        found = {"hidden": layer.hidden, "weight": layer.weight, "bias": layer.bias, "targets": given[TARGETS]}
        found |= {name: given[place] for name, place in calls.PLACES.items()}
        found |= {name: given[place] for place, name in self.plan.arriving}
        return {name: a for name, a in found.items() if a is not None}

    def begin(self) -> None:
        """Launch what all chunks need: no error of the arguments comes after this."""
        layer, plan, stream = self.layer, self.plan, self.stream
        if _settings.checks_targets_on_device():
            losses.look_at_targets(self.given, self.fixed, stream)
        self.multiply = gemm.multiply_for(layer.hidden, stream)
        found = plan.run(self.given, stream)
        by = self.values.by if plan.divided_by is None else plan.divided_by  # a normalizer, or the number of rows
        number = self.factors.get(GRAD_OUTPUT, 1.0)
        self.values = self.values._replace(scale=number / by if by else 0.0, by=by)
        self.found = {
            name: None if a is None else Array(found[a.number].value, found[a.number].address, a.layout)
            for name, a in plan.arrays.items()
        }
        index = None if plan.probabilities else self.found["targets"]
        self.counting = Counting(self.real, index, plan.ignored, self.found["sample_weight"], self.found["divisor"])
        n, classes, columns = layer.shape
        weight_bytes = classes * columns * arrays.SIZES[self.real]
        self.chunk = logit_rows(n, classes, arrays.SIZES[self.real], weight_bytes, layer.chunk)
        self.x = Rows.of(layer.hidden).in_two_dimensions(layer.hidden, stream)
        self.q = Rows.of(self.given[TARGETS]).in_two_dimensions(layer.hidden, stream) if plan.probabilities else None
        self.weight = layer.weight
        if not gemm.is_plain(self.weight.layout) and self.weight.layout.size:
            self.weight = matrix(layer.hidden, classes, columns, self.weight.layout.dtype, stream)
            copy(Rows.of(layer.weight), 0, Rows.of(self.weight), 0, classes, stream)

    def slices(self):
        """(first, count) of each chunk."""
        n = self.layer.shape[0]
        return [(first, min(self.chunk, n - first)) for first in range(0, n, self.chunk or 1)]

    def buffer(self, columns: int, dtype: str, rows: int | None = None) -> Array:
        """Memory of a chunk."""
        return matrix(self.layer.hidden, self.chunk if rows is None else rows, columns, dtype, self.stream)

    def hidden_rows(self, first: int, count: int, to: Array | None) -> Array:
        """Hidden states of a chunk as a product takes them; in ``to`` where they are copied."""
        if to is None:
            return self.x.at(first, count)
        to = rows_from(to, 0, count)
        copy(self.x, first, Rows.of(to), 0, count, self.stream, counting=self.counting, number=first)
        return to

    def copies_hidden(self) -> bool:
        """Whether chunks of hidden states are copied: where rows may not count, or lie as no product takes them."""
        n = self.layer.shape[0]
        return bool(n) and (self.counting.matters or not self.x.is_flat or not gemm.is_plain(self.x.at(0, n).layout))

    def logits(self, x: Array, to: Array) -> None:
        """The logits of a chunk, with bias."""
        if (bias := self.found["bias"]) is not None or not x.layout.shape[1]:
            copy(Rows.of_one(bias), 0, Rows.of(to), 0, len_of(to), self.stream, none=bias is None)
        if x.layout.shape[1]:
            self.multiply(x, gemm.transposed(self.weight), to, bias is not None)

    def rows(self, kind, first, z, loss, out=None) -> None:
        """The kernel of rows over a chunk's logits: their losses, and their gradient."""
        count, found, plan = len_of(z), self.found, self.plan
        if plan.probabilities:
            targets = self._probabilities(first, count)
        else:
            targets = numbers_from(found["targets"], first, count)
        arrives = found.get("grad_output")
        if arrives is not None and arrives.layout.shape:
            arrives = numbers_from(arrives, first, count)
        v = found["sample_weight"]
        given = [z, targets, found["class_weight"], None if v is None else numbers_from(v, first, count)]
        given += [found["class_prior"]]
        given += [arrives if out is not None else None, out, None, found["divisor"], numbers_from(loss, first, count)]
        fixed = self.fixed
        few = fixed.transforms, fixed.focal
        run_rows(kind, given, fixed.smooths, plan.probabilities, plan.ignored, self.stream, self.values, few)

    def _probabilities(self, first, count):
        if self.q.is_flat:
            return self.q.at(first, count)
        if not hasattr(self, "_q"):
            self._q = self.buffer(self.layer.shape[1], self.q.array.layout.dtype)
        to = rows_from(self._q, 0, count)
        copy(self.q, first, Rows.of(to), 0, count, self.stream)
        return to

    def losses(self) -> Array:
        """A number for each row."""
        return arrays.empty(self.layer.rows_shape, self.real, self.layer.hidden, self.stream)

    def reduced(self, loss: Array):
        """What a caller gets of the rows' losses."""
        if self.fixed.reduction == "none":
            return loss.value
        given = [flat(loss), self.found["divisor"]]
        plan = plan_for("linear total", given, (), _plan_total)
        return plan.run(given, self.stream, (self.values.by, self.values.empty))[plan.total].value


def _plan_call(plan, function, given, scalars):
    """Check the arrays of a call, and plan what all chunks need: options as real numbers, and the divisor."""
    options, plan.arriving = scalars
    call = losses.checked(plan, given, options)
    plan.probabilities, plan.ignored = call.probabilities, call.ignore_index
    if function.startswith("linear_log_probs") and call.probabilities:
        raise TypeError(f"index must be integers (classes), got {given[TARGETS].layout.dtype}")
    summed, plan.divided_by = losses.divisor_of(call)
    plan.arrays = {
        "class_weight": call.class_weight,
        "sample_weight": call.sample_weight,
        "class_prior": calls.prior(plan, given, call.axis),
        "bias": launch.as_real(plan, plan.operands[BIAS], call.x.layout),
        "targets": None if call.probabilities else launch.in_order(plan, call.targets),
        "divisor": launch.weight_sum(plan, call)[0] if summed else None,
    }
    plan.arrays |= {name: losses.arrived(plan, given, call, place, name) for place, name in plan.arriving}


def run_rows(kind, given, smooths, probabilities, ignored, stream, values, few=(False, False)) -> None:
    """Losses of rows of logits to where they belong, and their gradient: by the plan for arrays that lie like these.

    ``few`` says whether logits are transformed, and whether the loss is focal.
    """
    plan = plan_for(kind, given, (smooths, *few, probabilities, ignored), _plan_rows)
    plan.run(given, stream, values)


def _plan_rows(plan, kind, given, scalars):
    smooths, transforms, focal, probabilities, ignored = scalars
    x, targets, out, divisor, loss = (plan.operands[place] for place in (X, TARGETS, OUT, DIVISOR, LOSS))
    q = targets.layout.dtype if probabilities else ""
    to = out.layout.dtype if out is not None and out.layout.dtype != x.layout.dtype else ""
    writes, more = "" if out is None else "gradient", {"transforms": transforms, "focal": focal}
    result = Result(loss=True, writes=writes, spreads=probabilities or smooths, q=q, to=to, **more)
    numbers = {name: Number(place) for place, name in enumerate(Values._fields) if takes(result, name)}
    if (prior := plan.operands[CLASS_PRIOR]) is not None:
        numbers["class_prior"] = prior
    launch.rows(
        plan,
        x,
        1,
        result,
        **{"q" if q else "targets": targets},
        class_weight=plan.operands[CLASS_WEIGHT],
        sample_weight=plan.operands[SAMPLE_WEIGHT],
        row_scale=plan.operands[GRAD_OUTPUT],
        divisor=divisor,
        ignored=ignored,
        loss=loss,
        out=out,
        **numbers,
    )


def _plan_total(plan, kind, given, scalars):
    plan.total = launch.total(plan, *plan.operands[:2], Number(0), Number(1)).number


def flat(a: Array) -> Array:
    """An array in C order as one of one dimension."""
    return a._replace(layout=arrays.plain((a.layout.size,), a.layout.dtype, a.layout.device))


def len_of(a: Array) -> int:
    """How many rows a matrix has."""
    return a.layout.shape[0]
