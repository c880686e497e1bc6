"""The constants of e^z for Numba and CUDA, as kernels/math/fit.py prints them; kernels/math/exp.h has the same in C.

z = n ln2 + r with |r| <= ln2/2, and e^r = 1 + r (1 + r Q(r)). A test holds both places to fit.py.
"""

from __future__ import annotations

from typing import NamedTuple


class Constants(NamedTuple):
    """Of one type of lanes; numbers in hexadecimal, so that none is rounded on the way."""

    log2e: str
    ln2_high: str  # few bits: its products with n are exact
    ln2_low: str  # the rest of ln2
    terms: tuple[str, ...]  # of Q, the highest power first
    magic: float  # added to a number, leaves that number as an integer in the last bits of the sum
    bias: int  # of the type's exponents


FLOAT32 = Constants(
    "0x1.715476p+0",
    "0x1.62e4p-1",
    "0x1.7f7d1cp-20",
    ("0x1.6d117cp-10", "0x1.120be2p-7", "0x1.555518p-5", "0x1.5554dcp-3", "0x1p-1"),
    1.5 * 2.0**23,
    127,
)
FLOAT64 = Constants(
    "0x1.71547652b82fep+0",
    "0x1.62e42fefa4000p-1",
    "-0x1.8432a1b0e2634p-43",
    (
        "0x1.af390ba7e6f47p-26",
        "0x1.2891d4ffbb0f9p-22",
        "0x1.71de0d85293b8p-19",
        "0x1.a019b8ca26fcfp-16",
        "0x1.a01a01a7cebcdp-13",
        "0x1.6c16c1789d1d7p-10",
        "0x1.11111111109a6p-7",
        "0x1.5555555553d37p-5",
        "0x1.5555555555556p-3",
        "0x1.0000000000001p-1",
    ),
    1.5 * 2.0**52,
    1023,
)
