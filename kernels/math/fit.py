"""Print the constants of exp.h and log.h.

    python kernels/fit.py            # needs mpmath

exp.h: ln 2 in two parts, and Q with e^r = 1 + r + r^2 Q(r) on |r| <= ln2/2; 1 and r stay exact, so small r
lose nothing.
log.h: L with log((1 + s) / (1 - s)) = 2 s + s^3 L(s^2) on |s| <= 3 - 2 sqrt 2, where the quotient is in
[sqrt(1/2), sqrt 2].
Both are Chebyshev fits, within a few per cent of the minimax polynomials.
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


def fit_exp(name: str, terms: int, high_bits: int, bits: int, table: int = 1) -> None:
    single = bits == 24
    half = mp.log(2) / (2 * table) * mp.mpf("1.001")
    q, q_error = mp.chebyfit(
        lambda r: mp.nsum(lambda k: r**k / mp.factorial(k + 2), [0, 40]), [-half, half], terms, error=True
    )
    high = rounded(mp.log(2), high_bits)
    print(f"/* e^r, {name}: fit error {float(q_error * half**2 * mp.sqrt(2) * 2**bits):.3f} ulp */")
    print("log2e ", literal(1 / mp.log(2), single))
    print("ln2_hi", literal(high, single), f"({high_bits} bits)")
    print("ln2_lo", literal(mp.log(2) - high, single))
    for power, c in zip(range(terms + 1, 1, -1), q, strict=True):
        print(f"c{power:<5d}", literal(c, single))


def fit_log(terms: int) -> None:
    most = (3 - 2 * mp.sqrt(2)) ** 2 * mp.mpf("1.001")
    c, error = mp.chebyfit(lambda z: mp.nsum(lambda k: 2 * z**k / (2 * k + 3), [0, 60]), [0, most], terms, error=True)
    print(f"/* log: fit error {float(error * most / 2 * 2**53):.3f} ulp */")
    for power, value in zip(range(terms - 1, -1, -1), c, strict=True):
        print(f"c{power:<5d}", literal(value, single=False))


fit_exp("float32", terms=5, high_bits=15, bits=24)
for table, terms in (16, 2), (8, 3):
    fit_exp(f"float32 with a table of {table}", terms, high_bits=15, bits=24, table=table)
    print("table", ", ".join(literal(mp.power(2, mp.mpf(j) / table), single=True) for j in range(table)))
fit_exp("float64", terms=10, high_bits=41, bits=53)
fit_log(terms=7)
