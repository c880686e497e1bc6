"""The constants of e^z and of log(1 + x): print them, or check the files that hold them.

    python kernels/math/fit.py             # needs mpmath
    python kernels/math/fit.py --check     # exits 1 and names each constant that differs
    python kernels/math/fit.py --search    # how the scales of the tables are found; needs NumPy, too

e^z: ln 2 in two parts, and Q with e^r = 1 + r + r^2 Q(r) on |r| <= ln2/2; 1 and r stay exact, so small r lose nothing.
log: L with log((1 + s) / (1 - s)) = 2 s + s^3 L(s^2) on |s| <= 3 - 2 sqrt 2, where the quotient is in
[sqrt(1/2), sqrt 2].
Both are Chebyshev fits, within a few per cent of the minimax polynomials. Those of e^z stand in kernels/math/exp.h (and
anchor.h) for C, and in src/crossentropy/_backends/exponential.py for Numba and CUDA; those of the logarithm in log.h.
Tables: 2^(j / entries) times a scale, which `search` chooses, so that rounding an entry costs little.
"""

from __future__ import annotations

import re
import runpy
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import mpmath as mp

mp.mp.prec = 200
HERE = Path(__file__).resolve().parent
PYTHON = HERE.parents[1] / "src" / "crossentropy" / "_backends" / "exponential.py"
Named = dict[str, float]


class Table(NamedTuple):
    """A table of exp.h."""

    real: str  # its type there
    entries: int
    terms: int  # of Q
    scale: float


class Fit(NamedTuple):
    """Constants by name, and their errors in ulp of a number just above 1."""

    constants: Named
    ulp: float
    of_table: float | None = None  # by which rounding an entry is off at most


SCALE_F32_16 = float.fromhex("0x1.084921ccea25fp+0")
SCALE_F32_8 = float.fromhex("0x1.16747bf728c53p+0")
SCALE_F64_16 = float.fromhex("0x1.09b22008cb69fp+0")
TABLES = {
    "float32, table of 16": Table("f32", 16, 2, SCALE_F32_16),
    "float32, table of 8": Table("f32", 8, 3, SCALE_F32_8),
    "float64, table of 16": Table("f64", 16, 6, SCALE_F64_16),
}
BITS = {"f32": 24, "f64": 53}
HIGH_BITS = {"f32": 15, "f64": 41}  # of ln2_hi

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


def fit_exp(real: str, terms: int, name: str = "q", entries: int = 1) -> Fit:
    """Log2 e, ln 2 in parts and Q, for n that are multiples of 1 / entries; with the error of e^r."""
    bits = BITS[real]
    half = mp.log(2) / (2 * entries) * mp.mpf("1.001")
    q, error = polynomial(
        lambda r: mp.nsum(lambda k: r**k / mp.factorial(k + 2), [0, 40]), -half, half, terms, bits, name
    )
    high = rounded(mp.log(2), HIGH_BITS[real])
    parts = {"log2e": 1 / mp.log(2), "ln2_hi": high, "ln2_lo": mp.log(2) - high}
    ulp = float(error * half**2 * mp.sqrt(2) * 2**bits)
    return Fit({part: nearest(value, bits) for part, value in parts.items()} | q, ulp)


def fit_log(terms: int) -> Fit:
    """L, and the error of the logarithm in ulp of float64."""
    most = (3 - 2 * mp.sqrt(2)) ** 2 * mp.mpf("1.001")
    named, error = polynomial(
        lambda z: mp.nsum(lambda k: 2 * z**k / (2 * k + 3), [0, 60]), 0, most, terms, 53, "log_constants"
    )
    return Fit(named, float(error * most / 2 * 2**53))


