"""Numbers of one dtype in registers: vectors taken apart and put together, e^z, and what is kept of a row's classes.

As in kernels/ and in Numba on the CPU, a row is (m, rest): its maximum, and the sum over all classes but one at the
maximum of e^(z - m). What is added up is float32 (float64 for float64) and 2^HEADROOM larger, so that a sum of terms
below 2^-126 keeps its digits.
"""

import functools
import math
from types import SimpleNamespace

import numpy as np
from numba import cuda

from .intrinsics import (
    double_of,
    exp2,
    float_of,
    fma,
    half_of,
    larger,
    load,
    power,
    smaller,
    store,
    two_bfloat16,
    two_float16,
    word_of,
    words_of,
)

HEADROOM = 60

# From kernels/fit.py, as in kernels/exp.h: log2 e; ln2 as a high part, whose products with n are exact, and the rest;
# the terms of Q, highest first, with e^r = 1 + r (1 + r Q(r)). And the number whose sum with another ends in the bits
# of that as an integer, with the bias of an exponent.
_EXP = {
    np.float32: (
        "0x1.715476p+0 0x1.62e4p-1 0x1.7f7d1cp-20",
        "0x1.6d117cp-10 0x1.120be2p-7 0x1.555518p-5 0x1.5554dcp-3 0x1p-1",
        1.5 * 2.0**23,
        127,
    ),
    np.float64: (
        "0x1.71547652b82fep+0 0x1.62e42fefa4000p-1 -0x1.8432a1b0e2634p-43",
        "0x1.af390ba7e6f47p-26 0x1.2891d4ffbb0f9p-22 0x1.71de0d85293b8p-19 0x1.a019b8ca26fcfp-16 0x1.a01a01a7cebcdp-13 "
        "0x1.6c16c1789d1d7p-10 0x1.11111111109a6p-7 0x1.5555555553d37p-5 0x1.5555555555556p-3 0x1.0000000000001p-1",
        1.5 * 2.0**52,
        1023,
    ),
}


def device(function):
    """A function that kernels call."""
    return cuda.jit(device=True)(function)


def _memory(kind):
    """How numbers of a dtype lie in a vector and alone."""
    if kind == "float64":

        @device
        def unpack(words, at, v, i):
            v[i] = double_of(words[at], words[at + 1])
            v[i + 1] = double_of(words[at + 2], words[at + 3])

        @device
        def pack(v):
            a, b = words_of(v[0]), words_of(v[1])
            return a[0], a[1], b[0], b[1]

        @device
        def number_at(address):
            return load(address, np.float64)

        @device
        def put(address, value):
            store(address, value)

    elif kind == "float32":

        @device
        def unpack(words, at, v, i):
            for j in range(4):
                v[i + j] = float_of(words[at + j])

        @device
        def pack(v):
            return word_of(v[0]), word_of(v[1]), word_of(v[2]), word_of(v[3])

        @device
        def number_at(address):
            return load(address, np.float32)

        @device
        def put(address, value):
            store(address, value)

    elif kind == "bfloat16":
        low, high = np.uint32(16), np.uint32(0xFFFF0000)

        @device
        def unpack(words, at, v, i):
            for j in range(4):
                v[i + 2 * j] = float_of(words[at + j] << low)
                v[i + 2 * j + 1] = float_of(words[at + j] & high)

        @device
        def pack(v):
            return (
                two_bfloat16(v[0], v[1]),
                two_bfloat16(v[2], v[3]),
                two_bfloat16(v[4], v[5]),
                two_bfloat16(v[6], v[7]),
            )

        @device
        def number_at(address):
            return float_of(np.uint32(load(address, np.uint16)) << low)

        @device
        def put(address, value):
            store(address, np.uint16(two_bfloat16(value, value) >> low))

    else:
        low, mask = np.uint32(16), np.uint32(0xFFFF)

        @device
        def unpack(words, at, v, i):
            for j in range(4):
                v[i + 2 * j] = half_of(np.uint16(words[at + j] & mask))
                v[i + 2 * j + 1] = half_of(np.uint16(words[at + j] >> low))

        @device
        def pack(v):
            return two_float16(v[0], v[1]), two_float16(v[2], v[3]), two_float16(v[4], v[5]), two_float16(v[6], v[7])

        @device
        def number_at(address):
            return half_of(load(address, np.uint16))

        @device
        def put(address, value):
            store(address, np.uint16(two_float16(value, value) >> low))

    return unpack, pack, number_at, put


def _polynomial(real, terms):
    """Q(r), in the order of ``terms``: written out, since a loop over constants would keep them in memory."""
    q = [real(float.fromhex(c)) for c in terms.split()]
    if real is np.float32:
        q0, q1, q2, q3, q4 = q
        return device(lambda r: fma(fma(fma(fma(q0, r, q1), r, q2), r, q3), r, q4))
    q0, q1, q2, q3, q4, q5, q6, q7, q8, q9 = q
    upper = device(lambda r: fma(fma(fma(fma(fma(q0, r, q1), r, q2), r, q3), r, q4), r, q5))
    return device(lambda r: fma(fma(fma(fma(upper(r), r, q6), r, q7), r, q8), r, q9))


