"""The CUDA kernels compiled with no card, and what came of it checked: `python benchmarks/cuda_compile.py`.

Each becomes machine code, which must have what it was written for: rows in registers, none spilled, read and written by
16 bytes. A failure is a line, and exit code 1.

By default, for CI, a sample with as many pairs (shape, result, dtype, compute capability) as fit in a minute or two.
With --all everything `launch` can choose, thinned: see THINNED. --json writes it down, and the times to be expected.
"""

import argparse
import contextlib
import datetime
import heapq
import importlib.metadata
import itertools
import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]  # cuda.py here is not NVIDIA's

from numba.cuda import codegen, compiler, dispatcher, types  # noqa: E402
from numba.cuda.cudadrv import driver as linking  # noqa: E402

from crossentropy._backends.cuda import driver, launch, reductions  # noqa: E402
from crossentropy._backends.cuda.groups import WARP, Shape  # noqa: E402
from crossentropy._backends.cuda.kernels import Result  # noqa: E402

REPORT = HERE / "results" / "cuda-compile.json"
KINDS = ("bfloat16", "float32", "float16", "float64")
CAPABILITIES = (80, 90, 100, 120)
CARD = 90  # what every kernel is compiled for, beside one other: the H100's
SAMPLE = 44  # kernels of the default run, each for two compute capabilities
THINNED = (
    "Every form of a shape (how threads share a row, vectors kept) x every result x bfloat16 and float32, each for "
    "compute capability 9.0 and one other; shapes of one form, which differ in the number of threads and blocks, take "
    "turns, and so do the other compute capabilities. The other dtypes, and rows that one thread reads alone: as "
    "needed for every pair of form, result, dtype and compute capability."
)
FULLY = ("bfloat16", "float32")
REGISTERS, MOST_REGISTERS = 65536, 255  # of a multiprocessor; of a thread
WAYS = {
    "ptxas": "PTX for compute capability 9.0 at most, assembled whole, as a driver does",
    "link": "by Numba's linker, with its optimization at link time",
}


# ---------------------------------------------------------------------- what there is to compile


class Unit(NamedTuple):
    """A kernel: of rows, or (shape None) one of `reductions`, whose name and arguments ``result`` has then."""

    shape: Shape | None
    result: Result | tuple
    kind: str

    @property
    def name(self) -> str:
        if self.shape is None:
            return f"{self.result[0]}({', '.join(self.result[1:])})"
        return f"{result_name(self.result)}, {self.kind}, {shape_name(self.shape)}"


def result_name(result: Result) -> str:
    parts = [result.reads if result.reads != "row" else "", "loss" if result.loss else "", result.writes]
    parts += [f"saves {result.saves}" if result.saves else "", "spreads" if result.spreads else ""]
    return " + ".join(filter(None, [*parts, f"q {result.q}" if result.q else ""]))


def shape_name(shape: Shape) -> str:
    parts = [f"{shape.threads} threads", f"{shape.rows} rows" if shape.rows > 1 else "", f"keeps {shape.kept}"]
    parts += ["alone" if shape.alone else "", f"{shape.blocks} blocks" if shape.blocks > 1 else ""]
    return " ".join(filter(None, parts))


def form(shape: Shape) -> tuple:
    """What the code of a shape depends on but for numbers of threads and blocks."""
    level = 2 if shape.blocks > 1 else int(shape.threads > WARP)
    return level, shape.kept, shape.alone


@cache
def shapes(q: bool, least: int = 0, parts: bool = False) -> list[Shape]:
    """All that `launch.shape_for` can give for rows of at least so many vectors; ``parts``: of rows that are cut."""
    ends = [row[0] for row in launch.TABLE] + [launch.TABLE[-1][0] + 1]
    found = {
        launch.shape_for(vectors, alone, most, clusters): None
        for clusters in ((False,) if parts else (True, False))
        for alone in (False, True)
        for most in (launch.KEPT_BESIDE if q else launch.KEPT, 0)
        for vectors in ends
        if vectors >= least
    }
    return list(found)


