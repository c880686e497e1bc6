"""A loss on a device: its arrays checked, what it launches planned, and run."""

from __future__ import annotations

import math
from typing import NamedTuple

from ... import _arrays, _check, _settings
from . import arrays, calls, launch, reductions
from .arguments import takes
from .calls import DIVISOR, GRAD_OUTPUT, INPUTS, OUT, SAMPLE_WEIGHT, STATISTICS, TARGETS, Fixed, Values, X
from .kernels import Result
from .plans import Number, Operand, plan_for


def run(kind, given, options, values):
    """The plan of a loss, and its arrays, launched."""
    stream = arrays.stream_of(given[X].value)
    plan = plan_for(kind, given, options, _plan_loss)
    if given[OUT] is not None:
        _check.require_apart(given[OUT], dict(zip(INPUTS, given, strict=False)), given[X])
    if _settings.checks_targets_on_device() and kind != "backward":
        look_at_targets(given, options, stream)
    if plan.rows is not None:  # what 'mean' divides by is their number
        values = values._replace(scale=values.scale / plan.rows if plan.rows else 0.0, by=plan.rows)
    return plan, plan.run(given, stream, values)


class Checked(NamedTuple):
    """A checked call of a loss."""

    x: Operand
    axis: int
    targets: Operand
    probabilities: bool
    class_weight: Operand | None
    sample_weight: Operand | None
    ignore_index: int | None
    options: Fixed

    @property
    def rows_shape(self):
        """The shape of the rows."""
        return _arrays.without(self.x.layout.shape, self.axis)


def checked(plan, given, options: Fixed) -> Checked:
    """What a loss is given, by the rules of _check.py; what a kernel needs of it is put into the plan."""
    x, targets = given[X].layout, given[TARGETS].layout
    axis = calls.logits_axis(given[X], options.axis, "logits")
    probabilities = _check.are_probabilities(targets, x, axis)
    _check.require_index(dict.fromkeys(options.need_index), probabilities)
    arrays.require_aligned(given[TARGETS], "targets")
    return Checked(
        plan.operands[X],
        axis,
        plan.operands[TARGETS],
        probabilities,
        calls.weights(plan, given, "class_weight", axis),
        calls.weights(plan, given, "sample_weight", axis),
        _check.ignored(options.ignore_index, targets, probabilities),
        options,
    )


def _plan_loss(plan, kind, given, options):
    """Plan a loss, its gradient, or the halves of the pair."""
    call, writes, saves = checked(plan, given, options), kind in ("both", "backward"), kind == "forward"
    row_scale = arrived(plan, given, call) if writes else None
    summed, plan.rows = divisor_of(call)
    array = None
    if summed:
        array = plan.operands[DIVISOR] if kind == "backward" else launch.weight_sum(plan, call)[0]
    real, outputs = launch.real_of(call.x.layout), {}
    if kind == "backward":
        outputs["statistics"] = plan.operands[STATISTICS]
    else:
        outputs["loss"] = plan.make(call.rows_shape, real)
    if saves:
        plan.divisor = None if array is None else array.number
    if writes:
        outputs["out"] = calls.result(plan, given[OUT], OUT, given[X])
        plan.grad = outputs["out"].number
    q = call.targets.layout.dtype if call.probabilities else ""
    prior = calls.prior(plan, given, call.axis)
    result = Result(
        reads="statistics" if kind == "backward" else "row",
        saves="row" if saves else "",
        loss=kind != "backward",
        writes="gradient" if writes else "",
        spreads=call.probabilities or options.smooths,
        q=q,
        transforms=options.transforms,
        focal=options.focal,
    )
    if saves:
        outputs["statistics"] = plan.make((math.prod(call.rows_shape), calls.fields_of(result)), real)
        plan.statistics = outputs["statistics"].number
    numbers = {name: Number(place) for place, name in enumerate(Values._fields)}
    launch.rows(
        plan,
        call.x,
        call.axis,
        result,
        **{"q" if q else "targets": call.targets},
        class_weight=call.class_weight,
        sample_weight=call.sample_weight,
        row_scale=row_scale,
        divisor=array,
        ignored=call.ignore_index,
        **({} if prior is None else {"class_prior": prior}),
        **{name: number for name, number in numbers.items() if takes(result, name)},
        **outputs,
    )
    if kind != "backward":
        loss, whole = outputs["loss"], options.reduction == "none"
        plan.loss = (loss if whole else launch.total(plan, loss, array, numbers["by"], numbers["empty"])).number


def arrived(plan, given, call, place: int = GRAD_OUTPUT, name: str = "grad_output"):
    """The numbers on the device that a gradient is multiplied by."""
    g = given[place]
    if g is None:
        return None
    _check.require_grad_output(g.layout, call.options.reduction, call.rows_shape, name)
    arrays.require_aligned(g, name)
    return launch.as_real(plan, plan.operands[place], call.x.layout)


def divisor_of(call):
    """Whether a loss is divided by what must be added up on the device; and the number of rows, if by that."""
    if call.options.reduction != "mean" or call.options.has_normalizer:
        return False, None
    counted = call.class_weight is not None or call.ignore_index is not None
    if call.sample_weight is not None or (counted and not call.probabilities):
        return True, None
    return False, float(math.prod(call.rows_shape))


def look_at_targets(given, options, stream):
    """Raise for the first target that is no class: this waits for the device."""
    given = given[: SAMPLE_WEIGHT + 1]
    plan = plan_for("scan", given, options, _plan_scan)
    if plan.first_bad is None:
        return
    n = arrays.item(plan.run(given, stream)[plan.first_bad], stream)
    if n < reductions.NONE:
        index, targets = _check.index_of(n, given[TARGETS].layout.shape), given[TARGETS].value
        value = int(targets[index]) if hasattr(targets, "__getitem__") else None  # DLPack alone says no more
        raise _check.bad_target(index, value, plan.classes)


def _plan_scan(plan, kind, given, options):
    call = checked(plan, given, options)
    plan.classes = call.x.layout.shape[call.axis]
    plan.first_bad = None if call.probabilities else launch.weight_sum(plan, call)[1].number
