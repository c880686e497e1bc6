"""One row in Numba: its maximum and sum of exponentials in one pass, its loss, its gradient.

As in kernels/ (rows.h, drivers.c, batch.c), in fewer words: the maximum m and the sum come from one pass at an anchor
that is guessed from the first classes; the class that leads is left out of the sum, so that

    rest = sum over all but one class at the maximum of e^(z-m)        loss = (m - z_y) + log1p(rest)

loses no digit of a small loss. A sum runs over CHUNK classes in the lanes' type ("real": float32 for 16-bit logits),
then in float64 with its rounding errors. What is one number of a row is float64.
"""

import math

import numpy as np
from numba.extending import overload

from . import llvm as lanes
from .layout import (
    BLOCK,
    F32,
    F64,
    INNER,
    PIECE,
    OddRow,
    Row,
    block,
    block_size,
    flush,
    in_place,
    inner,
    merged,
    number_at,
    place,
    put,
    stopped,
)
from .llvm import address, exp_at, view

CHUNK = 512  # classes that a sum runs over in the lanes' type
PAD = 64  # what is no multiple of this is filled up to it: the rest of a loop in vectors is one number at a time
SCRATCH = 3 * BLOCK + PAD  # numbers of the lanes' type that a kernel works in
GUESS_FROM = 16  # classes
LN2 = math.log(2)


@inner
def parts(memory):
    """Of SCRATCH numbers: a block of logits, one of probability targets, one of results, and a padded group."""
    at, size = address(memory), BLOCK * memory.itemsize
    x_buffer, q_buffer = view(at, BLOCK, memory), view(at + size, BLOCK, memory)
    return x_buffer, q_buffer, view(at + 2 * size, BLOCK, memory), view(at + 3 * size, PAD, memory)


@inner
def padded(z, leave, pad):
    """Up to PAD classes, without class ``leave``; -inf stands for that and for those which there are not."""
    for i in range(PAD):
        pad[i] = z[i] if i < z.size and i != leave else -np.inf
    return pad


@inner
def fetch(at, size):
    """Have so many bytes on their way."""
    for line in range(at, at + size, 64):
        lanes.prefetch(line)


# ---------------------------------------------------------------------- sums


@inner
def times(weight, value):
    """Weight times value, where 0 times inf is 0."""
    return 0.0 if weight == 0 else weight * value


@inner
def plus(total, error, term):
    """A sum and its rounding error (Knuth's TwoSum), and another term."""
    new = total + term
    kept = new - total
    return new, error + ((total - (new - kept)) + (term - kept))


@inner
def sum_of(total, error):
    """Such a sum as one number."""
    return total + error if math.isfinite(total) else total


@inner
def anchor_at(m, headroom, like):
    """(shift, k) at which e^m, held as e^(m - shift) 2^-k, is about 2^headroom.

    Up to a limit, to which `exp_at` loses nothing, logits are used as they are; above it m is subtracted, exactly for
    every class that counts.
    """
    shift = m if abs(m) > 2.0**16 else 0.0
    return shift, np.rint((m - shift) / LN2) - headroom


@inner
def frame_at(shift, k, like):
    """What `exp_at` takes of an anchor, in the lanes' type."""
    real, single = like.dtype.type, like.itemsize == 4
    magic, bias = (lanes.MAGIC_32, lanes.BIAS_32) if single else (lanes.MAGIC_64, lanes.BIAS_64)
    return real(shift), real(magic + bias - k), real((k - bias) * LN2)


@inner
def exp_alone(z, shift, k):
    """e^(z - shift) 2^-k of one number, in float64."""
    return exp_at(z - shift, lanes.MAGIC_64 + lanes.BIAS_64 - k, (k - lanes.BIAS_64) * LN2)


