"""The one way in for logits, and the one way out for their gradients: where transforms of each logit have their home.

Where a call has one (`kernels.Result.transforms`), a logit is a pair of reals, high + low, since rounded to float32 it
would cost a confident row's loss its digits. Kernels of other calls hold none of this: what they are given here ignores
all but the number itself.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .elements import device, elements_of
from .intrinsics import fma, load
from .pairs import pairs_of, tanh_of


class Target(NamedTuple):
    """The logit of a row's target: reals."""

    z: float
    low: float  # what z is short of; 0 where logits are not transformed
    given: float  # as it is in memory


class Logits(NamedTuple):
    """The functions of a dtype; ``a`` is the kernel's arguments, ``row`` a Row."""

    # (a, row, words, at, first, v, low, i): the logits of the vector words[at : at + 4], which begins with class
    # ``first``, into v[i : i + width], and what they are short of into ``low``. Those that are no class of the row's
    # are -inf, in ``words`` or here.
    read: Callable
    target_of: Callable  # (a, row): the Target of a Row that has one
    gradient: Callable  # (a, g, z): the gradient on the logit z in memory, from that on what it was read as


@functools.cache
def logits_of(kind: str, transforms: bool = False) -> Logits:
    """Those of the dtype of that name."""
    return _transformed(kind) if transforms else _plain(kind)


def _plain(kind):
    unpack, number_at, zero = elements_of(kind).unpack, elements_of(kind).number_at, elements_of(kind).real(0)

    @device
    def read(a, row, words, at, first, v, low, i):
        unpack(words, at, v, i)

    @device
    def target_of(a, row):
        z = number_at(row.x + row.target * a.x_class)
        return Target(z, zero, z)

    @device
    def gradient(a, g, z):
        return g

    return Logits(read, target_of, gradient)


def _transformed(kind):
    elements = elements_of(kind)
    unpack, number_at, real, width = elements.unpack, elements.number_at, elements.real, elements.width
    zero, two, nothing, real_size = real(0), real(2), real(-np.inf), elements.real_size
    two_sum, normal, times = pairs_of(kind).two_sum, pairs_of(kind).normal, pairs_of(kind).times
    tanh_at = _tanh_at(kind)

    @device
    def changed(a, z, c, lowered):
        """c tanh(a z / c) + b, less the margin at the target, as a pair; ``c`` counts from the row's first class."""
        if a.softcap != zero:
            t = tanh_at(a, z)
            high = -t.m * t.by
            low = (fma(-high, t.over, -t.m) - t.m_low - high * t.over_low) * t.by
            high, low = times(high, low, a.softcap, a.softcap_low)
            high, low = (-high, -low) if z < zero else (high, low)
        else:
            high = z * a.logit_scale
            low = fma(z, a.logit_scale, -high) + z * a.logit_scale_low
        if a.class_prior != 0:
            at = a.class_prior + 2 * c * real_size
            high, more = two_sum(high, load(at, real))
            low += more + load(at + real_size, real)
        if lowered:
            high, more = two_sum(high, -a.margin)
            low += more - a.margin_low
        return normal(high, low)

    @device
    def read(a, row, words, at, first, v, low, i):
        unpack(words, at, v, i)
        for j in range(width):
            c = first + j
            z, short = nothing, zero
            if c >= 0 and c < row.to_read:
                z, short = changed(a, v[i + j], row.begin + c, c == row.target)
            v[i + j] = z
            low[i + j] = short

    @device
    def target_of(a, row):
        given = number_at(row.x + row.target * a.x_class)
        z, low = changed(a, given, row.y, True)
        return Target(z, low, given)

    @device
    def gradient(a, g, z):
        """g times the slope a (1 - tanh^2) of the transform, by a pair, so that the product is rounded once."""
        high, low = a.logit_scale, a.logit_scale_low
        if a.softcap != zero:
            t = tanh_at(a, z)
            s = two * t.e * t.by
            s_low = (fma(-s, t.over, two * t.e) + two * t.e_low - s * t.over_low) * t.by
            rest = two - s
            high, low = times(s, s_low, rest, ((two - rest) - s) - s_low)
            high, low = times(high, low, a.logit_scale, a.logit_scale_low)
            if high == zero and abs(g) == -nothing:
                return zero
        return fma(g, high, g * low)

    return Logits(read, target_of, gradient)


def _tanh_at(kind):
    """The device function (a, z): the `pairs.Tanh` of |z| a / c, which may be infinite."""
    real = elements_of(kind).real
    tanh, zero, most, infinity = tanh_of(kind), real(0), real(1e4), real(np.inf)

    @device
    def tanh_at(a, z):
        size = abs(z)
        u = size * a.ratio
        if u > most:  # e^(-2u) has long been 0, and the product may have lost more than that
            return tanh(infinity, zero)
        low = fma(size, a.ratio, -u) + size * a.ratio_low
        return tanh(u, low if low - low == zero else zero)

    return tanh_at
