"""The worst rows of a sweep of the accuracy contract: `python benchmarks/accuracy.py` writes docs/accuracy.json.

A million rows of each dtype (`crossentropy.testing.sweep`), on every backend and ISA that runs here, against float64 or
long double: about ten minutes. `--rows 10000` for a look; the documentation shows what is in the file.
"""

import argparse
import datetime
import json
from pathlib import Path

import numpy as np

import crossentropy
from crossentropy import native
from crossentropy.bench import machine
from crossentropy.testing import LIMITS, dtypes, result_dtype, sweep

PLACE = Path(__file__).parent.parent / "docs" / "accuracy.json"


def settings() -> dict[str, dict]:
    """What there is to sweep here, by name."""
    found = {isa: {"backend": "native", "isa": isa} for isa in native.SUPPORTED_ISAS}
    available = {backend.name: backend.available for backend in crossentropy.backends()}
    return found | ({"numba": {"backend": "numba"}} if available["numba"] else {})


def record(dtype: np.dtype, what: str, worst: dict[str, sweep.Worst]) -> dict:
    """The errors of a result on each of the settings, and what the worst row of all is like."""
    most = max(worst.values(), key=lambda one: one.error)
    exact = sweep.truth(most.row[None], np.array([most.target]), sweep.LONG)["loss"]
    return {
        "dtype": dtype.name,
        "what": what,
        "limit": LIMITS[dtype.name][what],
        "ulp_of": result_dtype(dtype, what),
        "errors": {name: round(one.error, 3) for name, one in worst.items()},
        "worst_on": max(worst, key=lambda name: worst[name].error),
        "classes": len(most.row),
        "loss": float(f"{float(exact[0]):.3g}"),
    }


def main() -> None:
    """Sweep, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=sweep.ROWS)
    parser.add_argument("--out", type=Path, default=PLACE)
    given = parser.parse_args()
    records = []
    for dtype in dtypes().values():
        found = sweep.worst(dtype, settings(), given.rows)
        records += [
            record(dtype, what, {name: one[what] for name, one in found.items()}) for what in LIMITS[dtype.name]
        ]
        print(*records[-3:], sep="\n", flush=True)
    cpu = machine()["cpu"]
    document = {"date": f"{datetime.date.today()}", "cpu": cpu, "version": crossentropy.__version__}
    document |= {"rows": given.rows, "seed": sweep.SEED, "records": records}
    given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