@merged
def sum_exp(a, row, classes, leave, anchor, buffer, pad, stop):
    """The maximum of a row and where to find it (in the CHUNK from there), and the sum of its e^z at an anchor.

    All of them without class ``leave``; the sum is NaN where the row has a NaN, which the maximum may not show.
    """
    shift, magic, lowest = frame_at(anchor[0], anchor[1], pad)
    m, found, total, error = -np.inf, 0, 0.0, 0.0
    size = block_size(a)
    for at in range(0, classes, size):
        if stopped(stop):
            break
        z = block(a, row, at, min(size, classes - at), buffer)
        apart = (leave - at) & -PAD if leave >= at else -PAD  # where the PAD classes with that class begin
        j = 0
        while j < z.size:
            n = min(CHUNK, (z.size - j) & -PAD)
            if j < apart < j + n:
                n = apart - j
            if j == apart or n == 0:
                part, n = padded(z[j : j + PAD], leave - at - j, pad), PAD
            else:
                part = z[j : j + n]
            top, s = lanes.max_and_sum(address(part), part.size * part.itemsize, shift, magic, lowest)
            if top > m:
                m, found = top, at + j
            total, error = plus(total, error, s)
            j += n
    return m, found, sum_of(total, error)


@inner
def guess_of(a, row, classes, like):
    """The maximum of the first classes; NaN or infinite where they say nothing."""
    guess = number_at(a, row, like)
    for c in range(1, min(GUESS_FROM, classes)):
        guess = max(guess, number_at(a, row + c * a.stride, like))
    return guess


@inner
def read_row(a, row, classes, y, hides, buffer, pad, stop):
    """(max, rest, logit of y) of a row, NaN where it has a NaN or +inf, or nothing but -inf.

    y is the target, which is left out of the sum, or -1. One pass where the guessed anchor serves; another where it
    doesn't, and where a class other than y holds most of the sum: rest is the difference of that from 1 then. ``hides``
    says that rest goes into a loss in which max - z_y hides what is lost.
    """
    headroom, window = (40, 40.0) if pad.itemsize == 4 else (512, 300.0)  # e^(guess + window) must not overflow
    guess = guess_of(a, row, classes, pad)
    known = math.isfinite(guess)
    shift, k = anchor_at(guess if known else 0.0, headroom, pad)
    m, z, leave, leads = np.nan, -np.inf, y, False
    if y >= 0:
        z = number_at(a, row + y * a.stride, pad)
    for _ in range(3):
        below, found, s = sum_exp(a, row, classes, leave, (shift, k), buffer, pad, stop)
        if leads:
            return m, s / exp_alone(m, shift, k), z
        m = max(below, z)
        if math.isnan(z) or not math.isfinite(m):
            break
        if not (known and m - guess <= window):  # nor does the sum say anything, NaN or not
            known, guess = True, m
            shift, k = anchor_at(m, headroom, pad)
            continue
        if math.isnan(s):
            break
        top = exp_alone(m, shift, k)
        if z == m:
            return m, s / top, z
        rest = (s + exp_alone(z, shift, k)) / top - 1
        if rest >= (0.25 if hides else 3.0):
            return m, rest, z
        leave, leads = found, True
        while leave < classes and number_at(a, row + leave * a.stride, pad) != m:
            leave += 1
    return np.nan, np.nan, z


# ---------------------------------------------------------------------- results


@inner
def gradient_frame(m, factor, like):
    """(shift, magic, lowest) of the e^z whose products with the last number, also returned, are factor e^(z - m).

    The anchor is where that number is about 2^-32 in float32: results are right down to 2^-149 then.
    """
    _, exponent = math.frexp(factor)
    most, down = (120, 32) if like.itemsize == 4 else (1000, 100)
    shift, k = anchor_at(m, min(max(exponent + down, -most), most), like)
    return frame_at(shift, k, like), factor / exp_alone(m, shift, k)


