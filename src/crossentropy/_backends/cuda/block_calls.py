"""Blocks of classes on a device: their arrays checked, their launches planned, and run."""

from __future__ import annotations

import math

from ... import _check
from ..._options import integer
from . import arrays, blocks, calls, driver, launch, losses, weighted
from .calls import CLASS_PRIOR, GRAD_OUTPUT, INPUTS, OUT, STATISTICS, X
from .plans import Number, plan_for
from .second_calls import lying, wide_of

NUMBERS = [Number(calls.Values._fields.index(name)) for name in blocks.NUMBERS]
SCALE = Number(calls.Values._fields.index("scale"))


def forward_block(logits, targets, start, classes, **options):
    """What is found of a block of classes: float64 (rows, 5) on the device, `contract.BlockStatistics` of each row.

    ``start`` and ``classes`` as for `crossentropy.blocks.chunk`. A target that is no class makes its row NaN.
    """
    given, fixed, values = calls.given("forward_block", logits, targets, options | {"reduction": "none"})
    plan = plan_for("forward block", given, (fixed, *_place(start, classes)), _plan_numbers)
    return plan.run(given, arrays.stream_of(logits), values)[plan.parts].value


def backward_block(logits, targets, statistics, start, classes, *, grad_output=1.0, out=None, **options):
    """The gradient on a block, from float64 (rows, 3) on the device: as `contract.Backend.backward` has them."""
    given, fixed, values = calls.given("backward_block", logits, targets, options | {"reduction": "none"})
    values = calls.with_gradient(given, values, grad_output, out)
    given[STATISTICS] = arrays.beside(given[X], statistics, "statistics")
    plan = plan_for("backward block", given, (fixed, *_place(start, classes)), _plan_gradient)
    if out is not None:
        _check.require_apart(given[OUT], dict(zip(INPUTS, given, strict=False)), given[X])
    found = plan.run(given, arrays.stream_of(logits), values)
    return found[plan.grad].value if out is None else out


def _place(start, classes):
    return integer(start, "start"), integer(classes, "classes")


def _prior(plan, given, axis):
    """(kind, operand, stride) of what is added to the logits."""
    if given[CLASS_PRIOR] is None:
        return "float32", None, 0
    lies = given[CLASS_PRIOR].layout
    _check.require_weights(lies, given[X].layout, axis, "class_prior")
    arrays.require_aligned(given[CLASS_PRIOR], "class_prior")
    return lies.dtype, plan.operands[CLASS_PRIOR], lies.strides[0] if lies.size else 0


def _launches(plan, call, first_class, all_classes, prior, **operands):
    """For each launch: where rows are, the first one, and what a kernel is told of the block from q on."""
    x, axis = call.x, call.axis
    q, t = (call.targets, None) if call.probabilities else (None, launch.in_order(plan, call.targets))
    size = 8 if launch.real_of(x.layout) == "float64" else 4
    _, prior_at, prior_step = prior
    step = t.layout.strides[0] if t is not None and t.layout.size else 0
    ignored = call.ignore_index
    for where, first in launch._stretches(call.rows_shape, lying(axis, x=x, q=q, **operands)):
        of_targets = [None if t is None else t.at(first * step), step]
        of_targets += [0 if t is None else launch.TARGET_SIZES[t.layout.dtype]]
        of_targets += [int(ignored is not None), 0 if ignored is None else launch.as_int64(ignored)]
        v = None if call.sample_weight is None else call.sample_weight.at(first * size)
        place = [where["inner"], where["rows"], x.layout.shape[axis], first_class, all_classes]
        of_block = [*wide_of(where, axis, q=q), *place, *of_targets, v, call.class_weight, prior_at, prior_step]
        yield where, first, size, of_block


def _kinds(call):
    return call.x.layout.dtype, call.targets.layout.dtype if call.probabilities else ""


def _plan_numbers(plan, name, given, scalars):
    fixed, first_class, all_classes = scalars
    call = losses.checked(plan, given, fixed)
    parts = plan.make((math.prod(call.rows_shape), blocks.PARTS), "float64")
    plan.parts = parts.number
    prior = _prior(plan, given, call.axis)
    if not call.x.layout.size:
        return
    threads = weighted.threads_for(call.x.layout.shape[call.axis])
    compute = blocks.numbers(driver.device(), *_kinds(call), prior[0], threads)
    most = launch.BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors(driver.device())
    for where, first, _, of_block in _launches(plan, call, first_class, all_classes, prior):
        grid = min(-(-where["rows"] // weighted.rows_for(threads)), most)
        to = parts.at(8 * blocks.PARTS * first)
        plan.launch(compute, grid, [*wide_of(where, call.axis, x=call.x), *of_block, to, *NUMBERS])


def _plan_gradient(plan, name, given, scalars):
    fixed, first_class, all_classes = scalars
    call = losses.checked(plan, given, fixed)
    shape = math.prod(call.rows_shape), blocks.KEPT
    _check.require_numbers(given[STATISTICS].layout, "statistics", "float64", shape, in_order=True)
    row_scale = losses.arrived(plan, given, call, GRAD_OUTPUT)
    to = calls.result(plan, given[OUT], OUT, given[X])
    plan.grad = to.number
    prior = _prior(plan, given, call.axis)
    if not call.x.layout.size:
        return
    compute = blocks.gradient(driver.device(), *_kinds(call), prior[0])
    most = launch.BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors(driver.device())
    for where, first, size, of_block in _launches(plan, call, first_class, all_classes, prior, out=to):
        step = size if row_scale is not None and row_scale.layout.shape else 0
        g = None if row_scale is None else row_scale.at(first * step)
        kept = plan.operands[STATISTICS].at(8 * blocks.KEPT * first)
        wide = wide_of(where, call.axis, x=call.x, out=to)
        plan.launch(compute, min(where["rows"], most), [*wide, *of_block, kept, g, step, *NUMBERS, SCALE])
