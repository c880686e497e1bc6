"""The figures of README and of docs/benchmarks.md, with pictures, from results/*.json: `python benchmarks/report.py`.

A result is what `crossentropy bench --json benchmarks/results/MACHINE.json` writes, and `cuda.py` of a card; with none
of a card the page has what `cuda_compile.py` expects, of which docs/gpu.md has all. `--add FILE MACHINE` first puts
what `crossentropy bench --linear --json FILE` wrote on the same machine beside the machine's other results. With
--check nothing is written, and the exit code says whether all are up to date.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crossentropy import bench
from crossentropy.bench import overview
from crossentropy.bench.linear import records as linear_records
from crossentropy.bench.linear import tables as linear_tables

ROOT = Path(__file__).parent.parent
RESULTS, FIGURES, README = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures", ROOT / "README.md"
PAGE, OVERVIEW = ROOT / "docs" / "benchmarks.md", FIGURES / "overview.svg"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
CUDA_BEGIN, CUDA_END = "<!-- cuda: begin -->", "<!-- cuda: end -->"
PREDICTED, GPU = RESULTS / "cuda-compile.json", ROOT / "docs" / "gpu.md"
GIVEN_ARRAYS = (bench.NUMBA, "scikit-learn")  # to write to; the others make a new one at each call
LIBRARIES = ("torch", "jax", "tensorflow", "tensorflow-cpu", "onnxruntime", "scikit-learn")
DRAWN = ("loss", "loss + gradient")
PLAIN = {"Date": None, "Creator": None}  # the same bytes from the same results


def documents(cards: bool = False) -> dict[str, dict]:
    """The results of each machine, by the stem of their file: of its processor, or of its NVIDIA card."""
    paths = sorted(set(RESULTS.glob("*.json")) - {PREDICTED})
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    return {stem: document for stem, document in found.items() if ("gpu" in document["machine"]) == cards}


def add(path: Path, stem: str) -> None:
    """Put the linear losses of a document into a machine's results; its cases replace the same ones there."""
    place = RESULTS / f"{stem}.json"
    old, new = (json.loads(each.read_text(encoding="utf-8")) for each in (place, path))
    if new["machine"]["cpu"] != old["machine"]["cpu"]:
        raise ValueError(f"{path} is of {new['machine']['cpu']}, {place} of {old['machine']['cpu']}")
    old["linear"] = linear_records.merged(old.get("linear", []), new["linear"])
    old["linear_on"] = {"date": new["date"], "versions": new["versions"]}
    place.write_text(bench.to_json(old), encoding="utf-8")


def picture(stem: str, op: str) -> Path:
    """Where the plot of an operation on a machine is."""
    from crossentropy.bench import plots

    return FIGURES / f"{stem}-{plots.file_name(op)}.svg"


def section(found: dict[str, dict]) -> str:
    """What stands between the two marks in docs/benchmarks.md: every case of every machine."""
    return "\n".join([BEGIN, *(line for item in found.items() for line in _machine(*item)), END])


class _Table(NamedTuple):
    """A table of the page's: which cases it has, and beside whom."""

    heading: str
    takes: Callable[[bench.Case], bool]
    others: tuple[str, ...]


def _is_few(case):
    return case.shape in (*bench.FEW, *bench.SEGMENTATION)


def _is_plain(case):
    return (case.dtype, case.inputs, case.option) == ("float32", "normal", "")


_FRAMEWORKS = (bench.NUMBA, "torch", "torch.compile", "JAX", "TensorFlow", "onnxruntime")
TABLES = (
    _Table("Rows of many classes, and a small call:", lambda case: _is_plain(case) and not _is_few(case), _FRAMEWORKS),
    _Table("Few classes:", _is_few, (*_FRAMEWORKS, "scikit-learn")),
    _Table("Other types and other numbers:", lambda case: not _is_plain(case) and not _is_few(case), _FRAMEWORKS),
)


def _machine(stem, document):
    machine, versions, records = document["machine"], document["versions"], document["records"]
    cases = bench.by_case(records)
    cpu = f"{machine['threads']} threads of {machine['cpu']} ({machine['isas'][0]})"
    libraries = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
    yield f"## {cpu}\n"
    yield f"crossentropy {versions['crossentropy']}, {libraries or 'no peers'}, {document['date']}:"
    yield "`crossentropy bench`, and where there are losses of hidden states, `crossentropy bench --linear`."
    for table in TABLES:
        yield from _table(
            table, {case: cases[case] for case in sorted(cases, key=_place) if table.takes(case)}, machine
        )
    yield from _isas(cases, machine)
    yield from linear_tables.lines(document)
    yield f"\n{' '.join(_compiling(records, _FRAMEWORKS))}\n"
    for op in DRAWN:
        yield f"![{op}: GB/s by classes, on {cpu}]({picture(stem, op).relative_to(PAGE.parent).as_posix()})\n"


