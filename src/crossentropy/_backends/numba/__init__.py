"""The Numba backend for CPUs: the functions of a backend's contract (contract.py), each a kernel run over all rows.

threads.py hands rows out to threads; tasks.py describes a call's arrays and options to compiled code. That is
kernels.py (all rows), losses.py (targets and options), rows.py (one row), layout.py (arrays of any layout),
exponentials.py and memory.py (LLVM instructions). The row functions for a program's own ``@njit`` code are in
crossentropy/numba_rows.py.
"""

from __future__ import annotations

import math

import numpy as np

from ... import _memory
from ..._options import RowOptions
from ...reference import HESSIANS, KINDS
from ..contract import Statistics

try:
    from numba import config

    from . import elements, kernels, tasks, threads
    from .rows import SCRATCH
except ImportError as error:
    raise ImportError(f"numba is missing ({error}): pip install 'crossentropy[numba]'") from error

if config.DISABLE_JIT:  # set for debugging programs; the kernels are LLVM code in part, and can't run as Python
    raise ImportError("numba does not compile where NUMBA_DISABLE_JIT is set")

SERIAL_BELOW = 2**20  # elements, from which on waking two threads costs less than they save
SCANNED = 2**16  # targets at a time
BYPASS_FROM = 2**24  # bytes of a result, from which on it bypasses the caches, as in the native backend


def _call(kernel, *arguments):
    """Call a kernel; the first call compiles it."""
    try:
        return kernel(*arguments)
    except OSError:  # what was compiled could not be kept, as on a full disk: Numba has it all the same
        return kernel(*arguments)


def _run(kernel, x, *rest, **arguments):
    """Run a kernel over all rows of x."""
    task = tasks.described(x, BYPASS_FROM, **arguments)
    real = np.float64 if x.itemsize == 8 or tasks.changes(arguments.get("options")) else np.float32

    def work(first, last, task=task):  # which holds the arrays as long as a thread may work on them
        _call(kernel, task.address, task.odd, first, last, np.empty(SCRATCH, real), *rest)

    rows = x.size // x.shape[-1]
    if x.size < SERIAL_BELOW:
        work(0, rows)
    else:
        threads.in_parallel(work, rows, x.size, task.stop)


def scan_targets(targets, classes, ignore_index, class_weight, sample_weight):
    """The first target that is no class (or -1), and the sum of sample weight times class weight over the others."""
    first_bad, sums = -1, []
    for start in range(0, targets.size, SCANNED):
        t = targets[start : start + SCANNED]
        counts = np.ones(t.size, bool)
        if ignore_index is not None:
            counts = t != ignore_index
        if sample_weight is not None:
            v = sample_weight[start : start + SCANNED]
            counts &= v != 0
        good = (t >= 0) & (t < classes) & counts
        if first_bad < 0 and not np.array_equal(good, counts):
            first_bad = start + int((good != counts).argmax())
        weights = np.ones(1) if class_weight is None else class_weight[t[good]]
        if sample_weight is not None:
            weights = weights * v[good]
        elif class_weight is None:
            weights = np.array([np.count_nonzero(good)], np.float64)
        sums.append(weights.sum())
    return first_bad, math.fsum(sums)


def total(values):
    """The sum, with its rounding errors added up."""
    return _call(kernels.total, values)


def logsumexp(x, out, weights=None, sign=None):
    """The logsumexp of each row; with weights, and the sign of the sum."""
    if weights is None:
        _run(kernels.logsumexp, x, loss=out)
    else:
        _run(kernels.weighted_logsumexp, x, q=weights, loss=out, sign=sign)


def softmax(x, out):
    """The softmax of each row."""
    _run(kernels.softmax, x, out=out)


def log_softmax(x, out, statistics=None):
    """The log-softmax of each row, and its statistics for the backward where these are wanted."""
    _run(kernels.log_softmax, x, out=out, statistics=statistics)


def log_softmax_backward(grad_output, x, statistics, grad):
    """The gradient on the logits from that on the log-softmax."""
    _run(kernels.log_softmax_backward, x, q=grad_output, out=grad, statistics=statistics)


