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
from .exponentials import GROUP, added, exp_at, exp_group, max_and_sum, sum_exactly_of_exp
from .layout import BLOCK, PIECE, block, block_size, block_to_write, flush, in_place, number_at, place, put, stopped
from .memory import LINE, address, prefetch, view

CHUNK = 512  # classes that a sum runs over in the lanes' type
PAD = 64  # rows are filled up to a multiple of this, because the rest of a loop in vectors runs one number at a time
ALIKE = 2.0**-20  # of a lane's sum: by no more do lanes differ that add the same numbers
LANES = 16  # sums of float64 that run side by side; they and their errors take the place of PAD numbers
SCRATCH = 4 * BLOCK + PAD  # numbers of the lanes' type that a kernel works in
GUESS_FROM = 16  # classes
LN2 = math.log(2)
MAGIC_32, BIAS_32 = FLOAT32.magic, FLOAT32.bias
MAGIC_64, BIAS_64 = FLOAT64.magic, FLOAT64.bias
LOG2E, LN2_HIGH, LN2_LOW = (float.fromhex(c) for c in (FLOAT64.log2e, FLOAT64.ln2_high, FLOAT64.ln2_low))
TERMS_64 = tuple(float.fromhex(c) for c in FLOAT64.terms)


@inner
def parts(memory):
    """SCRATCH numbers in parts: a block of logits, one of probability targets, one of results, a padded group.

    After that there is room for a block of slopes (layout.py).
    """
    at, size = address(memory), BLOCK * memory.itemsize
    x_buffer, q_buffer = view(at, BLOCK, memory), view(at + size, BLOCK, memory)
    return x_buffer, q_buffer, view(at + 2 * size, BLOCK, memory), view(at + 3 * size, PAD, memory)


