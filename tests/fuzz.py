"""Calls drawn at random, each from one integer: shapes, dtypes, layouts of memory, values, options, bad arguments.

    python tests/fuzz.py --seconds 60              # every backend that is here, the native one with each ISA unit
    python tests/fuzz.py --case 123456 --backend native-avx2

Each case is held against the reference, within twice the accuracy contract's limits. The same call must give the same
bits by every way there is, change none of its inputs, and write nothing but the elements of its result: every array
lies inside a larger buffer whose other bytes are watched. Bad arguments must raise and write nothing.
"""

import argparse
import contextlib
import faulthandler
import importlib
import random
import sys
import time
import traceback
import types
import warnings

from fuzz_around import CHECKS_AROUND
from fuzz_cases import Case
from fuzz_checks import CHECKS, largest

import crossentropy
from crossentropy import native

CHECKS = CHECKS | CHECKS_AROUND

# ---------------------------------------------------------------------- running


@contextlib.contextmanager
def settings(case, backend):
    """The backend with the case's threads; ``split``: many for the smallest array, whose result bypasses the caches."""
    name, _, isa = backend.partition("-")
    module = importlib.import_module(f"crossentropy._backends.{name}")
    kept = {k: getattr(module, k) for k in ("SERIAL_BELOW", "BYPASS_FROM") if case.split and hasattr(module, k)}
    try:
        for key in kept:
            setattr(module, key, 0)
        with crossentropy.config(backend=name, isa=isa or None, threads=case.threads, check=case.check):
            yield
    finally:
        for key, value in kept.items():
            setattr(module, key, value)


def run_case(seed, backends):
    """One case on each of the backends; the message of what is wrong, or None."""
    expect, check = CHECKS[Case(seed).kind]
    expected = expect(Case(seed))
    for backend in backends:
        case = Case(seed)
        try:
            with settings(case, backend):
                check(case, expected)
            for placed in case.inputs:
                placed.assert_as_before()
        except Exception as error:
            what = "".join(traceback.format_exception(error, limit=-3))
            return f"{what}{case}\nrepeat: python tests/fuzz.py --case {seed} --backend {backend}"
    return None


def named(seed):
    """run_case under a name with the seed in it, which a crash's traceback shows."""
    return types.FunctionType(run_case.__code__.replace(co_name=f"case_{seed}"), globals())


def backends_of(names):
    """The backends by name, the native one as each of its ISA units."""
    available = [b.name for b in crossentropy.backends() if b.available and b.name != "cuda"]
    found = []
    for name in names or [n for n in available if n != "reference"]:
        if name.partition("-")[0] not in available:
            sys.exit(f"backend {name} is not here; available: {', '.join(available)}")
        found += [f"native-{isa}" for isa in native.SUPPORTED_ISAS] if name == "native" else [name]
    return found


def main():
    """Cases until the time is up or enough of them have failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, help="of the sequence of cases; by default another one each time")
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument(
        "--backend", nargs="+", help="native, native-avx2, numba, reference; by default all but the last"
    )
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    given = parser.parse_args()
    backends = backends_of(given.backend)
    warnings.simplefilter("error")
    faulthandler.enable()
    seed = random.randrange(2**32) if given.seed is None else given.seed
    cases, failures, end = 0, 0, time.monotonic() + given.seconds
    numbers = random.Random(seed)
    print(f"{', '.join(backends)}: " + (f"seed {seed}" if given.case is None else f"case {given.case}"), flush=True)
    while time.monotonic() < end and failures < given.failures:
        number = numbers.getrandbits(32) if given.case is None else given.case
        message = named(number)(number, backends)
        cases += 1
        if message:
            failures += 1
            print(message, flush=True)
        if given.case is not None:
            break
    print(f"{cases} cases, {failures} failed")
    seen = ", ".join(f"{what} of {dtype} {error:.2f}" for (what, dtype), error in sorted(largest.items()))
    print(f"largest errors in ulp: {seen or 'none looked for'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
