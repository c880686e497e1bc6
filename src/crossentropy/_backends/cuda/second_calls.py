"""Distillation and second derivatives on a device: their arrays checked, their launches planned, and run."""

from __future__ import annotations

from ... import _check
from ..._arrays import Array, without
from ...reference import HESSIANS, KINDS
from . import arrays, calls, distilled, driver, hessians, launch, losses, weighted
from .calls import DIVISOR, GRAD_OUTPUT, INPUTS, OUT, STATISTICS, TARGETS, Fixed, Values, X
from .plans import Number, plan_for

NUMBERS = {name: Number(place) for place, name in enumerate([*Values._fields, "temperature", "beta"])}
VECTOR = GRAD_OUTPUT  # the place of what a Hessian is multiplied by


def distillation(student, teacher, divergence, *, grad_output, out, options):
    """As `crossentropy.distillation`, of checked numbers: the pair."""
    kind, temperature, beta = divergence
    x = arrays.describe(student, "student_logits")
    given, fixed, values = calls.of_logits(x, arrays.beside(x, teacher, "teacher_logits").value, options)
    values = calls.with_gradient(given, values, grad_output, out)
    plan = plan_for(f"distillation {kind}", given, fixed, _plan_distillation)
    if out is not None:
        named = dict(zip(("student_logits", "teacher_logits", *INPUTS[2:]), given, strict=False))
        _check.require_apart(given[OUT], named, given[X])
    if plan.rows is not None:  # what 'mean' divides by is their number
        values = values._replace(scale=values.scale / plan.rows if plan.rows else 0.0, by=plan.rows)
    found = plan.run(given, arrays.stream_of(student), (*values, temperature, beta))
    return found[plan.loss].value, found[plan.grad].value if out is None else out


def _plan_distillation(plan, name, given, options: Fixed):
    kind = name.removeprefix("distillation ")
    there, teacher = given[X], given[TARGETS]
    axis = calls.logits_axis(there, options.axis, "student_logits")
    _check.require_teacher(teacher.layout, there.layout)
    arrays.require_aligned(teacher, "teacher_logits")
    if teacher.layout.dtype == "float64" and there.layout.dtype != "float64":
        raise TypeError(f"teacher_logits are float64 on a device, where student_logits are {there.layout.dtype}")
    x, q = plan.operands[X], plan.operands[TARGETS]
    v = calls.weights(plan, given, "sample_weight", axis)
    call = losses.Checked(x, axis, q, True, None, v, None, options)
    row_scale = losses.arrived(plan, given, call)
    summed, plan.rows = losses.divisor_of(call)
    divisor = launch.weight_sum(plan, call)[0] if summed else None
    to = calls.result(plan, given[OUT], OUT, there)
    loss = plan.make(call.rows_shape, launch.real_of(x.layout))
    plan.grad = to.number
    classes, rows = x.layout.shape[axis], call.rows_shape
    threads, size = weighted.threads_for(classes), loss.layout.itemsize
    step = size if row_scale is not None and row_scale.layout.shape else 0
    if x.layout.size:
        device = driver.device()
        compute = distilled.distillations(device, x.layout.dtype, q.layout.dtype, KINDS.index(kind), threads)
        for where, first in launch._stretches(rows, lying(axis, x=x, q=q, out=to)):
            wide = wide_of(where, axis, x=x, q=q, out=to)
            of_rows = [None if a is None else a.at(first * size) for a in (v, row_scale if step else None, loss)]
            scale = of_rows[1] if step else row_scale
            numbers = [NUMBERS[each] for each in ("temperature", "beta", "scale")]
            given_ = [*wide, where["inner"], where["rows"], classes, of_rows[0], scale, step, divisor, of_rows[2]]
            plan.launch(compute, _grid(where, threads), [*given_, *numbers])
    whole = options.reduction == "none"
    plan.loss = (loss if whole else launch.total(plan, loss, divisor, NUMBERS["by"], NUMBERS["empty"])).number


def hessian(saved, which: str, vector, out):
    """What stands for the Hessian of the loss of a forward; ``out`` lies apart from every other array."""
    given, x = list(saved.given), saved.given[X]
    given[VECTOR] = None if vector is None else arrays.beside(x, vector, "vector")
    given[OUT] = None if out is None else arrays.beside(x, out, "hess_out")
    plan = plan_for(f"hessian {which}", given, saved.options, _plan_hessian)
    values = saved.values
    if plan.rows is not None:
        values = values._replace(scale=values.scale / plan.rows if plan.rows else 0.0)
    keep = 1.0 - values.label_smoothing
    found = plan.run(given, arrays.stream_of(x.value), (*values, keep))
    return found[plan.grad].value if out is None else out


def _plan_hessian(plan, name, given, options: Fixed):
    which = name.removeprefix("hessian ")
    call = losses.checked(plan, given, options)
    if given[VECTOR] is not None:
        _check.require_vector(given[VECTOR].layout, given[X].layout)
        arrays.require_aligned(given[VECTOR], "vector")
    summed, plan.rows = losses.divisor_of(call)
    x, axis, to = call.x, call.axis, calls.result(plan, given[OUT], OUT, given[X])
    plan.grad = to.number
    if not x.layout.size:
        return
    statistics, divisor = plan.operands[STATISTICS], plan.operands[DIVISOR] if summed else None
    q, targets = plan.operands[VECTOR], None if call.probabilities else call.targets
    size, classes = 8 if launch.real_of(x.layout) == "float64" else 4, x.layout.shape[axis]
    threads = weighted.threads_for(classes)
    compute = hessians.hessians(driver.device(), x.layout.dtype, HESSIANS.index(which), threads)
    described = lying(axis, x=x, q=q, out=to)
    if targets is not None:
        described["targets"] = targets, targets.layout.strides
    ignored = call.ignore_index
    keep = Number(len(Values._fields))
    for where, first in launch._stretches(call.rows_shape, described):
        of_targets = [where.get("targets"), where.get("targets_outer"), where.get("targets_row")]
        of_targets += [0 if targets is None else launch.TARGET_SIZES[targets.layout.dtype]]
        of_targets += [int(ignored is not None), 0 if ignored is None else launch.as_int64(ignored)]
        v = None if call.sample_weight is None else call.sample_weight.at(first * size)
        arguments = [*wide_of(where, axis, x=x, q=q, out=to), *of_targets, where["inner"], where["rows"], classes]
        arguments += [call.class_weight, v, divisor, statistics.at(first * 3 * size)]
        plan.launch(compute, _grid(where, threads), [*arguments, keep, NUMBERS["z_loss"], NUMBERS["scale"]])


def require_apart(result: Array, given, **more) -> None:
    """Raise where a second result shares memory with an input, or the first one."""
    _check.require_apart(result, dict(zip(INPUTS, given, strict=False)) | more, None)


def lying(axis: int, **operands) -> dict:
    """The strides of the rows of arrays like the logits, of those that there are."""
    return {name: (a, without(a.layout.strides, axis)) for name, a in operands.items() if a is not None}


def wide_of(where: dict, axis: int, **operands) -> list:
    """Where each of these arrays lies, as a kernel takes it."""
    found = []
    for name, a in operands.items():
        found += [where.get(name), where.get(f"{name}_outer"), where.get(f"{name}_row")]
        found.append(None if a is None else a.layout.strides[axis])
    return found


def _grid(where: dict, threads: int) -> int:
    most = launch.BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors(driver.device())
    return min(-(-where["rows"] // weighted.rows_for(threads)), most)