@inner
def padded(z, leave, also, pad):
    """Up to PAD classes copied to ``pad``, where -inf stands for two that are left out and those past the last."""
    for i in range(PAD):
        pad[i] = z[i] if i < z.size and i != leave and i != also else -np.inf
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
    counts is exact; a maximum that a margin has moved is rounded for that.
    """
    shift = np.float64(like.dtype.type(m)) if abs(m) > 2.0**16 else 0.0
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


@inner
def product_lost(a, b, product):
    """a b - product, which is the rounded product (Dekker)."""
    a_high, b_high = a * 134217729.0, b * 134217729.0
    a_high, b_high = a_high - (a_high - a), b_high - (b_high - b)
    a_low, b_low = a - a_high, b - b_high
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


@inner
def exp_pair(z, shift, k):
    """(high, low), whose sum is e^(z - shift) 2^-k to far below an ulp of float64."""
    y = z - shift
    if y < (k - BIAS_64) * LN2:
        return 0.0, 0.0
    n = np.rint(y * LOG2E)
    product, off = n * LN2_HIGH, n * LN2_LOW
    near = (y - product) - product_lost(n, LN2_HIGH, product)
    r = near - off
    p = TERMS_64[0]
    for term in TERMS_64[1:]:
        p = p * r + term
    p *= r * r
    q = r + p
    lost = ((r - q) + p) + ((near - r) - off) * (1 + q)
    power = np.int64(np.int64((n - k) + BIAS_64) << 52).view(np.float64)
    one = 1 + q
    return power * one, power * ((q - (one - 1)) + lost)


@inner
def rest_of(total, error, m, z, base, shift, k):
    """(rest, log1p(rest) as a pair) of rest = base + (total + error + e^z) / e^m, with e^z and e^m at the anchor.

    A z of -inf adds nothing. In pairs, because a float64 loss would show what each of these rounds.
    """
    top, top_low = exp_pair(m, shift, k)
    own, own_low = exp_pair(z, shift, k)
    total, error = plus(total, error + own_low, own)
    quotient = total / top
    product = quotient * top
    over = ((total - product) - product_lost(quotient, top, product)) + (error - quotient * top_low)
    whole, lost = plus(base, over / top, quotient)
    rest = whole + lost
    one_more = 1 + rest
    left = (rest - (one_more - 1)) + ((whole - rest) + lost)
    return rest, (math.log(one_more), left / one_more)


@merged
def sum_exp(a, row, classes, leave, also, led_by, anchor, buffer, pad, stop):
    """(maximum, start of its CHUNK, sum of e^z at the anchor, error of the sum) of a row without two of its classes.

    These are ``leave`` and ``also``, where they are not -1; ``led_by`` is the larger of their logits, or -inf. The sum
    is NaN where the row has a NaN; the maximum may miss it.
    """
    shift, magic, lowest = frame_at(anchor[0], anchor[1], pad)
    m, found, total, error = -np.inf, 0, 0.0, 0.0
    # Of a larger sum the loss does not show the last digit.
    small = 4.0 * math.exp(led_by - anchor[0] - anchor[1] * LN2)
    size = block_size(a)
    for at in range(0, classes, size):
        if stopped(stop):
            break
        z = block(a, row, at, min(size, classes - at), buffer)
        apart = (leave - at) & -PAD if leave >= at else -PAD  # where the PAD classes with that class begin
        other = (also - at) & -PAD if also >= at else -PAD
        j = 0
        while j < z.size:
            n = min(CHUNK, (z.size - j) & -PAD)
            if j < apart < j + n:
                n = apart - j
            if j < other < j + n:
                n = other - j
            if n == 0 or not (j != apart and j != other):
                part, n = padded(z[j : j + PAD], leave - at - j, also - at - j, pad), PAD
            else:
                part = z[j : j + n]
            top, s, lane, differ = max_and_sum(address(part), part.size * part.itemsize, shift, magic, lowest)
            lost = 0.0
            # What lanes round might show.
            if lane > s / 16 or (differ < lane * ALIKE and s < small) or (classes <= CHUNK and pad.itemsize == 8):
                s, lost = sum_exactly_of_exp(address(part), part.size * part.itemsize, shift, magic, lowest)
            if top > m:
                m, found = top, at + j
            total, error = plus(total, error + lost, s)
            j += n
    return m, found, total, error if math.isfinite(total) else 0.0


@inner
def guess_of(a, row, classes, buffer):
    """The maximum of the first classes: a guess at the row's own, of no use where it is NaN or infinite.

    Numbers are taken as a block: a loop of `number_at` over 16-bit rows comes out of LLVM with a wrong number of turns.
    """
    guess, few = -np.inf, min(GUESS_FROM, classes)
    for at in range(0, few, GUESS_FROM):
        z = block(a, row, at, few, buffer)
        for c in range(z.size):
            guess = max(guess, np.float64(z[c]))
    return guess


@inner
def read_row(a, row, classes, y, margin, hides, buffer, pad, stop):
    """(max, rest, log1p(rest) as a pair, logit of y) of a row; NaN but for the last where it is undefined.

    That is where it has a NaN or +inf, or nothing but -inf.

    y is the target, or -1 for none, whose logit is lowered by a margin. The pass leaves it out of the sum, because it
    leads where the loss is small. A second pass is needed where the guess was too far off for its anchor to serve.
    Another is where a class that is not the target dominates: rest is that class's share taken from the sum, which
    cancels, so the sum is redone without that class, too. ``hides`` says that rest only goes into a loss in which
    max - z_y is large beside what cancels.
    """
    headroom, window = (40, 40.0) if pad.itemsize == 4 else (512, 300.0)  # e^(guess + window) must not overflow
    guess = guess_of(a, row, classes, buffer)
    known = math.isfinite(guess)
    shift, k = anchor_at(guess if known else 0.0, headroom, pad)
    m, z, leads = np.nan, -np.inf, -1
    if y >= 0:
        z = number_at(a, row, y, pad) - margin
    for _ in range(3):
        below, found, s, error = sum_exp(
            a, row, classes, y, leads, z if leads < 0 else m, (shift, k), buffer, pad, stop
        )
        if leads >= 0:
            rest, log_sum = rest_of(s, error, m, z, 0.0, shift, k)
            return m, rest, log_sum, z
        m = max(below, z)
        if math.isnan(z) or not math.isfinite(m):
            break
        if not (known and m - guess <= window):  # the sum may have overflowed: redo it, whatever it is
            known, guess = True, m
            shift, k = anchor_at(m, headroom, pad)
            continue
        if math.isnan(s):
            break
        if z == m:
            rest, log_sum = rest_of(s, error, m, -np.inf, 0.0, shift, k)
            return m, rest, log_sum, z
        rest, log_sum = rest_of(s, error, m, z, -1.0, shift, k)
        if rest >= (0.25 if hides else 3.0):
            return m, rest, log_sum, z
        leads = found
        while leads < classes and (leads == y or number_at(a, row, leads, pad) != m):
            leads += 1
    return np.nan, np.nan, (np.nan, 0.0), z


@inner
def rest_alone(a, row, classes, y, m, buffer, stop):
    """The sum of e^(z - m) over all classes but y, which leads, in float64: however far below all others lie."""
    total, error = 0.0, 0.0
    for at in range(0, classes, CHUNK):
        if stopped(stop):
            break
        n = min(CHUNK, classes - at)
        z = block(a, row, at, n, buffer)
        part = 0.0
        for i in range(n):
            part = added(part, 0.0 if at + i == y else exp_alone(np.float64(z[i]), m, 0.0))
        total, error = plus(total, error, part)
    return sum_of(total, error)


@inner
def undefined_max(a, row, classes, like):
    """The maximum of a row that `read_row` calls undefined, +inf, -inf, or NaN where one is: its logsumexp."""
    m = -np.inf
    for c in range(classes):
        z = number_at(a, row, c, like)
        if math.isnan(z):
            return np.nan
        m = max(m, z)
    return m


# ---------------------------------------------------------------------- results


@inner
def gradient_frame(m, factor, like):
    """((shift, magic, lowest), of_e, what of_e is short of): of_e times `exp_at` of z is factor e^(z - m).

    The anchor is chosen so that of_e is about 2^-32 for float32, which keeps results right down to 2^-149.
    """
    _, exponent = math.frexp(factor)
    most, down = (120, 32) if like.itemsize == 4 else (1000, 100)
    shift, k = anchor_at(m, min(max(exponent + down, -most), most), like)
    high, low = exp_pair(m, shift, k)
    of_e = factor / high
    product = of_e * high
    over = ((factor - product) - product_lost(of_e, high, product)) - of_e * low
    return frame_at(shift, k, like), of_e, over / high if math.isfinite(over) else 0.0


@inner
def write_exp(x, x_row, out, out_row, classes, m, factor, y, value, bypasses, stop, buffer, scratch, pad):
    """factor e^(z - m) of a row, but ``value`` at class y."""
    real, size = scratch.dtype.type, scratch.itemsize
    (shift, magic, lowest), of_e, of_e_rest = gradient_frame(m, factor, scratch)
    # grad_output may be 1e40, so a factor beyond float32 is split in two, and ``beyond`` multiplied last.
    beyond = 1.0 if abs(of_e) < 2.0**100 else min(abs(of_e) * 2.0**-100, 2.0**127)
    by = real(of_e / beyond)
    by_rest, beyond = real((of_e / beyond - np.float64(by)) + of_e_rest / beyond), real(beyond)
    group, most = GROUP // size, PIECE if in_place(x) and in_place(out) else BLOCK
    for at in range(0, classes, most):
        if stopped(stop):
            break
        n = min(most, classes - at)
        z = block_to_write(x, x_row, at, n, buffer, pad)
        source, to, past = address(z), place(out, out_row, at, scratch), in_place(out) and bypasses != 0
        j, first = 0, (-to % LINE) // size if past else 0
        while j < n:
            here = min(n - j, first if first > 0 and j == 0 else group)
            if in_place(x):
                fetch(source + (classes + j) * size, GROUP)  # the next row, which in most arrays lies there
            if here == group and beyond == 1 and not j <= y - at < j + group:
                exp_group(to + j * size, source + j * size, shift, magic, lowest, by, by_rest, past)
            else:  # a part of a group, or one with class y: computed in ``pad``, and what there is of it copied
                padded(z[j : j + here], y - at - j, -1, pad)
                exp_group(address(pad), address(pad), shift, magic, lowest, by, by_rest, False)
                result = view(to + j * size, here, pad)
                for i in range(here):
                    result[i] = pad[i] * beyond
                if j <= y - at < j + here:
                    result[y - at - j] = real(value)
            j += here
        flush(x, out, out_row, at, n, scratch, pad)


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
    """z - lse of a row, where lse = max + log_sum is taken as a pair, as log_sum is.

    z minus its high part is exact where z is near it, so that the result is rounded once there, and at most twice.
    """
    real = scratch.dtype.type
    top = real(m + log_sum[0])
    rest = real(((m - np.float64(top)) + log_sum[0]) + log_sum[1])
    for at in range(0, classes, BLOCK):
        if stopped(stop):
            break
        n = min(BLOCK, classes - at)
        z = block(x, x_row, at, n, buffer)
        if scratch.itemsize == 4:
            for i in range(n):
                scratch[i] = (z[i] - top) - rest
        else:  # the logarithm is not exact to float64, so that the first difference must not be rounded as well
            for i in range(n):
                below = z[i] - top
                kept = z[i] - below
                lost = (z[i] - (below + kept)) + (kept - top)
                scratch[i] = below + (lost - rest) if math.isfinite(lost) else below - rest
        put(out, out_row, at, n, scratch, bypasses)
