"""The CUDA kernels compiled with no card, and what came of it checked: `python benchmarks/cuda_compile.py`.

Each becomes machine code, which must have what it was written for: rows in registers, none spilled, read and written by
16 bytes. A failure is a line, and exit code 1.

By default, for CI, a sample with as many pairs (shape, result, dtype, compute capability) as fit in a minute or two.
With --all everything `launch` can choose, thinned: see THINNED. --json writes it down, and the times to be expected,
for which kernels are executed and what they issue is counted; --counts PATH writes the latter alone, of kernels whose
instructions are others than those that were counted ("code"), and of those alone that --only names.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import multiprocessing
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]  # cuda.py here is not NVIDIA's
sys.path.insert(0, str(HERE / "cuda_machine_code"))

from compact import compact  # noqa: E402
from first_calls import first_calls  # noqa: E402
from machine_code import WAYS, compiled_item, prepare, tool  # noqa: E402
from predictions import CARDS, L2, SCHEDULERS, named, predictions  # noqa: E402
from units import THINNED, everything, sample  # noqa: E402

from crossentropy.bench import environment  # noqa: E402

REPORT = HERE / "results" / "cuda-compile.json"
USED = ("registers", "spills", "stack", "shared", "loads", "stores", "instructions", "threads", "at_once")
COLUMNS = ("name", "sm", *USED)


def versions() -> dict[str, str]:
    found = {}
    for name in ("crossentropy", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvdisasm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    with contextlib.suppress(OSError):
        said = subprocess.run([tool("ptxas"), "--version"], capture_output=True, text=True).stdout
        found["ptxas"] = re.search(r"V([\d.]+)", said)[1]
    return found


def written(path: Path, only: str) -> None:
    """Puts what is to be expected into a document, again and again, so that what was found is not lost.

    Counts of kernels that have the same instructions are not made again; the others of ``only`` are.
    """
    read = json.loads(path.read_text(encoding="utf-8"))
    tables = {name: read.pop(name) for name in ("columns", "kernels")}
    read.pop("rate", None)
    before, found = read["predictions"], []
    for prediction in predictions(before, only):
        found.append(prediction)
        names = {named(p) for p in found}
        left = [p for p in before if named(p) not in names]
        path.write_text(compact(read | expected(found + left) | tables), encoding="utf-8")


def expected(found: list[dict]) -> dict:
    """What to expect of cards that are not there."""
    return {
        "counted": datetime.date.today().isoformat(),
        "cards": {name: card._asdict() for name, card in CARDS.items()},
        "times": "ms_issue: slots a logit over what the multiprocessors issue, "
        f"{SCHEDULERS} a clock each, or what a unit executes; ms_bytes: what is moved over the card's rate",
        "slots": "instructions of a thread that are issued, a logit, executed without a card for sm_90",
        "code": "a digest of the instructions that were counted",
        "in_flight": "bytes on their way to a multiprocessor: loads that a thread has issued when it waits for one",
        "again": "arrays as large as the logits that the kernel reads again: from the L2 cache where the rows that are "
        f"worked on at once (working bytes) fit into its {L2:.2g} bytes, else from memory",
        "predictions": found,
    }


def document(found: list[dict], failed: list[str], way: str) -> dict:
    """What --json writes."""
    return {
        "what": f"Kernels compiled with no card. {THINNED} Nothing was run.",
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "way": WAYS[way],
        "failed": failed,
        **expected(list(predictions())),
        "columns": COLUMNS,
        "kernels": [[record.get(name) for name in COLUMNS] for record in found],
    }


def known() -> dict[tuple[str, int], int] | None:
    """The spills of each kernel in the report, if there is one."""
    if not REPORT.exists():
        return None
    read = json.loads(REPORT.read_text(encoding="utf-8"))
    records = (dict(zip(read["columns"], row, strict=True)) for row in read["kernels"])
    return {(record["name"], record["sm"]): record["spills"] for record in records}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="everything, thinned: tens of minutes")
    parser.add_argument("--json", type=Path, help="write what was found, and predictions")
    parser.add_argument("--only", default="", help="kernels, or predictions, whose name has this")
    parser.add_argument("--way", choices=WAYS, default="ptxas", help="; ".join(f"{k}: {v}" for k, v in WAYS.items()))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="a line for every kernel")
    parser.add_argument("--counts", type=Path, help="in what --json has written, predictions of changed kernels")
    parser.add_argument("--first-calls", type=Path, help="in what --json has written, how long first calls take")
    options = parser.parse_args()
    if options.first_calls:
        read = json.loads(options.first_calls.read_text(encoding="utf-8"))
        tables = {name: read.pop(name) for name in ("columns", "kernels")}
        measured = {
            "cpu": environment.machine()["cpu"],
            "date": datetime.date.today().isoformat(),
            "calls": first_calls(),
        }
        options.first_calls.write_text(compact(read | {"first_calls": measured} | tables), encoding="utf-8")
        return 0
    if options.counts:
        written(options.counts, options.only)
        return 0
    start, found, failed = time.monotonic(), [], []
    work = [(u, sms) for u, sms in (everything() if options.all else sample()) if re.search(options.only, u.name)]
    work.sort(key=lambda item: item[0].kind)  # device functions are compiled once for a dtype, in each process
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, prepare, maxtasksperchild=100) as pool:  # what is compiled is kept in memory
        for answer in pool.imap(compiled_item, [(*item, options.way) for item in work]):
            for record, wrong in answer:
                found.append(record)
                line = f"{record['name']}, sm_{record['sm']}"
                failed += [f"{line}: {text}" for text in wrong]
                if options.verbose or wrong:
                    print(line, "; ".join(wrong) or [record[name] for name in USED], sep=": ", flush=True)
    if not options.all and (before := known()) is not None:
        for record in found:
            if before.get((record["name"], record["sm"]), record.get("spills", 0)) < record.get("spills", 0):
                failed.append(f"{record['name']}, sm_{record['sm']}: spills, which {REPORT.name} has none of")
    if options.json:
        options.json.write_text(compact(document(found, failed, options.way)), encoding="utf-8")
    bad = len({line.rpartition(": ")[0] for line in failed})
    print(f"{len(found)} kernels compiled, {bad} of them not as they should be, in {time.monotonic() - start:.0f} s")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
