"""Linear cross-entropy on a device: chunks of logits by a library's product, the kernels of rows on these, two more.

A. The host does not know which rows count, and does not wait to be told: every row takes part. Hidden states of rows
   that do not count are 0 in the copy of a chunk that is multiplied, since NaN there times a gradient of 0 is NaN.
B. Float32 logits lie in one buffer of a chunk. Their gradient takes their place, or goes to a buffer of 16 bits where
   the operands have 16: products of these are many times as fast. Sums are float32, and rounded once.
C. 16-bit gradients of up to 2 H rows are kept for one product, since they take no more memory than the sum of the
   weight's gradient in float32 would, which is then not needed, nor read and written for each chunk.
D. Rows of the buffers begin at multiples of 16 bytes, whatever the number of classes is.
"""

from __future__ import annotations

from ... import _check
from ..._options import LINEAR, passed
from .calls import GRAD_OUTPUT
from .linear_calls import Call, flat, layer_of
from .linear_gradients import Sums, gradients
from .matrix_rows import rows_from


def linear_cross_entropy(hidden, weight, targets, *, bias=None, rows=None, **options):
    """As `crossentropy.linear_cross_entropy`, on the device."""
    name = "linear_cross_entropy"
    left = passed(name, options, ("bias", "rows"), LINEAR)
    call = Call(name, layer_of(hidden, weight, bias, rows), targets, left)
    call.begin()
    loss, z = call.losses(), call.buffer(call.layer.shape[1], call.real)
    x = call.buffer(call.layer.shape[2], call.layer.hidden.layout.dtype) if call.copies_hidden() else None
    for first, count in call.slices():
        here = rows_from(z, 0, count)
        call.logits(call.hidden_rows(first, count, x), here)
        call.rows("linear loss", first, here, flat(loss))
    return call.reduced(loss)


def linear_cross_entropy_and_grad(
    hidden, weight, targets, *, bias=None, rows=None, wrt=_check.GRADIENTS, grad_output=1.0, out=None,
    accumulate=False, **options,
):  # fmt: skip
    """As `crossentropy.linear_cross_entropy_and_grad`, on the device: (loss, hidden, weight, bias)."""
    name, more = "linear_cross_entropy_and_grad", ("bias", "rows", "wrt", "grad_output", "out", "accumulate")
    left = passed(name, options, more, LINEAR)
    arriving = ((GRAD_OUTPUT, "grad_output", grad_output),)
    call = Call(name, layer_of(hidden, weight, bias, rows), targets, left, arriving)
    to = gradients(call, wrt, out, accumulate)
    call.begin()
    sums = Sums(call, to)
    loss, z = call.losses(), call.buffer(call.layer.shape[1], call.real)
    for first, count in call.slices():
        here = rows_from(z, 0, count)
        x_place, grad = sums.of_chunk(first, count)
        x = call.hidden_rows(first, count, x_place)
        call.logits(x, here)
        grad = here if grad is None else grad
        call.rows("linear both", first, here, flat(loss), grad)
        sums.take(first, count, x, grad)
    sums.finish()
    return call.reduced(loss), *to.results
