"""The numbers of rows on a device, their gradient, and what launches them."""

from __future__ import annotations

import math
from typing import NamedTuple

from ... import _arrays, _check
from ..._arrays import Array
from ..._options import DEFAULTS, NUMERIC, integer, numeric_of
from ..contract import Statistics
from . import arrays, calls, driver, launch, row_numbers
from .launch import BLOCKS_PER_MULTIPROCESSOR, TARGET_SIZES
from .plans import Number, plan_for
from .weighted import rows_for, threads_for

X, INDEX, SAMPLE_WEIGHT, CLASS_PRIOR, STATISTICS, GRAD_LOG_PROB, GRAD_ENTROPY, OUT = range(8)
FIELDS = len(Statistics._fields)


class SavedLogProbs(NamedTuple):
    """What `log_probs_backward` needs of a `log_probs_forward`; opaque."""

    given: list[Array | None]
    fixed: tuple  # axis, ignore_index, whether x is a block of classes
    numbers: tuple  # logit_scale, softcap


def _described(logits, index, options, of_block=False) -> SavedLogProbs:
    x = arrays.describe(logits, "logits")
    found = [x, None if index is None else arrays.beside(x, index, "targets"), *[None] * 6]
    for name, place in (("sample_weight", SAMPLE_WEIGHT), ("class_prior", CLASS_PRIOR)):
        if options.get(name) is not None:
            found[place] = arrays.beside(x, options[name], name)
    ignored = options.get("ignore_index")
    ignored = None if ignored is None else integer(ignored, "ignore_index")
    fixed = integer(options.get("axis", -1), "axis"), ignored, of_block
    numbers = {name: DEFAULTS[name] for name in NUMERIC} | numeric_of(options)
    return SavedLogProbs(found, fixed, (numbers["logit_scale"], numbers["softcap"]))


def _counting(plan, given, axis, ignored):
    """(targets, their stride, their size, has_ignored, ignored; sample_weight): operands, and numbers beside them."""
    x, real = given[X].layout, launch.real_of(given[X].layout)
    weights = None
    if given[SAMPLE_WEIGHT] is not None:
        _check.require_weights(given[SAMPLE_WEIGHT].layout, x, axis, "sample_weight")
        weights = launch.as_real(plan, plan.operands[SAMPLE_WEIGHT], x)
    if given[INDEX] is None:
        return (None, 0, 0, 0, 0), weights, real
    lies = given[INDEX].layout
    if _check.are_probabilities(lies, x, axis):
        raise TypeError("index must be classes, integers of the rows' shape, got probabilities")
    arrays.require_aligned(given[INDEX], "targets")
    ignored = _check.ignored(ignored, lies, False)
    t = launch.in_order(plan, plan.operands[INDEX])
    bits = 0 if ignored is None else launch.as_int64(ignored)
    return (
        (t, t.layout.strides[0] if t.layout.size else 0, TARGET_SIZES[t.layout.dtype], int(ignored is not None), bits),
        weights,
        real,
    )


def _prior(plan, given, axis):
    """(kind, operand, stride) of what is added to the logits."""
    if given[CLASS_PRIOR] is None:
        return "float32", None, 0
    lies = given[CLASS_PRIOR].layout
    _check.require_weights(lies, given[X].layout, axis, "class_prior")
    arrays.require_aligned(given[CLASS_PRIOR], "class_prior")
    return lies.dtype, plan.operands[CLASS_PRIOR], lies.strides[0] if lies.size else 0


def _launches(plan, given, axis, ignored, others):
    """For each launch: (where rows are, the first one, the arguments that say which count and what is added)."""
    x = given[X].layout
    (t, step, size, *ignoring), weights, real = _counting(plan, given, axis, ignored)
    kind, prior, prior_step = _prior(plan, given, axis)
    real_size = 8 if real == "float64" else 4
    rows = _arrays.without(x.shape, axis)
    described = {"x": (plan.operands[X], _arrays.without(x.strides, axis))} | others
    for where, first in launch._stretches(rows, described):
        of_rows = [None if t is None else t.at(first * step), step, size, *ignoring]
        own = None if weights is None else weights.at(first * real_size)
        yield kind, real_size, where, first, [*of_rows, own, prior, prior_step]


