"""Print the constants of exp.h: ln 2 in two parts, and Q with e^r = 1 + r + r^2 Q(r) on |r| <= ln2/2.

    python kernels/fit_exp.py            # needs mpmath

Q is a Chebyshev fit, within a few per cent of the minimax polynomial; 1 and r stay exact, so small r lose nothing.
"""

from __future__ import annotations

import struct

import mpmath as mp

mp.mp.prec = 200


def rounded(value: mp.mpf, bits: int) -> mp.mpf:
    """The value to so many significant bits."""
    exponent = mp.floor(mp.log(abs(value), 2)) + 1 - bits
    return mp.nint(value * mp.power(2, -exponent)) * mp.power(2, exponent)


def literal(value: mp.mpf, single: bool) -> str:
    as_float = struct.unpack("f", struct.pack("f", float(value)))[0] if single else float(value)
    return as_float.hex() + ("f" if single else "")


def fit(name: str, terms: int, high_bits: int, bits: int) -> None:
    single = bits == 24
    half = mp.log(2) / 2 * mp.mpf("1.001")
    q, q_error = mp.chebyfit(
        lambda r: mp.nsum(lambda k: r**k / mp.factorial(k + 2), [0, 40]), [-half, half], terms, error=True
    )
    high = rounded(mp.log(2), high_bits)
    print(f"/* {name}: fit error {float(q_error * half**2 * mp.sqrt(2) * 2**bits):.3f} ulp */")
    print("log2e ", literal(1 / mp.log(2), single))
    print("ln2_hi", literal(high, single), f"({high_bits} bits)")
    print("ln2_lo", literal(mp.log(2) - high, single))
    for power, c in zip(range(terms + 1, 1, -1), q, strict=True):
        print(f"c{power:<5d}", literal(c, single))


fit("float32", terms=5, high_bits=15, bits=24)
fit("float64", terms=10, high_bits=41, bits=53)
