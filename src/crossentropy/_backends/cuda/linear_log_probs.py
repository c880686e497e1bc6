"""The log-probability of a chosen class and the entropy of each row on a device, and their gradients, chunk by chunk.

The entropy is a cross-entropy with the row's own probabilities as targets, which lie in a second buffer of a chunk.
"""

from __future__ import annotations

from ... import _check
from . import driver, launch, matrices
from .calls import GRAD_OUTPUT, Values
from .kernels import Result
from .linear_calls import ENTROPY_GRAD, Call, flat, layer_of, run_rows
from .linear_gradients import Gradients, Sums, gradients
from .matrix_rows import MOST_BLOCKS, launch_one, numbers_from, rows_from
from .plans import plan_for

_PLAIN = Values(**dict.fromkeys(Values._fields, 0.0))._replace(scale=1.0, by=1.0)


def linear_log_probs(hidden, weight, index, *, bias=None, rows=None, ignore_index=None):
    """As `crossentropy.linear_log_probs`, on the device: (log_prob, entropy)."""
    call = Call("linear_log_probs", layer_of(hidden, weight, bias, rows), index, _options(ignore_index))
    return _run(call, None)


def linear_log_probs_and_grad(
    hidden, weight, index, *, bias=None, rows=None, ignore_index=None, grad_log_prob=1.0, grad_entropy=0.0,
    wrt=_check.GRADIENTS, out=None, accumulate=False,
):  # fmt: skip
    """As `crossentropy.linear_log_probs_and_grad`, on the device: (log_prob, entropy, hidden, weight, bias)."""
    arriving = ((GRAD_OUTPUT, "grad_log_prob", grad_log_prob), (ENTROPY_GRAD, "grad_entropy", grad_entropy))
    layer = layer_of(hidden, weight, bias, rows)
    call = Call("linear_log_probs_and_grad", layer, index, _options(ignore_index), arriving)
    to = gradients(call, wrt, out, accumulate)
    return *_run(call, to), *to.results


def _options(ignore_index) -> dict:
    return {"reduction": "none"} | ({} if ignore_index is None else {"ignore_index": ignore_index})


def _run(call: Call, to: Gradients | None):
    call.begin()
    n, classes, columns = call.layer.shape
    sums = None if to is None else Sums(call, to)
    results = log_prob, entropy = call.losses(), call.losses()
    z, p = call.buffer(classes, call.real), call.buffer(classes, call.real)
    x_place = None
    if sums is None and call.copies_hidden():
        x_place = call.buffer(columns, call.layer.hidden.layout.dtype)
    for first, count in call.slices():
        here, p_here = rows_from(z, 0, count), rows_from(p, 0, count)
        grad = None
        if sums is not None:
            x_place, grad = sums.of_chunk(first, count)
        x = call.hidden_rows(first, count, x_place)
        call.logits(x, here)
        _written(call, "softmax", here, p_here)
        call.rows("linear loss", first, here, flat(log_prob))
        h = numbers_from(flat(entropy), first, count)
        run_rows("linear loss", [here, p_here, *[None] * 7, h], False, True, None, call.stream, _PLAIN)
        if sums is not None:
            _written(call, "log_softmax", here, here)
            grad = here if grad is None else grad
            _gradient(call, first, here, p_here, h, grad)
            sums.take(first, count, x, grad)
    if n:
        kernel = matrices.log_probs(driver.device(), call.real)
        addresses = [a.address for a in results]
        launch_one(kernel, -(-n // matrices.THREADS), [*addresses, n, *call.counting.arguments(0)], call.stream)
    if sums is not None:
        sums.finish()
    return tuple(a.value for a in results)


def _written(call: Call, what: str, z, to) -> None:
    """A chunk's softmax or log-softmax."""
    given = [z, to]
    plan_for(f"linear {what}", given, (what,), _plan_written).run(given, call.stream)


def _plan_written(plan, kind, given, scalars):
    x, to = plan.operands
    launch.rows(plan, x, 1, Result(writes=scalars[0]), out=to)


def _gradient(call: Call, first: int, log_p, p, entropy, to) -> None:
    """The gradient on the logits, over what may be their log-probabilities."""
    count, classes = log_p.layout.shape
    of_arrays = []
    for name in ("grad_log_prob", "grad_entropy"):
        a = call.found[name]
        step = a.layout.itemsize if a is not None and a.layout.shape else 0
        of_arrays += [0 if a is None else a.address, step]
    wide = [value for a in (log_p, p, to) for value in (a.address, a.layout.strides[0])]
    factors = call.factors[GRAD_OUTPUT], call.factors[ENTROPY_GRAD]
    kernel = matrices.log_probs_gradient(driver.device(), call.real, to.layout.dtype)
    # The arrays of what arrives are counted from the call's first row, entropies from the chunk's.
    arguments = [*wide, count, classes, entropy.address, *of_arrays, *call.counting.arguments(first), *factors]
    launch_one(kernel, min(count, MOST_BLOCKS), arguments, call.stream)