def _exponential(kind, real):
    """exp_at and frame_at for a dtype."""
    constants, terms, magic, bias = _EXP[real]
    log2e, high, low = (real(float.fromhex(c)) for c in constants.split())
    minus_high, minus_low, ln2, one = -high, -low, real(math.log(2)), real(1)
    rest_of_log2e = real(math.log2(math.e) - float(log2e))
    middle, bias, q = real(magic), real(bias), _polynomial(real, terms)

    @device
    def frame_at(k):
        """(magic, lowest): the anchor at which `exp_at` gives e^y 2^k."""
        return middle + (bias + k), -(bias + k) * ln2

    @device
    def reduced(y, magic, lowest):
        """(r, 2^(n + k)): y = n ln2 + r, where |r| <= ln2/2.

        The last bits of y log2 e + magic are n + k and the bias of an exponent.
        """
        y = larger(y, lowest)
        t = fma(y, log2e, magic)
        n = t - magic
        return fma(n, minus_low, fma(n, minus_high, y)), power(t)

    @device
    def exp_at(y, magic, lowest):
        """e^y 2^k, where ``y`` is at most about 0; 0 where it is below ``lowest``. NaN stays NaN."""
        r, scale = reduced(y, magic, lowest)
        return fma(fma(q(r), r, one), r, one) * scale

    @device
    def exp_pair(y, magic, lowest):
        """As `exp_at`, with what it is off by: 0.1 ulp together, where it alone is off by 0.7."""
        r, scale = reduced(y, magic, lowest)
        more = fma(q(r) * r, r, r)
        high = one + more
        return high * scale, (more - (high - one)) * scale

    exp_near = exp_at
    if kind in ("float16", "bfloat16"):

        @device
        def exp_near(y, magic, lowest):
            """As `exp_at`, for what is rounded to 16 bits: the multiprocessor's own 2^r in place of eight operations.

            Sums are of exp_at there, too: 2^r is off by 2^-22.5, and a confident row's loss would be by 2.8 ulp.
            """
            y = larger(y, lowest)
            t = fma(y, log2e, magic)
            return exp2(fma(y, rest_of_log2e, fma(y, log2e, -(t - magic)))) * power(t)

    @device
    def scale_of(k):
        """2^k."""
        return power(middle + (bias + k))

    @device
    def nearest(y):
        """y rounded to an integer."""
        return (y + middle) - middle

    return exp_at, exp_pair, exp_near, frame_at, scale_of, nearest, log2e