def _table(table, cases, machine):
    """A line for each case; a column for each way to call this package, and for whoever else computed one of them."""
    if not cases:
        return
    others = [name for name in table.others if any(bench.best(found, implementation=name) for found in cases.values())]
    columns = ["ms", "of the roof", "new array, ms", "crossentropy.torch, ms", *others]
    yield f"\n{table.heading}\n"
    yield f"| logits | | {' | '.join(columns)} |"
    yield "|---|---|" + "--:|" * len(columns)
    last = None
    for case, found in cases.items():
        ours, new, in_torch = (
            bench.best(found, implementation=name, isa=machine["isas"][0])
            for name in (bench.OURS, bench.ALLOCATING, bench.DROP_IN)
        )
        if ours is not None:
            of = _logits(case)
            cells = [of if of != last else "", _what(case), _ms(ours), _share(ours), _ms(new), _ms(in_torch)]
            # Numba's was given an array to write to; the others make a new one at each call.
            beside = [ours if name == bench.NUMBA or new is None else new for name in others]
            ratios = [
                _ratio(bench.best(found, implementation=name), by) for name, by in zip(others, beside, strict=True)
            ]
            yield f"| {' | '.join([*cells, *ratios])} |"
            last = of


def _compiling(records, names):
    for name in names:
        took = [r["compile_s"] for r in records if r["implementation"] == name and r["compile_s"] is not None]
        if took:
            yield f"{name}'s first call, which compiles, takes {min(took):.1f} to {max(took):.1f} s more."


def _place(case):
    """Shape by shape; in it plain cases first, then other dtypes, inputs and options, each operation by operation."""
    shapes, every = list(bench.SHAPES), bench.cases()
    known = every.index(case) if case in every else len(every)
    ops = list(bench.OPS).index(case.op)
    shape = shapes.index(case.shape) if case.shape in shapes else len(shapes)
    return shape, (0, ops) if _is_plain(case) else (1, known), case


def _logits(case):
    parts = [case.shape_text, case.dtype if case.dtype != "float32" else "", _INPUTS.get(case.inputs, "")]
    parts.append(bench.OPTIONS.get(case.option, ""))
    return ", ".join(filter(None, parts))


_INPUTS = {name: text for name, text in bench.INPUTS.items() if name != "normal"}


def _what(case):
    return "loss + gradient, probability targets" if case.op == "probability targets" else case.op


def _ms(record):
    if record is None:
        return ""
    ms = 1e3 * record["median_s"]
    return f"{ms:.3f}" if ms < 0.1 else f"{ms:.3g}" if ms < 100 else f"{ms:.0f}"


def _share(record):
    return "–" if record["roof_fraction"] is None else f"{record['roof_fraction']:.0%}"


def _ratio(other, ours):
    if other is None:
        return "–"
    ratio = other["median_s"] / ours["median_s"]
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"


def _isas(cases, machine):
    """The share of the roof that each ISA reaches, on one thread and on all."""
    chosen = {op: cases.get(bench.Case(op, bench.VOCABULARY)) for op in DRAWN}
    if not all(chosen.values()):
        return
    counts = sorted({1, machine["threads"]})
    yield f"\nOf the roof of as many threads, at {' x '.join(map(str, bench.VOCABULARY))}:\n"
    yield "| | " + " | ".join(f"{op}, {_threads(n)}" for op in DRAWN for n in counts) + " |"
    yield "|---|" + "--:|" * (len(DRAWN) * len(counts))
    for isa in machine["isas"]:
        yield _shares(chosen, counts, isa, implementation=bench.OURS, isa=isa)
    if any(r["implementation"] == bench.NUMBA for r in chosen[DRAWN[0]]):
        yield _shares(chosen, counts, "Numba", implementation=bench.NUMBA)


def _shares(chosen, counts, heading, **fields):
    those = [bench.best(chosen[op], threads=n, **fields) for op in DRAWN for n in counts]
    return f"| {heading} | {' | '.join(_share(r) if r else '–' for r in those)} |"


def _threads(n):
    return "1 thread" if n == 1 else f"{n} threads"


# ---------------------------------------------------------------------- CUDA


