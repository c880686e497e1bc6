"""Losses of one logit each on a device: their arrays checked, their launches planned, and run."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ... import _check, _settings
from ..._options import real
from . import arrays, calls, driver, launch, one_logit, reductions
from .plans import Number, plan_for

Z, TARGETS, WEIGHT, POS_WEIGHT, GRAD_OUTPUT, OUT = range(6)
INPUTS = ("logits", "targets", "weight", "pos_weight", "grad_output")
SIZES = launch.TARGET_SIZES | {"bool": 1}


class Fixed(NamedTuple):
    """What a plan is found by, beside its arrays."""

    focal: bool
    reduction: str
    wants_grad: bool


class Values(NamedTuple):
    """The numbers of a call; ``scale`` is what the gradient is multiplied by, ``by`` what losses are divided by."""

    weight: float
    pos_weight: float
    scale: float
    alpha: float
    gamma: float
    by: float
    empty: float


NUMBERS = Values(*map(Number, range(len(Values._fields))))


def losses(logits, targets, weight, pos_weight, alpha, gamma, reduction, wants_grad, grad_output, out):
    """(loss, gradient or None), of checked numbers; an alpha below 0 is none."""
    x = arrays.describe(logits, "logits")
    given = [x, arrays.beside(x, targets, "targets"), *[None] * 4]
    w, given[WEIGHT] = _weight(x, weight, "weight")
    r, given[POS_WEIGHT] = _weight(x, pos_weight, "pos_weight")
    scale = 0.0
    if wants_grad:
        scale, given[GRAD_OUTPUT] = calls.arriving(x, grad_output, "grad_output")
    if out is not None:
        given[OUT] = arrays.beside(x, out, "out")
    fixed = Fixed(bool(gamma) or alpha >= 0, reduction, wants_grad)
    plan = plan_for("binary", given, fixed, _plan)
    if out is not None:
        _check.require_apart(given[OUT], dict(zip(INPUTS, given, strict=False)), x)
    stream = arrays.stream_of(logits)
    if _settings.checks_targets_on_device() and given[TARGETS].layout.dtype in launch.TARGET_SIZES:
        _look_at(given[TARGETS], stream)
    by = float(math.prod(x.layout.shape)) if reduction == "mean" else 1.0
    found = plan.run(given, stream, Values(w, r, scale / by if by else 0.0, alpha, gamma, by, math.nan))
    grad = None if plan.grad is None else found[plan.grad].value if out is None else out
    return found[plan.loss].value, grad


def _weight(x, value, name: str):
    """(a number, None), or (1, an array on the device)."""
    if value is None:
        return 1.0, None
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        number = real(value, name)
        if not math.isfinite(number):
            raise ValueError(f"{name} must be finite, got {name} = {number}")
        return number, None
    return 1.0, arrays.beside(x, value, name)


def _plan(plan, kind, given, fixed: Fixed):
    there, t = given[Z], given[TARGETS]
    calls.require_float(there, "logits")
    lies = there.layout
    if t.layout.shape != lies.shape:
        raise ValueError(f"targets must have the shape of logits, {lies.shape}, got {t.layout.shape}")
    floats = t.layout.dtype not in SIZES
    if floats and t.layout.dtype != lies.dtype:
        raise TypeError(
            f"targets must be integers, booleans or of the dtype of logits, {lies.dtype}, on a device where nothing is "
            f"copied implicitly, got {t.layout.dtype}"
        )
    arrays.require_aligned(t, "targets")
    operands = {"z": plan.operands[Z], "t": plan.operands[TARGETS]}
    for name, place in (("w", WEIGHT), ("r", POS_WEIGHT), ("s", GRAD_OUTPUT)):
        if given[place] is not None:
            operands[name] = _scale(plan, given, place, fixed)
    plan.grad = None
    if fixed.wants_grad:
        operands["grad"] = calls.result(plan, given[OUT], OUT, there)
        plan.grad = operands["grad"].number
    whole = fixed.reduction == "none"
    loss = plan.make(lies.shape, launch.real_of(lies)) if whole else None
    sums, blocks = _launches(plan, lies, operands, loss, floats, fixed)
    if whole:
        plan.loss = loss.number
        return
    dtype = launch.real_of(lies)
    result = plan.make((), dtype)
    last = reductions.loss_total(driver.device(), dtype, "float64")
    plan.launch(last, 1, [sums, blocks, None, NUMBERS.by, NUMBERS.empty, result])
    plan.loss = result.number


def _launches(plan, lies, operands, loss, floats, fixed):
    """What computes losses and gradient; (the sums of its blocks, how many there are)."""
    described = {name: (a, a.layout.strides) for name, a in operands.items()}
    stretches = list(launch._stretches(lies.shape, described)) if lies.size else []
    like_z = {"z": operands["z"]} | ({"t": operands["t"]} if floats else {})
    like_z |= {"grad": operands["grad"]} if fixed.wants_grad else {}
    whole = len(stretches) == 1 and stretches[0][0]["inner"] == lies.size
    whole = whole and all(stretches[0][0][f"{name}_row"] == lies.itemsize for name in like_z)
    whole = whole and not any(a.past % 16 for a in like_z.values())
    in_vectors = whole and not fixed.focal
    group = 16 // lies.itemsize if in_vectors else 1
    compute = (
        one_logit.binary_losses(driver.device(), lies.dtype, floats, fixed.focal, in_vectors) if stretches else None
    )
    grids = [min(reductions.MOST, -(-where["rows"] // (reductions.THREADS * group))) for where, _ in stretches]
    sums = plan.make((max(1, sum(grids)),), "float64") if loss is None else None
    real_size, left = 8 if lies.dtype == "float64" else 4, 0
    for (where, first), grid in zip(stretches, grids, strict=True):
        arguments = []
        for name in ("z", "t", "w", "r", "s", "grad"):
            arguments += [where.get(name), where.get(f"{name}_outer"), where.get(f"{name}_row")]
            arguments += [SIZES.get(operands["t"].layout.dtype, 0)] if name == "t" else []
        arguments += [where["inner"], where["rows"], None if loss is None else loss.at(first * real_size)]
        arguments += [None if sums is None else sums.at(8 * left)]
        arguments += [NUMBERS.weight, NUMBERS.pos_weight, NUMBERS.scale, NUMBERS.alpha, NUMBERS.gamma]
        plan.launch(compute, grid, arguments)
        left += grid
    return sums, left


def _scale(plan, given, place: int, fixed: Fixed):
    """A factor of each logit, as reals that lie as if they had the shape of the logits."""
    a, lies, name = given[place], given[Z].layout, INPUTS[place]
    if place == GRAD_OUTPUT:
        _check.require_grad_output(a.layout, fixed.reduction, lies.shape)
    elif a.layout.dtype != "bool":
        _check.require_float(a.layout, name)
    arrays.require_aligned(a, name)
    try:
        fits = np.broadcast_shapes(a.layout.shape, lies.shape) == lies.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must have a shape that broadcasts to that of logits, {lies.shape}, got {a.layout.shape}"
        )
    return calls.broadcast(launch.as_real(plan, plan.operands[place], lies), lies.shape)


def _look_at(targets, stream) -> None:
    """Raise for the first target that is neither 0 nor 1: this waits for the device."""
    plan = plan_for("binary targets", [targets], (), _plan_scan)
    n = arrays.item(plan.run([targets], stream)[plan.first_bad], stream)
    if n < reductions.NONE:
        index = _check.index_of(n, targets.layout.shape)
        value = f" = {int(targets.value[index])}" if hasattr(targets.value, "__getitem__") else ""
        raise ValueError(f"integer targets must be 0 or 1, got {_check.at('targets', index)}{value}")


def _plan_scan(plan, kind, given, scalars):
    arrays.require_aligned(given[0], "targets")
    lies = given[0].layout
    stretches = list(launch._stretches(lies.shape, {"t": (plan.operands[0], lies.strides)})) if lies.size else []
    blocks = [reductions.blocks_for(where["rows"], reductions.SHARE_OF_WEIGHTS) for where, _ in stretches]
    sums, bad = (plan.make((max(1, sum(blocks)),), dtype) for dtype in ("float64", "int64"))
    divisor, first_bad, left = plan.make((), "float32"), plan.make((), "int64"), 0
    scan, total = (f(driver.device(), "float32") for f in (reductions.weight_sums, reductions.weight_total))
    for (where, first), here in zip(stretches, blocks, strict=True):
        of_targets = [where["t"], where["t_outer"], where["t_row"], launch.TARGET_SIZES[lies.dtype]]
        classes = [where["inner"], where["rows"], 2, 0, 0, None, None]
        plan.launch(scan, here, [*of_targets, *classes, sums.at(8 * left), bad.at(8 * left), first])
        left += here
    plan.launch(total, 1, [sums, bad, left, divisor, first_bad])
    plan.first_bad = first_bad.number
