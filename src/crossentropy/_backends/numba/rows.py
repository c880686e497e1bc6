"""One row in Numba: its maximum and sum of exponentials in one pass, and what is written from these.

As in kernels/ in fewer words: the maximum m and the sum come from one pass at an anchor that is guessed from the first
classes; the class that leads is left out of the sum, so that

    rest = sum over all but one class at the maximum of e^(z-m)        loss = (m - z_y) + log1p(rest)

loses no digit of a small loss. A sum runs over CHUNK classes in the lanes' type ("real": float32 for 16-bit logits),
then in float64 with its rounding errors. What is one number of a row is float64.

An anchor is a pair (shift, k): exponentials are held as e^(z - shift) 2^-k, which must neither overflow nor vanish.
"""

import math

import numpy as np

from ..exponential import FLOAT32, FLOAT64
from .compiling import inner, merged
from .exponentials import GROUP, added, exp_at, exp_group, max_and_sum
from .layout import BLOCK, PIECE, block, block_size, flush, in_place, number_at, place, put, stopped
from .memory import LINE, address, prefetch, view

CHUNK = 512  # classes that a sum runs over in the lanes' type
PAD = 64  # rows are filled up to a multiple of this, because the rest of a loop in vectors runs one number at a time
LANES = 16  # sums of float64 that run side by side; they and their errors take the place of PAD numbers
SCRATCH = 3 * BLOCK + PAD  # numbers of the lanes' type that a kernel works in
GUESS_FROM = 16  # classes
LN2 = math.log(2)
MAGIC_32, BIAS_32 = FLOAT32.magic, FLOAT32.bias
MAGIC_64, BIAS_64 = FLOAT64.magic, FLOAT64.bias


@inner
def parts(memory):
    """SCRATCH numbers in four parts: a block of logits, one of probability targets, one of results, a padded group."""
    at, size = address(memory), BLOCK * memory.itemsize
    x_buffer, q_buffer = view(at, BLOCK, memory), view(at + size, BLOCK, memory)
    return x_buffer, q_buffer, view(at + 2 * size, BLOCK, memory), view(at + 3 * size, PAD, memory)


@inner
def padded(z, leave, pad):
    """Up to PAD classes copied to ``pad``, where -inf stands for class ``leave`` and for the classes past the last."""
    for i in range(PAD):
        pad[i] = z[i] if i < z.size and i != leave else -np.inf
    return pad


@inner
def fetch(at, size):
    """Have ``size`` bytes on their way to the caches."""
    for line in range(at, at + size, LINE):
        prefetch(line)


# ---------------------------------------------------------------------- sums


@inner
def times(weight, value):
    """Weight times value, where 0 times inf is 0."""
    return 0.0 if weight == 0 else weight * value


@inner
def plus(total, error, term):
    """(total, error) with another term added: error collects what each addition rounds off (Knuth's TwoSum)."""
    new = total + term
    kept = new - total
    return new, error + ((total - (new - kept)) + (term - kept))


@inner
def sum_of(total, error):
    """A sum of `plus` as one number."""
    return total + error if math.isfinite(total) else total


@inner
def sum_arriving(q, row, classes, buffer, stop):
    """(sum, sum of their sizes) of a row of gradients, in float64."""
    total, error, size = 0.0, 0.0, 0.0
    for at in range(0, classes, CHUNK):
        if stopped(stop):
            break
        n = min(CHUNK, classes - at)
        g = block(q, row, at, n, buffer)
        sums = 0.0
        for i in range(n):
            sums = added(sums, np.float64(g[i]))
            size = added(size, abs(np.float64(g[i])))
        total, error = plus(total, error, sums)
    return sum_of(total, error), size


@inner
def sum_exactly(q, row, classes, buffer, pad, stop):
    """(sum, error) of a row of gradients, in LANES sums, each with its rounding errors.

    They may be of either sign, and any of their digits may be all that is left of the sum.
    """
    sums, errors = view(address(pad), LANES, np.float64), view(address(pad) + 8 * LANES, LANES, np.float64)
    total, error = 0.0, 0.0
    for i in range(LANES):
        sums[i] = errors[i] = 0.0
    for at in range(0, classes, BLOCK):
        if stopped(stop):
            break
        n = min(BLOCK, classes - at)
        g, whole = block(q, row, at, n, buffer), n & -LANES
        for j in range(0, whole, LANES):
            for i in range(LANES):
                sums[i], errors[i] = plus(sums[i], errors[i], np.float64(g[j + i]))
        for i in range(whole, n):
            total, error = plus(total, error, np.float64(g[i]))
    for i in range(LANES):
        total, error = plus(total, error + errors[i], sums[i])
    return total, error


@inner
def place_of(a, row, classes, m, buffer, stop):
    """The class of a row, the first of them, whose number is m; ``classes`` where none is."""
    found = classes
    for at in range(0, classes, BLOCK):
        if stopped(stop) or found < classes:
            break
        n = min(BLOCK, classes - at)
        z = block(a, row, at, n, buffer)
        for i in range(n):  # all of them: a search that stops would look at one number at a time
            found = min(found, at + i if z[i] == m else classes)
    return found


@inner
def anchor_at(m, headroom, like):
    """The anchor (shift, k) at which e^m, held as e^(m - shift) 2^-k, is about 2^headroom.

    Up to 2^16 `exp_at` loses nothing, and shift is 0. Above it shift is m, whose difference from every class that
    counts is exact.
    """
    shift = m if abs(m) > 2.0**16 else 0.0
    return shift, np.rint((m - shift) / LN2) - headroom


