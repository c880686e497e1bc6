"""The one way in for logits, and the one way out for their gradients: where a transform of each logit has its home.

A transform z -> f(z), such as a softcap c tanh(z / c), would be applied at the end of `read` and `read_one`, and
`gradient` would multiply by f'(z), which it can tell from f(z). Its numbers would be rows of arguments.TABLE, which all
three functions are given as ``a``. A vector's classes past the end of a row are -inf (`Elements.absent`) and must stay
so.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

from .elements import device, elements_of


class Logits(NamedTuple):
    """The functions of a dtype; ``a`` is the kernel's `Arguments`."""

    read: Callable  # (a, words, at, v, i): the logits of the vector words[at : at + 4] into v[i : i + width]
    read_one: Callable  # (a, address): the logit there
    gradient: Callable  # (a, g, z): the gradient on the logit in memory, from that on z, which it was read as


@functools.cache
def logits_of(kind: str) -> Logits:
    """Those of the dtype of that name."""
    unpack, number_at = elements_of(kind).unpack, elements_of(kind).number_at

    @device
    def read(a, words, at, v, i):
        unpack(words, at, v, i)

    @device
    def read_one(a, address):
        return number_at(address)

    @device
    def gradient(a, g, z):
        return g

    return Logits(read, read_one, gradient)
