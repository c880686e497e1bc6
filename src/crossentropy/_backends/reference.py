"""The reference as a backend: rows of arrays, handed one at a time to crossentropy/reference.py as lists."""

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


def backward(x, targets, statistics, options, row_scale, grad):
    """The gradient of the sum of row_scale_n loss_n."""
    for n, index, target, row in _targets(x, targets, options):
        scale = row_scale if isinstance(row_scale, float) else float(row_scale[n])
        if not row.weight:
            grad[index] = 0.0
        elif target is None:
            grad[index] = math.nan
        else:
            with np.errstate(over="ignore", under="ignore"):  # where the logits' dtype ends
                grad[index] = [scale * value for value in reference.cross_entropy_grad(_row(x, index), target, row)]


def forward_backward(x, targets, options, row_scale, loss, grad):
    """The losses, then the gradient."""
    forward(x, targets, options, loss, None)
    backward(x, targets, None, options, row_scale, grad)
