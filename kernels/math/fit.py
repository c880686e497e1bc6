"""The constants of e^z and of log(1 + x): print them, or check the files that hold them.

    python kernels/math/fit.py            # needs mpmath
    python kernels/math/fit.py --check    # exits 1 and names each constant that differs

e^z: ln 2 in two parts, and Q with e^r = 1 + r + r^2 Q(r) on |r| <= ln2/2; 1 and r stay exact, so small r lose nothing.
log: L with log((1 + s) / (1 - s)) = 2 s + s^3 L(s^2) on |s| <= 3 - 2 sqrt 2, where the quotient is in
[sqrt(1/2), sqrt 2].
Both are Chebyshev fits, within a few per cent of the minimax polynomials. Those of e^z stand in kernels/math/exp.h (and
anchor.h) for C, and in src/crossentropy/_backends/exponential.py for Numba and CUDA; those of the logarithm in log.h.
"""

from __future__ import annotations

import re
import runpy
import struct
import sys
from pathlib import Path

import mpmath as mp

mp.mp.prec = 200
HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / "src" / "crossentropy" / "_backends" / "exponential.py"
Named = dict[str, float]

# ---------------------------------------------------------------------- what they are


def rounded(value: mp.mpf, bits: int) -> mp.mpf:
    """The value to so many significant bits."""
    exponent = mp.floor(mp.log(abs(value), 2)) + 1 - bits
    return mp.nint(value * mp.power(2, -exponent)) * mp.power(2, exponent)


def nearest(value: mp.mpf, bits: int) -> float:
    """The value as float32 (24 bits) or float64."""
    return struct.unpack("f", struct.pack("f", float(value)))[0] if bits == 24 else float(value)


def polynomial(series, least, most, terms: int, bits: int, name: str) -> tuple[Named, mp.mpf]:
    """The coefficients of a fit by name, the highest power first, and the largest error."""
    c, error = mp.chebyfit(series, [least, most], terms, error=True)
    return {f"{name}[{i}]": nearest(value, bits) for i, value in enumerate(c)}, error


def fit_exp(bits: int, high_bits: int, terms: int, name: str = "q", table: int = 1) -> tuple[Named, float]:
    """Log2 e, ln 2 in parts and Q, for n that are multiples of 1 / table; the error of e^r in ulp."""
    half = mp.log(2) / (2 * table) * mp.mpf("1.001")
    q, error = polynomial(
        lambda r: mp.nsum(lambda k: r**k / mp.factorial(k + 2), [0, 40]), -half, half, terms, bits, name
    )
    high = rounded(mp.log(2), high_bits)
    parts = {"log2e": 1 / mp.log(2), "ln2_hi": high, "ln2_lo": mp.log(2) - high}
    ulp = float(error * half**2 * mp.sqrt(2) * 2**bits)
    return {part: nearest(value, bits) for part, value in parts.items()} | q, ulp


def fit_log(terms: int) -> tuple[Named, float]:
    """L, and the error of the logarithm in ulp of float64."""
    most = (3 - 2 * mp.sqrt(2)) ** 2 * mp.mpf("1.001")
    named, error = polynomial(
        lambda z: mp.nsum(lambda k: 2 * z**k / (2 * k + 3), [0, 60]), 0, most, terms, 53, "log_constants"
    )
    return named, float(error * most / 2 * 2**53)


def powers(table: int) -> Named:
    """2^(j / table), by name."""
    return {f"exp_table[{j}]": nearest(mp.power(2, mp.mpf(j) / table), 24) for j in range(table)}


def fits() -> dict[str, tuple[Named, float]]:
    """Every fit: what it is of, its constants by name, and its error in ulp."""
    found = {"float32": fit_exp(24, 15, terms=5), "float64": fit_exp(53, 41, terms=10), "log": fit_log(terms=7)}
    for table, terms in (16, 2), (8, 3):
        named, ulp = fit_exp(24, 15, terms, "exp_table_q", table)
        own = {name: value for name, value in named.items() if name.startswith("exp_table_q")}
        found[f"float32, table of {table}"] = own | powers(table), ulp
    return found


# ---------------------------------------------------------------------- what the files say


def literals(text: str) -> list[float]:
    """The hexadecimal numbers of a C text."""
    return [float.fromhex(found) for found in re.findall(r"-?0x[\da-f.]+p[+-]?\d+", text)]


def between(text: str, start: str, end: str) -> str:
    """What stands between two marks."""
    return text.split(start, 1)[1].split(end, 1)[0]


def listed(name: str, values: list[float]) -> Named:
    """The values by name and index."""
    return {f"{name}[{i}]": value for i, value in enumerate(values)}


def in_c() -> dict[str, Named]:
    """The constants of exp.h, anchor.h and log.h, as `fits` names them."""
    exp, anchor, log = (" ".join((HERE / name).read_text().split()) for name in ("exp.h", "anchor.h", "log.h"))
    macros = {m[1]: float.fromhex(m[2]) for m in re.finditer(r"#define (L\w+) (-?0x\S+)", anchor)}
    found = {}
    for name, type_name in ("float32", "f32"), ("float64", "f64"):
        scalars, q = between(exp, f"exp_constants_{type_name} = {{", "};").split("{")
        # smallest, magic, least, log2e, ln2_hi, ln2_lo, terms
        parts = [part.strip() for part in scalars.split(",")][3:6]
        parts = [macros[part] if part in macros else literals(part)[0] for part in parts]
        found[name] = dict(zip(("log2e", "ln2_hi", "ln2_lo"), parts, strict=True)) | listed("q", literals(q))
    for table in (16, 8):
        part = between(exp, f"EXP_TABLE_f32 == {table}", "#e")
        found[f"float32, table of {table}"] = {
            **listed("exp_table_q", literals(between(part, "exp_table_q[] =", ";"))),
            **listed("exp_table", literals(between(part, "exp_table[] =", ";"))),
        }
    found["log"] = listed("log_constants", literals(between(log, "log_constants[7] =", ";")))
    return found


def in_python() -> dict[str, Named]:
    """The constants of exponential.py, as `fits` names them."""
    module = runpy.run_path(str(PYTHON))
    found = {}
    for name in ("float32", "float64"):
        own = module[name.upper()]
        parts = {"log2e": own.log2e, "ln2_hi": own.ln2_high, "ln2_lo": own.ln2_low}
        found[name] = {part: float.fromhex(text) for part, text in parts.items()}
        found[name] |= listed("q", [float.fromhex(term) for term in own.terms])
    return found


def differences() -> list[str]:
    """Every constant that a file holds otherwise than it is fitted, or does not hold."""
    wanted, wrong = fits(), []
    for path, held in (HERE / "exp.h", in_c()), (PYTHON, in_python()):
        for fit, constants in held.items():
            right = wanted[fit][0]
            names = [name for name in (*right, *constants) if right.get(name) != constants.get(name)]
            place = "log.h" if fit == "log" else path.name
            wrong += [
                f"{place}: {fit}: {name} is {constants.get(name)}, fitted {right.get(name)}"
                for name in dict.fromkeys(names)
            ]
    return wrong


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        wrong = differences()
        print("\n".join(wrong) or "every constant is as it is fitted")
        return 1 if wrong else 0
    for fit, (constants, ulp) in fits().items():
        print(f"/* {fit}: fit error {ulp:.3f} ulp */")
        for name, value in constants.items():
            print(f"{name:18s}", value.hex())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