def fit_table(table: Table) -> Fit:
    """Q, the scale and the table, by their names in exp.h."""
    real, bits = table.real, BITS[table.real]
    fit = fit_exp(real, table.terms, f"exp_table_q_{real}", table.entries)
    exact = [mp.mpf(table.scale) * mp.power(2, mp.mpf(j) / table.entries) for j in range(table.entries)]
    entries = [nearest(value, bits) for value in exact]
    off = max(abs(entry / value - 1) for entry, value in zip(entries, exact, strict=True))
    q = {name: value for name, value in fit.constants.items() if name.startswith("exp_table_q")}
    constants = q | {f"EXP_SCALE_{real}": table.scale} | listed(f"exp_table_{real}", entries)
    return Fit(constants, fit.ulp, float(off * 2 ** (bits - 1)))


def fits() -> dict[str, Fit]:
    """Every fit, by what it is of."""
    found = {"float32": fit_exp("f32", terms=5), "float64": fit_exp("f64", terms=10), "log": fit_log(terms=7)}
    return found | {name: fit_table(table) for name, table in TABLES.items()}


# ---------------------------------------------------------------------- how the scales are found


def search(table: Table, count: int = 2**24, seed: int = 0) -> tuple[float, float]:
    """The best of many scales between 1 and 2^(1 / entries), beyond which they repeat, and its error as in `Fit`.

    For float32 they are spread evenly by their logarithms: the one that is held is the best of these. For float64 they
    are drawn, as the one that is held was; another draw finds one that is a hundredth of an ulp better or worse.
    """
    import numpy as np

    real, wide = (np.float32, np.float64) if table.real == "f32" else (np.float64, np.longdouble)
    if np.finfo(wide).nmant < np.finfo(real).nmant + 11:
        raise SystemExit("long double has too few digits on this machine to search for a scale of float64")
    random, chunk = np.random.default_rng(seed), 2**18
    best, error = 1.0, 1.0
    for first in range(0, count, chunk):
        if table.real == "f32":
            scales = 2.0 ** (np.arange(first, first + chunk) / count / table.entries)
        else:
            scales = random.uniform(1, 2 ** (1 / table.entries), chunk)
        errors = np.zeros(chunk)
        for j in range(table.entries):
            exact = scales.astype(wide) * wide(2) ** (wide(j) / table.entries)
            off = np.abs(exact.astype(real) / exact - 1) * 2.0 ** np.finfo(real).nmant
            errors = np.maximum(errors, off)
            kept = errors < error
            scales, errors = scales[kept], errors[kept]
        if len(scales):
            best, error = float(scales[errors.argmin()]), float(errors.min())
    return best, error


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
        # smallest, bias, magic, least, log2e, ln2_hi, ln2_lo, terms
        parts = [part.strip() for part in scalars.split(",")][4:7]
        parts = [macros[part] if part in macros else literals(part)[0] for part in parts]
        found[name] = dict(zip(("log2e", "ln2_hi", "ln2_lo"), parts, strict=True)) | listed("q", literals(q))
    for name, table in TABLES.items():
        real = table.real
        part = between(exp, f"EXP_TABLE_{real} == {table.entries}", "#e")
        found[name] = {
            f"EXP_SCALE_{real}": literals(between(part, f"EXP_SCALE_{real}", "static"))[0],
            **listed(f"exp_table_q_{real}", literals(between(part, f"exp_table_q_{real}[] =", ";"))),
            **listed(f"exp_table_{real}", literals(between(part, f"exp_table_{real}[] =", ";"))),
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
            right = wanted[fit].constants
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
    if arguments == ["--search"]:
        print("scales, and by how many ulp of a number just above 1 the worst entry of a table is off")
        for name, table in TABLES.items():
            scale, off = search(table)
            held = fit_table(table).of_table
            print(f"{name}: found {scale.hex()}: {off:.3f}; held {table.scale.hex()}: {held:.3f}")
        return 0
    for name, fit in fits().items():
        of_table = "" if fit.of_table is None else f", entries rounded by up to {fit.of_table:.3f} ulp"
        print(f"/* {name}: fit error {fit.ulp:.3g} ulp{of_table} */")
        for constant, value in fit.constants.items():
            print(f"{constant:18s}", value.hex())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
