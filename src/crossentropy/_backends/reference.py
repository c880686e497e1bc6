"""The reference as a backend: rows of arrays, handed one at a time to crossentropy/reference/ as lists."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .. import reference
from .._options import ARRAYS, NUMERIC, OPTIONS


def _rows(x):
    return itertools.product(*map(range, x.shape[:-1]))


def _row(x, index) -> list[float]:
    return x[index].astype(float).tolist()


def _list(weights) -> list[float] | None:
    return None if weights is None else weights.tolist()


def scan_targets(targets, classes, ignore_index, class_weight, sample_weight):
    """The first target that is no class (or -1), and the sum of sample weight times class weight over the others.

    Rows that are ignored, by their target or by a sample weight of 0, count for neither.
    """
    labels = targets.tolist()
    weights = [1.0] * len(labels) if sample_weight is None else sample_weight.tolist()
    read = [n for n, y in enumerate(labels) if y != ignore_index and weights[n] != 0]
    good = [n for n in read if 0 <= labels[n] < classes]
    first_bad = next((n for n in read if not 0 <= labels[n] < classes), -1)
    return first_bad, reference.divisor([labels[n] for n in good], [weights[n] for n in good], _list(class_weight))


def total(values):
    """The sum, exactly rounded (where nothing is infinite)."""
    return reference.total(values.tolist())


def logsumexp(x, out, weights=None, sign=None):
    """The logsumexp of each row; with weights, and the sign of the sum."""
    for n, index in enumerate(_rows(x)):
        if weights is None:
            out[n] = reference.logsumexp(_row(x, index))
        else:
            out[n], sign[n] = reference.weighted_logsumexp(_row(x, index), _row(weights, index))


def softmax(x, out):
    """The softmax of each row."""
    for index in _rows(x):
        out[index] = reference.softmax(_row(x, index))


def log_softmax(x, out, statistics=None):
    """The log-softmax of each row. Nothing is saved: the backward starts from x again."""
    for index in _rows(x):
        out[index] = reference.log_softmax(_row(x, index))


def log_softmax_backward(grad_output, x, statistics, grad):
    """The gradient on the logits from that on the log-softmax."""
    for index in _rows(x):
        grad[index] = reference.log_softmax_backward(_row(grad_output, index), _row(x, index))


def _targets(x, targets, options):
    """(n, index, target, row options) of each row: an ignored row has weight 0, a bad target is None."""
    arrays = {name: _list(getattr(options, name)) for name in ARRAYS if OPTIONS[name].over == "classes"}
    given = arrays | {name: getattr(options, name) for name in NUMERIC}
    for n, index in enumerate(_rows(x)):
        weight = 1.0 if options.sample_weight is None else float(options.sample_weight[n])
        if options.probabilities:
            target = _row(targets, index)
        else:
            target = int(targets[n])
            if target == options.ignore_index:
                weight = 0.0
            if not 0 <= target < x.shape[-1]:
                target = None
        yield n, index, target, reference.Row(weight, **given)


def forward(x, targets, options, loss, statistics):
    """The rows' losses. Nothing is saved: backward starts from x again."""
    for n, index, target, row in _targets(x, targets, options):
        if not row.weight:
            loss[n] = 0.0
        elif target is None:
            loss[n] = math.nan
        else:
            loss[n] = reference.cross_entropy(_row(x, index), target, row)


def forward_block(x, targets, options, parts):
    """What is found of a block of classes, row by row."""
    for n, index, target, row in _targets(x, targets, options):
        parts[n] = reference.block(_row(x, index), target, options.all_classes, row)


def backward(x, targets, statistics, options, row_scale, grad):
    """The gradient of the sum of row_scale_n loss_n."""
    if options.all_classes:
        _backward_of_block(x, targets, statistics, options, row_scale, grad)
        return
    for n, index, target, row in _targets(x, targets, options):
        scale = row_scale if isinstance(row_scale, float) else float(row_scale[n])
        if not row.weight:
            grad[index] = 0.0
        elif target is None:
            grad[index] = math.nan
        else:
            with np.errstate(over="ignore", under="ignore"):  # where the logits' dtype ends
                grad[index] = [scale * value for value in reference.cross_entropy_grad(_row(x, index), target, row)]


def _backward_of_block(x, targets, statistics, options, row_scale, grad):
    """The same of a block of classes, from the statistics of all of them."""
    for n, index, target, row in _targets(x, targets, options):
        scale = row_scale if isinstance(row_scale, float) else float(row_scale[n])
        if not row.weight:
            grad[index] = 0.0
            continue
        found = reference.block_grad(_row(x, index), target, options.all_classes, *statistics[n].tolist(), row)
        with np.errstate(over="ignore", under="ignore"):
            grad[index] = [scale * value for value in found]


def forward_backward(x, targets, options, row_scale, loss, grad):
    """The losses, then the gradient."""
    forward(x, targets, options, loss, None)
    backward(x, targets, None, options, row_scale, grad)