def cuda_section(cards: dict[str, dict], predicted: dict | None) -> str:
    """What stands between the marks of CUDA: what cards did, or, before there is such a result, what is expected."""
    lines = [line for document in cards.values() for line in _card(document)]
    if not cards and predicted:
        lines = list(_predicted(predicted))
    return "\n".join([CUDA_BEGIN, *lines, CUDA_END])


def _card(document):
    machine, versions, cases = document["machine"], document["versions"], {}
    for r in document["records"]:
        cases.setdefault((r["dtype"], tuple(r["shape"]), r["op"]), {})[r["implementation"]] = r
    others = list(dict.fromkeys(r["implementation"] for r in document["records"] if r["implementation"] != bench.OURS))
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("numba-cuda", "torch", "triton") if name in versions)
    yield f"**{machine['gpu']}**, crossentropy {versions['crossentropy']}, {libraries}, {document['date']}:\n"
    yield f"| logits | | ms | GB/s | of the roof | {' | '.join(others)} |"
    yield "|---|---|--:|--:|--:|" + "--:|" * len(others)
    for (dtype, (rows, classes), op), found in sorted(cases.items()):
        if (ours := found.get(bench.OURS)) is not None:
            what = "loss + gradient, probability targets" if op == "probability targets" else op
            cells = [f"{rows} x {classes}, {dtype}", what, _ms(ours), f"{ours['gb_per_s']:.0f}", _share(ours)]
            yield f"| {' | '.join([*cells, *(_ratio(found.get(name), ours) for name in others)])} |"


def _predicted(document):
    """A column for each operation, on an H100; in place is as with a new array."""
    yield "**Predictions: nothing here was run on a card.** Milliseconds on an H100: what its memory needs for the"
    yield "bytes, or its multiprocessors for the instructions (*), whichever is longer. In brackets the instructions"
    yield "of a thread that are issued for each logit, counted by executing the machine code without a card."
    yield f"[gpu.md](gpu.md) has the counts, other cards and other libraries ({_made(document)}).\n"
    columns = {"loss": "loss", "loss + gradient": "loss + gradient, also in place"}
    columns |= {"probability targets": "the same, probability targets"}
    columns = {op: text for op, text in columns.items() if any(p["op"] == op for p in document["predictions"])}
    yield f"| logits | {' | '.join(columns.values())} |"
    yield "|---|" + "--:|" * len(columns)
    for (dtype, rows, classes), found in _cases(document).items():
        cells = [f"{_longer(p['H100'])} ({p['slots']:.0f})" if (p := found.get(op)) else "–" for op in columns]
        yield f"| {rows} x {classes}, {dtype} | {' | '.join(cells)} |"


def _cases(document):
    cases = {}
    for p in document["predictions"]:
        cases.setdefault((p["dtype"], p["rows"], p["classes"]), {})[p["op"]] = p
    return cases


def _made(document):
    versions = document["versions"]
    made = ", ".join(f"{name} {versions[name]}" for name in ("numba-cuda", "nvidia-nvvm", "ptxas") if name in versions)
    return f"`benchmarks/cuda_compile.py`, {made}, {document['counted']}"


def _longer(times):
    """Milliseconds, with a star where they are those of instructions."""
    issue, moved = times["ms_issue"], times["ms_bytes"]
    return f"{max(issue, moved):.3g}{'*' if issue > moved else ''}"


def gpu_section(document: dict) -> str:
    """What docs/gpu.md has between the marks: every prediction with its counts."""
    lines = [CUDA_BEGIN, *_counted(document), "", *_units(document), *_first_calls(document), CUDA_END]
    return "\n".join(lines)


def _first_calls(document):
    """Nothing where they have not been measured."""
    if (measured := document.get("first_calls")) is None:
        return
    where = f"{measured['cpu']}, {measured['date']}, `benchmarks/cuda_compile.py --first-calls`"
    yield f"\nFirst calls, in seconds of a CPU's time ({where}).\n"
    yield "| kernel | Numba | NVVM | ptxas | after another kernel | kept on disk | after another |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for call in measured["calls"]:
        first, later = call["first, compiled"], call["after another, compiled"]
        numbers = first["numba"], first["nvvm"], first["ptxas"], later["seconds"]
        cells = [f"{call['classes']} classes, {call['dtype']}, {call['op']}", *(f"{number:.2f}" for number in numbers)]
        cells += [f"{call[f'{name}, kept']['seconds']:.3f}" for name in ("first", "after another")]
        yield f"| {' | '.join(cells)} |"