@inner
def write_exp(x, x_row, out, out_row, classes, m, factor, y, value, streams, stop, buffer, scratch, pad):
    """factor e^(z - m) of a row, but ``value`` at class y."""
    real, size = scratch.dtype.type, scratch.itemsize
    (shift, magic, lowest), of_e = gradient_frame(m, factor, scratch)
    # What is beyond float32 is multiplied apart: grad_output may be 1e40.
    beyond = 1.0 if abs(of_e) < 2.0**100 else min(abs(of_e) * 2.0**-100, 2.0**127)
    by = real(of_e / beyond)
    by_rest, beyond = real(of_e / beyond - np.float64(by)), real(beyond)
    group, most = lanes.GROUP // size, PIECE if in_place(x) and in_place(out) else BLOCK
    for at in range(0, classes, most):
        if stopped(stop):
            break
        n = min(most, classes - at)
        z = block(x, x_row, at, n, buffer)
        source, to, past = address(z), place(out, out_row, at, scratch), in_place(out) and streams != 0
        j, first = 0, (-to % 64) // size if past else 0
        while j < n:
            here = min(n - j, first if first > 0 and j == 0 else group)
            if in_place(x):
                fetch(source + (classes + j) * size, lanes.GROUP)  # of the next row, in most cases
            if here == group and beyond == 1 and not j <= y - at < j + group:
                lanes.exp_group(to + j * size, source + j * size, shift, magic, lowest, by, by_rest, past)
            else:  # in the padded group, to which a partial line or a class of its own is no matter
                padded(z[j : j + here], y - at - j, pad)
                lanes.exp_group(address(pad), address(pad), shift, magic, lowest, by, by_rest, False)
                result = view(to + j * size, here, pad)
                for i in range(here):
                    result[i] = pad[i] * beyond
                if j <= y - at < j + here:
                    result[y - at - j] = real(value)
            j += here
        flush(out, out_row, at, n, scratch)


@inner
def target_gradient(m, rest, z, a, others, weight, like):
    """a p_y - weight, where a is others + weight and p_y comes from the target's logit z.

    Where p_y passes 1/2 the target leads, and that would lose the digits of 1 - p_y = rest / (1 + rest).
    """
    share = 1 / (1 + rest)
    shift, k = anchor_at(m, 0, like)
    p = exp_alone(z, shift, k) / exp_alone(m, shift, k) * share
    return others - a * (rest * share) if p > 0.5 else a * p - weight


@inner
def write_log_softmax(x, x_row, out, out_row, classes, m, log_sum, streams, stop, buffer, scratch):
    """(z - max) - log_sum of a row: both terms are <= 0, so neither rounding is magnified."""
    real = scratch.dtype.type
    top, rest = real(m), real(log_sum)
    for at in range(0, classes, BLOCK):
        if stopped(stop):
            break
        n = min(BLOCK, classes - at)
        z = block(x, x_row, at, n, buffer)
        for i in range(n):
            scratch[i] = (z[i] - top) - rest
        put(out, out_row, at, n, scratch, streams)


# ---------------------------------------------------------------------- rows that are arrays


def as_row(z):
    """A one-dimensional array of float32 or float64 as a row."""


@overload(as_row, jit_options=INNER)
def _as_row(z):
    if z.layout == "C":
        return lambda z: Row(z.itemsize)

    def of_odd_array(z):
        direct = z.strides[0] == z.itemsize and address(z) % z.itemsize == 0
        return OddRow(z.strides[0], F32 if z.itemsize == 4 else F64, 0, int(direct))

    return of_odd_array


@inner
def require(z, out):
    """Raise unless a result has its row's size and dtype."""
    lanes.require_row(z)
    lanes.require_row(out)
    lanes.require_same_kind(z, out)
    if out.size != z.size:
        raise ValueError("the result must have the size of the row")


@inner
def read_array(z, y):
    """As read_row."""
    lanes.require_row(z)
    if z.size == 0:
        return np.nan, np.nan, np.nan
    x_buffer, _, _, pad = parts(np.empty(SCRATCH, z.dtype))
    return read_row(as_row(z), address(z), z.size, y, y >= 0, x_buffer, pad, 0)