def row_statistics(x, targets, options, numbers, statistics=None):
    """The numbers of each row. What is saved is for blocks of classes: a backward of whole rows starts from x again."""
    if targets is not None:
        forward(x, targets, options, numbers.loss, None)
    for n, index, target, row in _index_targets(x, targets, options):
        if not row.weight or (targets is not None and target is None and not options.probabilities):
            _put(numbers, n, 0.0 if not row.weight else math.nan, -1, x.shape[-1])
            continue
        z = _row(x, index)
        largest = reference.largest(z, row)
        rank = x.shape[-1] if target is None else reference.rank(z, target, row)
        of_z = reference.numbers_of(z, row)
        s = of_z.s
        if statistics is not None:
            statistics[n] = s.max, s.rest, of_z.distance
        if largest < 0:
            _put(
                numbers, n, math.nan, largest, rank, logsumexp=reference.logsumexp(reference.transformed(z, [], row).z)
            )
            continue
        of_row = {"logsumexp": s.lse, "entropy": reference.entropy(z, row), "max_prob": 1.0 / (1.0 + s.rest)}
        log_prob = math.nan if target is None else reference.log_prob(z, target, row)
        _put(numbers, n, math.nan, largest, rank, **of_row, log_prob=log_prob)


def _put(numbers, n, default, argmax, rank, **values):
    for name in ("logsumexp", "entropy", "log_prob", "max_prob"):
        getattr(numbers, name)[n] = values.get(name, default)
    numbers.argmax[n], numbers.rank[n] = argmax, rank


def _index_targets(x, targets, options):
    """As `_targets`; a target of None where there is none, or a probability."""
    nothing = np.zeros(math.prod(x.shape[:-1]), np.int8)
    index = targets is not None and not options.probabilities
    given = options if index else options._replace(probabilities=False, ignore_index=None)
    for n, at, target, row in _targets(x, targets if index else nothing, given):
        yield n, at, target if index else None, row


def log_probs_backward(x, targets, statistics, options, g_log_prob, g_entropy, grad):
    """The gradient on the logits of log-probabilities and entropies, with what arrives at them."""
    for n, index, target, row in _index_targets(x, targets, options):
        g_l, g_h = (g if isinstance(g, float) else float(g[n]) for g in (g_log_prob, g_entropy))
        if not row.weight:
            grad[index] = 0.0
        elif targets is not None and target is None and not options.all_classes:
            grad[index] = math.nan
        else:
            z = _row(x, index)
            with np.errstate(over="ignore", under="ignore"):  # where the logits' dtype ends
                if options.all_classes:
                    grad[index] = reference.block_log_probs_grad(z, target, *statistics[n].tolist(), g_l, g_h)
                elif targets is None:
                    grad[index] = [g_h * value for value in reference.entropy_grad(z, row)]
                else:
                    grad[index] = reference.log_probs_grad(z, target, g_l, g_h, row)


def distillation(x, teacher, kind, temperature, beta, sample_weight, row_scale, loss, grad):
    """The divergences of the rows, and their gradient on x."""
    for n, index in enumerate(_rows(x)):
        weight = 1.0 if sample_weight is None else float(sample_weight[n])
        scale = row_scale if isinstance(row_scale, float) else float(row_scale[n])
        if not weight:
            loss[n] = grad[index] = 0.0
            continue
        rows = _row(x, index), _row(teacher, index), kind, temperature, beta
        loss[n] = weight * reference.distillation(*rows)
        with np.errstate(over="ignore", under="ignore"):
            grad[index] = [scale * weight * value for value in reference.distillation_grad(*rows)]


def forward_backward_hessian(x, targets, options, hessian, vector, row_scale, loss, grad, hess):
    """The losses, the gradient and the Hessian, or its product with a vector."""
    forward_backward(x, targets, options, row_scale, loss, grad)
    for n, index, target, row in _targets(x, targets, options):
        scale = row_scale if isinstance(row_scale, float) else float(row_scale[n])
        if not row.weight:
            hess[index] = 0.0
        elif target is None:
            hess[index] = math.nan
        else:
            if vector is None:
                found = reference.cross_entropy_hessian(_row(x, index), target, row, hessian)
            else:
                found = reference.cross_entropy_hessian_product(_row(x, index), target, _row(vector, index), row)
            with np.errstate(over="ignore", under="ignore"):
                hess[index] = [scale * value for value in found]


def binary(z, targets, weight, pos_weight, alpha, gamma, grad_output, at_once, sums, loss, grad):
    """The losses of one logit each, and the gradient."""

    def at(values, n):
        return values if isinstance(values, float) else float(values[n % values.size])

    losses = []
    for n, (value, target) in enumerate(zip(z.astype(float).tolist(), targets.astype(float).tolist(), strict=True)):
        options = reference.Binary(at(weight, n), at(pos_weight, n), gamma, None if alpha < 0 else alpha)
        one = reference.binary_cross_entropy(value, target, options)
        losses.append(one)
        with np.errstate(over="ignore", under="ignore"):
            if loss is not None:
                loss[n] = one
            if grad is not None:
                slope = reference.binary_cross_entropy_grad(value, target, options)
                grad[n] = at(grad_output, n) * slope
    sums[...] = [reference.total(losses[first : first + at_once]) for first in range(0, len(losses), at_once)]