@functools.cache
def arithmetic(kind):
    """The functions of a dtype, and its sizes: of one number, and how many a vector has."""
    real = np.float64 if kind == "float64" else np.float32
    size = {"float64": 8, "float32": 4}.get(kind, 2)
    unpack, pack, number_at, put = _memory(kind)
    exp_at, exp_pair, exp_near, frame_at, scale_of, nearest, log2e = _exponential(kind, real)
    zero, one, lowest_number, nan = real(0), real(1), real(-np.inf), real(np.nan)
    headroom, down = real(HEADROOM), real(2.0**-HEADROOM)
    half = real(0.5)
    most, deep = (real(94), real(32)) if real is np.float32 else (real(900), real(100))
    # Twice the distance at which e^z is lost beside e^m; and 2^20, by which a sum may pass its anchor.
    far, room = (real(256), real(20 * math.log(2))) if real is np.float32 else (real(2048), real(20 * math.log(2)))

    @device
    def difference(a, b):
        """(a - b, its rounding error; 0 where that is undefined)."""
        d = a - b
        back = d - a
        error = (a - (d - back)) - (b + back)
        return d, error if error == error else zero

    @device
    def plus(total, error, term):
        """A sum and its rounding error, and another term."""
        new = total + term
        kept = new - total
        return new, error + ((total - (new - kept)) + (term - kept))

    @device
    def merged(part, other):
        """Two parts of a row as one: of each the maximum, and the sum, 2^HEADROOM larger, with its rounding error."""
        (m, rest, error), (n, other_rest, other_error) = part, other
        top, low = larger(m, n), smaller(m, n)
        magic, lowest = frame_at(headroom)
        distance, off_by = difference(low, zero if top == lowest_number else top)
        e, more = exp_pair(distance, magic, lowest)
        more = fma(e, off_by, more)
        first = m > n or (m == n and rest >= other_rest)  # the same either way round, to the bit
        kept, error, lost, lost_error = (
            (rest, error, other_rest * down, other_error * down)
            if first
            else (other_rest, other_error, rest * down, error * down)
        )
        product = e * lost
        error += fma(e, lost, -product) + fma(e, lost_error, fma(more, lost, more))
        kept, error = plus(kept, error, e)
        kept, error = plus(kept, error, product)
        return top, kept, error

    @device
    def anchored(m):
        """(offset, k): e^(z - offset) 2^k is about 2^HEADROOM for z = m, and z - offset exact for any z that counts.

        z - m is not: its rounding would cost e^(z - m) 16 ulp at a distance of 20. From ``far`` on it is, where e^z
        cannot be reduced as it is.
        """
        offset = m if abs(m) >= far else zero
        return offset, headroom - nearest((m - offset) * log2e)

    @device
    def begun():
        """What a lane has before its first class: (m, s, error, limit, offset, k, magic, lowest).

        m is the largest class so far; s + error = sum e^(z - offset) 2^k over the others; a class beyond ``limit``
        needs another anchor.
        """
        magic, lowest = frame_at(headroom)
        return lowest_number, zero, zero, lowest_number, zero, headroom, magic, lowest

    @device
    def added(v, n, state):
        """A lane's state with n more classes, which are lost: each but the largest makes way for a smaller one.

        n is even; their sum is taken by itself, and carries its rounding error from group to group: a lane that adds
        512 equal terms one by one is off by 126 ulp.
        """
        m, s, error, limit, offset, k, magic, lowest = state
        top = m
        for i in range(n):
            z = v[i]
            v[i] = smaller(top, z)
            top = larger(top, z)
        if top > limit:  # by more than the sum's range allows; the first time always, and then hardly ever
            old_offset, old_k = offset, k
            offset, k = anchored(top)
            limit = top + room
            move, bottom = frame_at(k - old_k + headroom)
            by = exp_at(old_offset - offset, move, bottom)
            s, error = (zero, zero) if s == zero else (s * down * by, error * down * by)
            magic, lowest = frame_at(k)
        even, odd = zero, zero
        for i in range(n // 2):
            even += exp_at(v[2 * i] - offset, magic, lowest)
            odd += exp_at(v[2 * i + 1] - offset, magic, lowest)
        s, error = plus(s, error, even + odd)
        return top, s, error, limit, offset, k, magic, lowest

    @device
    def ended(state):
        """(m, rest, its rounding error), the sum 2^HEADROOM larger."""
        m, s, error, _, offset, k, _, _ = state
        magic, lowest = frame_at(headroom - k)
        e, more = exp_pair(offset - m, magic, lowest)
        rest = s * e
        return (m, zero, zero) if s == zero else (m, rest, fma(s, e, -rest) + fma(s, more, error * e))

    @device
    def settled(row):
        """The whole row: NaN where it is undefined; ``rest`` and its error as they are."""
        m, rest, error = row
        total = rest + error  # which may be many units in the last place: the distance of two maxima is rounded, too
        error -= total - rest
        return (m, total * down, error * down) if m - m == zero else (nan, nan, nan)

    @device
    def sum_of(a, b, c):
        """a - b + c, with the rounding error of a - b."""
        d, error = difference(a, b)
        return d + (c + error)

    @device
    def times(weight, value):
        """Their product, where 0 times inf is 0."""
        return zero if weight == zero else weight * value

    @device
    def exp(y):
        """e^y, where ``y`` is at most about 0."""
        magic, lowest = frame_at(zero)
        return exp_at(y, magic, lowest)

    if real is np.float32:

        @device
        def exponent_of(value):
            return np.int32((word_of(value) >> np.uint32(23)) & np.uint32(255)) - np.int32(127)

    else:

        @device
        def exponent_of(value):
            return np.int32((words_of(value)[1] >> np.uint32(20)) & np.uint32(2047)) - np.int32(1023)

    @device
    def gradient_frame(factor, m):
        """(offset, magic, lowest, of_e): e^(z - offset) 2^k by `exp_at`, times of_e, is factor e^(z - m).

        Right down to the least number: that is where of_e is about 2^-32, so that what of e^z is flushed to 0 would
        have been by the product.
        """
        up = min(max(real(exponent_of(factor)) + deep, -most), most)
        offset, k = anchored(m)
        magic, lowest = frame_at(k - headroom + up)
        back, bottom = frame_at(headroom - k)
        return offset, magic, lowest, factor * scale_of(-up) * exp_at(offset - m, back, bottom)

    @device
    def target_gradient(m, rest, z, a, others, weight):
        """a p_y - weight, where a is others + weight and p_y comes from the target's logit z.

        Where p_y passes 1/2 the target leads, and that would lose the digits of 1 - p_y = rest / (1 + rest).
        """
        share = one / (one + rest)
        p = exp(z - m) * share
        return fma(-a, rest * share, others) if p > half else fma(a, p, -weight)

    # Four words of -inf.
    absent = np.full(16 // size, -np.inf, "float64" if size == 8 else "float32")
    if kind == "float16":
        absent = absent.astype(np.float16)
    absent = np.full(4, 0xFF80FF80, np.uint32) if kind == "bfloat16" else absent.view(np.uint32)

    return SimpleNamespace(
        absent=tuple(absent),
        real=real,
        size=size,
        width=16 // size,
        unpack=unpack,
        pack=pack,
        number_at=number_at,
        put=put,
        exp=exp,
        exp_near=exp_near,
        merged=merged,
        begun=begun,
        added=added,
        ended=ended,
        fma=fma,
        settled=settled,
        plus=plus,
        sum_of=sum_of,
        times=times,
        gradient_frame=gradient_frame,
        target_gradient=target_gradient,
    )