def _plan_numbers(plan, kind, given, scalars):
    (axis, ignored, _), keeps, best = scalars
    axis = calls.logits_axis(given[X], axis, "logits")
    x, real = given[X].layout, launch.real_of(given[X].layout)
    shape, classes = _arrays.without(x.shape, axis), x.shape[axis]
    index = given[INDEX] is not None
    made = [
        plan.make(shape, real),
        plan.make(shape, real),
        plan.make(shape, real) if index else None,
        plan.make(shape, real),
    ]
    made += [plan.make(shape, "int64"), plan.make(shape, "int64") if index else None]
    made.append(plan.make((math.prod(shape), FIELDS), real) if keeps else None)
    plan.made = [None if a is None else a.number for a in made]
    device = driver.device()
    most = BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors(device)
    for prior_kind, real_size, where, first, of_rows in _launches(plan, given, axis, ignored, {}) if x.size else ():
        threads = threads_for(classes)
        compute = row_numbers.numbers(device, x.dtype, prior_kind, threads)
        sizes = [real_size] * 4 + [8, 8, FIELDS * real_size]
        results = [None if a is None else a.at(first * size) for a, size in zip(made, sizes, strict=True)]
        wide = [where["x"], where["x_outer"], where["x_row"], x.strides[axis], where["inner"], where["rows"], classes]
        grid = min(-(-where["rows"] // rows_for(threads)), most)
        plan.launch(compute, grid, [*wide, *of_rows, *results, Number(0), Number(1)])
    plan.in_top = []
    for k in best:
        to = plan.make(shape, "bool")
        plan.in_top.append((k, to.number))
        if count := math.prod(shape):
            plan.launch(row_numbers.within(device), -(-count // row_numbers.THREADS), [made[5], count, k, to])


def _numbers(saved: SavedLogProbs, keeps: bool, best=()):
    plan = plan_for("row numbers", saved.given, (saved.fixed, keeps, best), _plan_numbers)
    found = plan.run(saved.given, arrays.stream_of(saved.given[X].value), saved.numbers)
    return [None if number is None else found[number] for number in plan.made], {
        k: found[n].value for k, n in plan.in_top
    }


def log_probs_forward(logits, index=None, **options):
    """As `crossentropy.autograd.log_probs_forward`, on the device."""
    saved = _described(logits, index, options)
    (_, entropy, log_prob, _, _, _, statistics), _ = _numbers(saved, True)
    saved.given[STATISTICS] = statistics
    return (None if log_prob is None else log_prob.value, entropy.value), saved


def restored_log_probs(statistics, logits, index=None, of_block=False, **options):
    """As `crossentropy.autograd.restored_log_probs`, on the device; ``of_block``: from the statistics of all blocks."""
    saved = _described(logits, index, options, of_block)
    axis = calls.logits_axis(saved.given[X], saved.fixed[0], "logits")
    x = saved.given[X]
    kept = arrays.beside(x, statistics, "statistics")
    shape = math.prod(_arrays.without(x.layout.shape, axis)), FIELDS
    _check.require_numbers(kept.layout, "statistics", launch.real_of(x.layout), shape, in_order=True)
    saved.given[STATISTICS] = kept
    return saved


def log_probs_backward(saved: SavedLogProbs, grad_log_prob=0.0, grad_entropy=0.0, *, out=None):
    """As `crossentropy.autograd.log_probs_backward`, on the device."""
    given, factors = list(saved.given), []
    arriving = ((GRAD_LOG_PROB, "grad_log_prob", grad_log_prob), (GRAD_ENTROPY, "grad_entropy", grad_entropy))
    for place, name, value in arriving:
        factor, given[place] = calls.arriving(given[X], value, name)
        factors.append(factor)
    if out is not None:
        given[OUT] = arrays.beside(given[X], out, "out")
    plan = plan_for("log probs backward", given, saved.fixed, _plan_gradient)
    if out is not None:
        apart = {"logits": given[X], "grad_log_prob": given[GRAD_LOG_PROB], "grad_entropy": given[GRAD_ENTROPY]}
        _check.require_apart(given[OUT], apart, given[X])
    found = plan.run(given, arrays.stream_of(given[X].value), (*saved.numbers, *factors))
    return found[plan.grad].value if out is None else out


def _plan_gradient(plan, kind, given, scalars):
    axis, ignored, of_block = scalars
    axis = calls.logits_axis(given[X], axis, "logits")
    x = given[X].layout
    shape = _arrays.without(x.shape, axis)
    to = calls.result(plan, given[OUT], OUT, given[X])
    plan.grad = to.number
    arrived = []
    for place, name in ((GRAD_LOG_PROB, "grad_log_prob"), (GRAD_ENTROPY, "grad_entropy")):
        a = None
        if given[place] is not None:
            _check.require_grad_output(given[place].layout, "none", shape, name)
            arrays.require_aligned(given[place], name)
            a = launch.as_real(plan, plan.operands[place], x)
        arrived.append(a)
    device, others = driver.device(), {"out": (to, _arrays.without(to.layout.strides, axis))}
    most = BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors(device)
    for prior_kind, size, where, first, of_rows in _launches(plan, given, axis, ignored, others) if x.size else ():
        wide = [where["x"], where["x_outer"], where["x_row"], x.strides[axis]]
        wide += [where["out"], where["out_outer"], where["out_row"], to.layout.strides[axis]]
        of_grads = []
        for a in arrived:
            step = size if a is not None and a.layout.shape else 0
            of_grads += [None if a is None else a.at(first * step), step]
        kept = plan.operands[STATISTICS].at(first * FIELDS * size)
        compute = row_numbers.gradient(device, x.dtype, prior_kind)
        numbers = [where["inner"], where["rows"], x.shape[axis], int(of_block), *of_rows, kept, *of_grads]
        plan.launch(compute, min(where["rows"], most), [*wide, *numbers, *(Number(i) for i in range(4))])


def row_statistics(logits, targets=None, *, top=(), **options):
    """As `crossentropy.row_statistics`, on the device: its fields."""
    from . import cross_entropy

    x = arrays.describe(logits, "logits")
    axis = calls.logits_axis(x, integer(options.get("axis", -1), "axis"), "logits")
    index = targets
    if targets is not None and _check.are_probabilities(arrays.beside(x, targets, "targets").layout, x.layout, axis):
        index = None
    best = _check.best_of(top, index is not None, x.layout.shape[axis])
    found, in_top = _numbers(_described(logits, index, options), False, best)
    lse, entropy, log_prob, max_prob, argmax, rank, _ = (None if a is None else a.value for a in found)
    loss = None if targets is None else cross_entropy(logits, targets, reduction="none", **options)
    return loss, lse, entropy, log_prob, max_prob, argmax, rank, in_top