def _counted(document):
    count, failed = len(document["kernels"]), len({text.rpartition(": ")[0] for text in document["failed"]})
    state = f"all but {failed} as they were meant to be" if failed else "all as they were meant to be"
    yield f"Milliseconds; * where instructions take longer than bytes ({_made(document)})."
    yield f"{count} kernels were compiled on {document['date']}, {state}: registers, spills, vector loads."
    if quack := document.get("quack"):
        yield f"QuACK's slots are counted in the code of quack-kernels {quack['version']}, without executing it."
    yield ""
    cards = list(document["cards"])
    yield f"| logits | | slots | of classes | of rows | QuACK's | in flight, KB | {' | '.join(cards)} |"
    yield "|---|---|" + "--:|" * (5 + len(cards))
    others = {(q["dtype"], q["classes"], q["op"]): q["slots"] for q in document.get("quack", {}).get("counts", [])}
    for (dtype, rows, classes), found in _cases(document).items():
        for op, p in found.items():
            other = others.get((dtype, classes, op))
            numbers = [f"{p[name]:.1f}" for name in ("slots", "of_classes", "of_rows")]
            numbers += ["–" if other is None else f"{other:.1f}", f"{p['in_flight'] / 1024:.0f}"]
            cells = [f"{rows} x {classes}, {dtype}", op, *numbers, *(_longer(p[card]) for card in cards)]
            yield f"| {' | '.join(cells)} |"


def _units(document):
    names = sorted({name for p in document["predictions"] for name in p["by_unit"]})
    yield f"| slots by what executes them | | {' | '.join(names)} |"
    yield "|---|---|" + "--:|" * len(names)
    for p in document["predictions"]:
        cells = [f"{p['rows']} x {p['classes']}, {p['dtype']}", p["op"]]
        cells += [f"{p['by_unit'].get(name, 0):.1f}" for name in names]
        yield f"| {' | '.join(cells)} |"


# ---------------------------------------------------------------------- README, and the page


def short_section(found: dict[str, dict]) -> str:
    """What stands between the two marks in README: the few cases of `overview`."""
    return "\n".join([BEGIN, *overview.table(*overview.overview(found)), END])


def updated(text: str, part: str, begin: str = BEGIN, end: str = END) -> str:
    """A text with this between the marks."""
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not rest or begin in rest or end in after or not after:
        raise ValueError(f"README.md and docs/benchmarks.md must have one {begin} and, after it, one {end}")
    return before + part + after


def written(found: dict[str, dict]) -> dict[Path, str]:
    """Both files as results say; CUDA's part is left out where its marks are not there."""
    page = updated(PAGE.read_text(encoding="utf-8"), section(found))
    if CUDA_BEGIN in page:
        page = updated(page, cuda_section(documents(cards=True), expected()), CUDA_BEGIN, CUDA_END)
    new = {README: updated(README.read_text(encoding="utf-8"), short_section(found)), PAGE: page}
    if (document := expected()) is not None:
        new[GPU] = updated(GPU.read_text(encoding="utf-8"), gpu_section(document), CUDA_BEGIN, CUDA_END)
    return new


def expected() -> dict | None:
    """What is predicted of cards, if that is there."""
    return json.loads(PREDICTED.read_text(encoding="utf-8")) if PREDICTED.exists() else None


def draw(found: dict[str, dict]) -> None:
    """The plots that both show."""
    import matplotlib

    from crossentropy.bench import plots

    matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, which is shorter than its outlines
    matplotlib.rcParams["svg.hashsalt"] = "crossentropy"  # the same bytes from the same results
    FIGURES.mkdir(parents=True, exist_ok=True)
    for stem, document in found.items():
        for op in DRAWN:
            figure = plots.rates(document["records"], op)
            if figure is None:
                raise ValueError(f"{stem}.json has no results to draw for {op!r}")
            figure.savefig(picture(stem, op), metadata=PLAIN)
    overview.picture(*overview.overview(found)).savefig(FIGURES / OVERVIEW.name, metadata=PLAIN)


def main() -> int:
    """Write, or with --check compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--add", nargs=2, metavar=("FILE", "MACHINE"), help="linear losses, and where they belong")
    given = parser.parse_args()
    if given.add:
        add(Path(given.add[0]), given.add[1])
    found = documents()
    new = written(found)
    if given.check:
        stale = [path for path, text in new.items() if path.read_text(encoding="utf-8") != text]
        stale += [
            path for path in (OVERVIEW, *(picture(stem, op) for stem in found for op in DRAWN)) if not path.exists()
        ]
        for path in stale:
            print(f"{path.name} is not what benchmarks/results say: run python benchmarks/report.py", file=sys.stderr)
        return int(bool(stale))
    draw(found)
    for path, text in new.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