def results(kind: str) -> list[Result]:
    """What the public functions launch over whole rows."""
    found = []
    for extra in ({}, {"spreads": True}, {"spreads": True, "q": kind}):
        found += [Result(loss=True, **extra), Result(loss=True, writes="gradient", **extra)]
        found += [Result(loss=True, saves="row", **extra), Result(reads="statistics", writes="gradient", **extra)]
    found += [Result(writes="log_softmax"), Result(writes="softmax")]
    return [*found, Result(writes="log_softmax_backward", q=kind)]


def units() -> list[Unit]:
    """Every kernel of rows."""
    found = {}
    for kind in KINDS:
        for result in results(kind):
            for shape in shapes(bool(result.q)):
                found[Unit(shape, result, kind)] = None
        # Rows cut into parts: these, what puts them together, and what writes.
        for result in results(kind):
            if result.reads != "row":
                continue
            saves = result.saves or ("row" if result.writes else "")
            both = Result("parts", saves, result.loss, "", result.spreads, result.q)
            found[Unit(Shape(WARP, launch.BLOCK // WARP, 0), both, kind)] = None
            for shape in shapes(bool(result.q), launch.PART, True):
                found[Unit(shape, Result(saves="part", spreads=result.spreads, q=result.q), kind)] = None
                if result.writes:
                    found[Unit(shape, result._replace(reads="statistics", saves="", loss=False), kind)] = None
    return list(found)


def sums() -> list[Unit]:
    """The kernels of `reductions`."""
    reals = ("float32", "float64")
    calls = [("loss_sums", real) for real in reals]
    calls += [("loss_total", real, summed) for real in reals for summed in dict.fromkeys((real, "float64"))]
    calls += [(name, real) for name in ("weight_sums", "weight_total") for real in reals]
    calls += [("conversion", kind, real) for kind in KINDS for real in reals if kind != real]
    return [Unit(None, call, "float64") for call in calls]


def capabilities(unit: Unit) -> list[int]:
    clusters = unit.shape is not None and unit.shape.blocks > 1
    return [sm for sm in CAPABILITIES if sm >= 90 or not clusters]


def generic(unit: Unit) -> Result:
    """The result, whatever the dtype."""
    return unit.result._replace(q=bool(unit.result.q))


def _pairs(unit, sm):
    facts = ("form", form(unit.shape)), ("result", generic(unit)), ("kind", unit.kind), ("sm", sm)
    shape = () if unit.shape.alone else ((("shape", unit.shape),),)  # one that is alone stands for all of its form
    return [*itertools.combinations(facts, 2), *itertools.combinations(facts, 1), *shape]


def chosen(candidates: list[tuple[Unit, int]], most: int) -> list[tuple[Unit, int]]:
    """The candidates, at most so many, that together have as many pairs of values as can be had step by step.

    A value that has not occurred at all counts as much as a hundred pairs. What a candidate adds only shrinks: one
    whose gain, looked at again, is no less than what was last known of the next is the best.
    """
    pairs = [{p: 100 if len(p) == 1 else 1 for sm in {CARD, other} for p in _pairs(u, sm)} for u, other in candidates]
    heap = [(-sum(gain.values()), i) for i, gain in enumerate(pairs)]
    heapq.heapify(heap)
    seen, taken = set(), []
    while heap and len(taken) < most:
        promised, i = heapq.heappop(heap)
        gain = sum(worth for pair, worth in pairs[i].items() if pair not in seen)
        if gain == 0:
            continue
        if gain < -promised:
            heapq.heappush(heap, (-gain, i))
            continue
        seen.update(pairs[i])
        taken.append(candidates[i])
    return taken


def sample() -> list[tuple[Unit, tuple[int, ...]]]:
    candidates = [(unit, sm) for unit in units() for sm in capabilities(unit) if sm != CARD]
    some = sums()[:: len(KINDS)]
    return [(u, (CARD, sm)) for u, sm in chosen(candidates, SAMPLE)] + [(u, (CARD,)) for u in some]


def everything() -> list[tuple[Unit, tuple[int, ...]]]:
    """See THINNED."""
    every, groups = units(), {}
    for unit in every:
        if unit.kind in FULLY and not unit.shape.alone:
            groups.setdefault((form(unit.shape), generic(unit), unit.kind), []).append(unit)
    taken = []
    for turn, group in enumerate(groups.values()):
        unit = group[turn % len(group)]
        others = [sm for sm in capabilities(unit) if sm != CARD]
        taken.append((unit, others[turn % len(others)]))
    seen = {pair for unit, other in taken for sm in (CARD, other) for pair in _pairs(unit, sm)}
    for unit in every:
        for sm in capabilities(unit):
            if sm != CARD and not seen.issuperset(_pairs(unit, sm)):
                taken.append((unit, sm))
                seen.update(pair for one in (CARD, sm) for pair in _pairs(unit, one))
    return [(unit, (CARD, sm)) for unit, sm in taken] + [(unit, CAPABILITIES) for unit in sums()]


# ---------------------------------------------------------------------- compiled, as for a card


class Asked(NamedTuple):
    """What `driver.Kernel` is made of, and stands in its place."""

    function: object
    arguments: list
    threads: int
    at_once: int = 1
    cluster: int = 1


def _prepare():
    """Let Numba compile for a card that is not there; its assembler is to say what it used."""

    def options(linker, ptx, original=linking._Linker._get_linker_options):
        found = original(linker, ptx)
        found.ptxas_options = ["-v"]
        return found

    # What comes before PTX does not depend on the compute capability: one run of it serves all.
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=divmod(CARD, 10))
    linking._Linker._get_linker_options = options
    driver.Kernel = reductions.Kernel = Asked


def _library(made: Asked):
    """As `cuda.jit` makes it."""
    return compiler._compile_pyfunc_with_fixup(
        made.function,
        types.void(*made.arguments),
        device=False,
        cc=divmod(CARD, 10),
        abi="numba",
        launch_bounds=(made.threads, made.at_once),
    )[0]


def _assembled(library, sm, way):
    """(machine code, what the assembler said, PTX)."""
    if way == "link":
        library._lto, cc = True, (*divmod(sm, 10), "a") if sm >= 90 else divmod(sm, 10)
        code = library.get_cubin(cc=cc).code
        return code, library.get_linkerinfo(cc), library.get_lto_ptx(cc=cc)
    # Past 9.0 NVVM is another compiler, which leaves loops over what is kept of a row as loops, and the row in memory.
    ptx = library.get_asm_str(cc=divmod(min(sm, 90), 10))
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "k.ptx"), Path(folder, "k.cubin")
        source.write_text(ptx)
        command = [_tool("ptxas"), f"-arch=sm_{sm}", "-v", source, "-o", made]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        return made.read_bytes(), said, ptx


@cache
def _tool(name):
    from cuda import pathfinder

    return Path(pathfinder.find_nvidia_binary_utility("nvdisasm")).with_name(name)


def compiled(unit: Unit, capabilities: tuple[int, ...], way: str) -> list[tuple[dict, list[str]]]:
    """A record for each compute capability, and what is wrong with it."""
    try:
        if unit.shape is None:
            made = getattr(reductions, unit.result[0])(0, *unit.result[1:])
        else:
            made = launch.compiled(0, unit.kind, unit.shape, unit.result)
        library = _library(made)
    except Exception as error:
        return [({"name": unit.name, "sm": sm}, [_said(error)]) for sm in capabilities]
    found = []
    for sm in capabilities:
        try:
            record = described(*_assembled(library, sm, way))
            wrong = faults(unit, made, record)
        except Exception as error:
            record, wrong = {}, [_said(error)]
        found.append(({"name": unit.name, "sm": sm} | record, wrong))
    return found


def _compiled(item):
    return compiled(*item)


def _said(error):
    text = getattr(error, "stderr", "") or str(error)
    return f"does not compile: {' '.join(text.split())[:200]}"


def described(code: bytes, said: str, ptx: str) -> dict:
    """What a kernel takes, and has."""
    sass = codegen.run_nvdisasm(SimpleNamespace(code=code), ["-c", "-ndf"])
    instructions = re.findall(r"/\*[0-9a-f]{4,}\*/ +(?:@!?\w+ +)?(\w[\w.]*)", sass)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    shared = re.findall(r"(\d+) bytes smem", said) or re.findall(r"\.shared[^;\n]*\[(\d+)\]", ptx)
    directives = dict(re.findall(r"^\.(maxntid|minnctapersm|reqnctapercluster) +(\d+)", ptx, re.MULTILINE))
    return {
        "registers": max(map(int, re.findall(r"Used (\d+) registers", said))),
        "spills": sum(int(stored) + int(loaded) for _, stored, loaded in frames),
        "stack": max(int(stack) for stack, _, _ in frames),
        "shared": sum(map(int, shared)),
        "loads": sum(bool(re.match(r"LDG\.E\b.*\.128", i)) for i in instructions),
        "stores": sum(bool(re.match(r"STG\.E\b.*\.128", i)) for i in instructions),
        "instructions": sum(i != "NOP" for i in instructions),
        "float64": ".f64" in ptx,
        "calls": bool(re.search(r"^\s*(?:@\S+\s+)?call\b", ptx, re.MULTILINE)),
        "threads": int(directives.get("maxntid", 0)),
        "at_once": int(directives.get("minnctapersm", 0)),
        "cluster": int(directives.get("reqnctapercluster", 1)),
    }


def faults(unit: Unit, made: Asked, found: dict) -> list[str]:
    """What a kernel has that it should not have, or has not that it should."""
    wrong = []
    if (found["threads"], found["at_once"]) != (made.threads, made.at_once):
        wrong.append(f"launch bounds {found['threads'], found['at_once']} instead of {made.threads, made.at_once}")
    else:
        limit = min(MOST_REGISTERS, REGISTERS // (found["threads"] * found["at_once"]) // 8 * 8)
        if found["registers"] > limit:
            wrong.append(f"{found['registers']} registers, where its launch bounds allow {limit}")
    if found["spills"]:
        wrong.append(f"{found['spills']} bytes of spills")
    if found["calls"]:
        wrong.append("a device function that is not inlined")
    if found["cluster"] != made.cluster:
        wrong.append(f"clusters of {found['cluster']} blocks instead of {made.cluster}")
    if unit.shape is None:
        return wrong  # its sums are float64, and no vectors are read
    if found["float64"] and "float64" not in (unit.kind, unit.result.q):
        wrong.append("float64 arithmetic")
    if unit.shape.alone:
        return wrong  # one thread's row: the parts that wait to be merged are in its own memory, and classes lie apart
    if found["stack"]:
        wrong.append(f"a stack frame of {found['stack']} bytes")
    reads = unit.result.reads == "row" or unit.result.writes
    vectors = max(1, unit.shape.kept)
    if reads and found["loads"] < vectors:
        wrong.append(f"{found['loads']} loads of 16 bytes instead of {vectors} or more")
    if unit.result.writes and found["stores"] < vectors:
        wrong.append(f"{found['stores']} stores of 16 bytes instead of {vectors} or more")
    return wrong


# ---------------------------------------------------------------------- predictions

RATE = 3.0e12  # bytes/s that an H100 moves in practice, of 3.35e12
MULTIPROCESSORS, L2 = 132, 50e6
SIZES = {"bfloat16": 2, "float32": 4}
PLACES = ((32768, 1024), (32768, 4096), (32768, 16384), (32768, 65536), (16384, 131072), (8192, 262144))
OPS = ("loss", "loss + gradient", "loss + gradient in place", "probability targets")


def predicted(op: str, rows: int, classes: int, kind: str) -> dict:
    """The time of an operation by bytes: each array once, and with what its kernel reads again counted as well."""
    beside, gradient = op == "probability targets", op != "loss"
    result = Result(loss=True, writes="gradient" if gradient else "", spreads=beside, q=kind if beside else "")
    vectors, array = classes * SIZES[kind] // 16, rows * classes * SIZES[kind]
    part = launch.part_for(rows, vectors, MULTIPROCESSORS, True)
    shape = launch.shape_for(part, False, launch.KEPT_BESIDE if beside else launch.KEPT, part == vectors)
    # Beside targets, a row is looked at for its maximum and sum, for their weight, and for what is written.
    again = (3 if beside else 1) if gradient and not shape.kept else 2 if beside else 0
    once = array * (3 if beside else 2 if gradient else 1)
    at_once = MULTIPROCESSORS * launch.blocks_at_once(kind, shape, result) // shape.blocks
    flight = at_once * shape.rows * classes * SIZES[kind] * (2 if beside else 1)
    return {
        "op": op, "rows": rows, "classes": classes, "dtype": kind, "shape": list(shape),
        "bytes": once, "ms": round(1e3 * once / RATE, 3), "again": again,
        "ms_again": round(1e3 * (once + again * array) / RATE, 3), "in_flight": flight, "fits_l2": flight <= L2,
    }  # fmt: skip


def predictions() -> list[dict]:
    return [predicted(op, *place, kind) for kind in SIZES for place in PLACES for op in OPS]


# ---------------------------------------------------------------------- the command

USED = ("registers", "spills", "stack", "shared", "loads", "stores", "instructions", "threads", "at_once")
COLUMNS = ("name", "sm", *USED)


def versions() -> dict[str, str]:
    found = {}
    for name in ("crossentropy", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvdisasm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    with contextlib.suppress(OSError):
        said = subprocess.run([_tool("ptxas"), "--version"], capture_output=True, text=True).stdout
        found["ptxas"] = re.search(r"V([\d.]+)", said)[1]
    return found


def document(found: list[dict], failed: list[str], way: str) -> dict:
    """What --json writes."""
    return {
        "what": f"Kernels compiled with no card. {THINNED} Nothing was run.",
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "way": WAYS[way],
        "failed": failed,
        "rate": f"predictions: bytes over {RATE:.2g} bytes/s, for an H100 of {MULTIPROCESSORS} multiprocessors",
        "again": "arrays as large as the logits that the kernel reads again: from the L2 cache where the rows that are "
        f"worked on at once (in_flight bytes) fit into its {L2:.2g} bytes, else from memory (ms_again)",
        "predictions": predictions(),
        "columns": COLUMNS,
        "kernels": [[record.get(name) for name in COLUMNS] for record in found],
    }


def compact(made: dict) -> str:
    """JSON with a line for each item of a long list."""
    parts = []
    for name, value in made.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n ]"
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


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
    parser.add_argument("--only", default="", help="kernels whose name has this regular expression")
    parser.add_argument("--way", choices=WAYS, default="ptxas", help="; ".join(f"{k}: {v}" for k, v in WAYS.items()))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="a line for every kernel")
    options = parser.parse_args()
    start, found, failed = time.monotonic(), [], []
    work = [(u, sms) for u, sms in (everything() if options.all else sample()) if re.search(options.only, u.name)]
    work.sort(key=lambda item: item[0].kind)  # device functions are compiled once for a dtype, in each process
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.processes, _prepare, maxtasksperchild=100) as pool:  # what is compiled is kept in memory
        for answer in pool.imap(_compiled, [(*item, options.way) for item in work]):
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