def row_statistics(x, targets, options, numbers, statistics=None):
    """The numbers of each row, and what `log_probs_backward` needs of them."""
    index = targets is not None and not options.probabilities
    # A loss that sums over the classes once more, or is not of the logits as they are, is one for itself.
    is_apart = targets is not None and (
        options.probabilities or options.label_smoothing > 0 or options.margin != 0 or options.focal > 0
    )
    to = numbers if index else numbers._replace(log_prob=None, rank=None)
    plain = options._replace(margin=0.0, focal=0.0)
    loss = numbers.loss if index and not is_apart else None
    given = targets if index else None
    _run(kernels.row_statistics, x, targets=given, options=plain, loss=loss, numbers=to, statistics=statistics)
    if is_apart:
        forward(x, targets, options, numbers.loss, None)


def log_probs_backward(x, targets, statistics, options, g_log_prob, g_entropy, grad):
    """The gradient on the logits of log-probabilities and entropies, with what arrives at them."""
    scales = {"row_scale": g_log_prob, "entropy_scale": g_entropy}
    _run(kernels.log_probs_backward, x, targets=targets, out=grad, options=options, statistics=statistics, **scales)


def _run_loss(kernel, x, targets, options, **rest):
    role = "q" if options.probabilities else "targets"
    spreads = True if options.probabilities or options.label_smoothing > 0 else None  # None: not even compiled
    _run(kernel, x, spreads, options=options, **{role: targets}, **rest)


def forward(x, targets, options, loss, statistics):
    """The rows' losses, and their statistics for `backward` where these are wanted."""
    _run_loss(kernels.forward, x, targets, options, loss=loss, statistics=statistics)


def forward_block(x, targets, options, parts):
    """What is found of a block of classes."""
    _run_loss(kernels.forward, x, targets, options, parts=parts)


def backward(x, targets, statistics, options, row_scale, grad):
    """The gradient of the sum of row_scale_n loss_n."""
    _run_loss(kernels.backward, x, targets, options, out=grad, row_scale=row_scale, statistics=statistics)


def forward_backward(x, targets, options, row_scale, loss, grad):
    """The losses and the gradient in one go."""
    _run_loss(kernels.forward_backward, x, targets, options, out=grad, row_scale=row_scale, loss=loss)


def forward_backward_hessian(x, targets, options, hessian, vector, row_scale, loss, grad, hess):
    """The losses, the gradient, and what stands for the Hessian."""
    statistics = np.empty((loss.size, len(Statistics._fields)))
    forward(x, targets, options, loss, statistics)
    backward(x, targets, statistics, options, row_scale, grad)
    classes = None if options.probabilities else targets
    more = {"q": vector, "out": hess, "row_scale": row_scale, "statistics": statistics}
    _run(kernels.hessian, x, HESSIANS.index(hessian), options=options, targets=classes, **more)


def distillation(x, teacher, kind, temperature, beta, sample_weight, row_scale, loss, grad):
    """The divergences of the rows, and their gradient on x."""
    options = None if sample_weight is None else RowOptions(sample_weight=sample_weight)
    given = KINDS.index(kind), temperature, beta
    _run(kernels.distill, x, *given, q=teacher, out=grad, options=options, row_scale=row_scale, loss=loss)


def binary(z, targets, weight, pos_weight, alpha, gamma, grad_output, at_once, sums, loss, grad):
    """The losses of one logit each, in blocks that threads share out."""
    wide = np.float64 if z.itemsize == 8 else np.float32
    given = [a if a.dtype == wide else _memory.copied(a, wide) for a in (z, targets)]
    scales = [np.full(1, a, wide) if isinstance(a, float) else a for a in (weight, pos_weight, grad_output)]
    none = np.empty(0, wide)
    to = none if grad is None else grad if grad.dtype == wide else np.empty(grad.size, wide)
    kept, stop = none if loss is None else loss, np.zeros(1, np.uint8)

    def work(first, last):
        _call(elements.binary, *given, *scales, alpha, gamma, at_once, sums, kept, to, first, last, stop)

    if z.size < SERIAL_BELOW:
        work(0, sums.size)
    else:
        threads.in_parallel(work, sums.size, z.size, stop)
    if grad is not None and to is not grad:
        with np.errstate(over="ignore", under="ignore"):
            grad[...] = to