@inner
def frame_at(shift, k, like):
    """(shift, magic, lowest), by which `exp_at` knows an anchor, in the lanes' type."""
    real, single = like.dtype.type, like.itemsize == 4
    magic, bias = (MAGIC_32, BIAS_32) if single else (MAGIC_64, BIAS_64)
    return real(shift), real(magic + bias - k), real((k - bias) * LN2)


@inner
def exp_alone(z, shift, k):
    """e^(z - shift) 2^-k of one number, in float64."""
    return exp_at(z - shift, MAGIC_64 + BIAS_64 - k, (k - BIAS_64) * LN2)


@merged
def sum_exp(a, row, classes, leave, anchor, buffer, pad, stop):
    """(maximum, start of the CHUNK that holds it, sum of e^z at the anchor) of a row without its class ``leave``.

    The sum is NaN where the row has a NaN; the maximum may miss it.
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
            top, s = max_and_sum(address(part), part.size * part.itemsize, shift, magic, lowest)
            if top > m:
                m, found = top, at + j
            total, error = plus(total, error, s)
            j += n
    return m, found, sum_of(total, error)


@inner
def guess_of(a, row, classes, like):
    """The maximum of the first classes: a guess at the row's own, of no use where it is NaN or infinite."""
    guess = number_at(a, row, like)
    for c in range(1, min(GUESS_FROM, classes)):
        guess = max(guess, number_at(a, row + c * a.stride, like))
    return guess


@inner
def read_row(a, row, classes, y, hides, buffer, pad, stop):
    """(max, rest, logit of y) of a row; max and rest are NaN where it has a NaN or +inf, or nothing but -inf.

    y is the target, or -1 for none. The pass leaves it out of the sum, because it leads where the loss is small. A
    second pass is needed where the guess was too far off for its anchor to serve. Another is where a class that is not
    the target dominates: rest is that class's share taken from the sum, which cancels, so the sum is redone without
    that class. ``hides`` says that rest only goes into a loss in which max - z_y is large beside what cancels.
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
        if not (known and m - guess <= window):  # the sum may have overflowed: redo it, whatever it is
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


@inner
def undefined_max(a, row, classes, like):
    """The maximum of a row that `read_row` calls undefined, +inf, -inf, or NaN where one is: its logsumexp."""
    m = -np.inf
    for c in range(classes):
        z = number_at(a, row + c * a.stride, like)
        if math.isnan(z):
            return np.nan
        m = max(m, z)
    return m


# ---------------------------------------------------------------------- results


@inner
def gradient_frame(m, factor, like):
    """((shift, magic, lowest), of_e), such that of_e times `exp_at` of z is factor e^(z - m).

    The anchor is chosen so that of_e is about 2^-32 for float32, which keeps results right down to 2^-149.
    """
    _, exponent = math.frexp(factor)
    most, down = (120, 32) if like.itemsize == 4 else (1000, 100)
    shift, k = anchor_at(m, min(max(exponent + down, -most), most), like)
    return frame_at(shift, k, like), factor / exp_alone(m, shift, k)


@inner
def write_exp(x, x_row, out, out_row, classes, m, factor, y, value, bypasses, stop, buffer, scratch, pad):
    """factor e^(z - m) of a row, but ``value`` at class y."""
    real, size = scratch.dtype.type, scratch.itemsize
    (shift, magic, lowest), of_e = gradient_frame(m, factor, scratch)
    # grad_output may be 1e40, so a factor beyond float32 is split in two, and ``beyond`` multiplied last.
    beyond = 1.0 if abs(of_e) < 2.0**100 else min(abs(of_e) * 2.0**-100, 2.0**127)
    by = real(of_e / beyond)
    by_rest, beyond = real(of_e / beyond - np.float64(by)), real(beyond)
    group, most = GROUP // size, PIECE if in_place(x) and in_place(out) else BLOCK
    for at in range(0, classes, most):
        if stopped(stop):
            break
        n = min(most, classes - at)
        z = block(x, x_row, at, n, buffer)
        source, to, past = address(z), place(out, out_row, at, scratch), in_place(out) and bypasses != 0
        j, first = 0, (-to % LINE) // size if past else 0
        while j < n:
            here = min(n - j, first if first > 0 and j == 0 else group)
            if in_place(x):
                fetch(source + (classes + j) * size, GROUP)  # the next row, which in most arrays lies there
            if here == group and beyond == 1 and not j <= y - at < j + group:
                exp_group(to + j * size, source + j * size, shift, magic, lowest, by, by_rest, past)
            else:  # a part of a group, or one with class y: computed in ``pad``, and what there is of it copied
                padded(z[j : j + here], y - at - j, pad)
                exp_group(address(pad), address(pad), shift, magic, lowest, by, by_rest, False)
                result = view(to + j * size, here, pad)
                for i in range(here):
                    result[i] = pad[i] * beyond
                if j <= y - at < j + here:
                    result[y - at - j] = real(value)
            j += here
        flush(out, out_row, at, n, z, scratch)


@inner
def target_gradient(m, rest, z, a, others, weight, like):
    """a p_y - weight, where a is others + weight and p_y comes from the target's logit z.

    Where p_y passes 1/2 the difference would cancel, so it is others - a (1 - p_y) with 1 - p_y = rest / (1 + rest).
    """
    share = 1 / (1 + rest)
    shift, k = anchor_at(m, 0, like)
    p = exp_alone(z, shift, k) / exp_alone(m, shift, k) * share
    return others - a * (rest * share) if p > 0.5 else a * p - weight


@inner
def write_log_softmax(x, x_row, out, out_row, classes, m, log_sum, bypasses, stop, buffer, scratch):
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
        put(out, out_row, at, n, scratch, bypasses)
