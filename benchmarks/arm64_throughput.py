"""Cycles of the arm64 units' main loops by llvm-mca, without one: `python benchmarks/arm64_throughput.py FOLDER`.

FOLDER is where `.ci/arm64 FOLDER 0` has built the package. Loops are found in the machine code: those of a block
function within which no other lies, told apart by what they do (stores, comparisons, float64 lanes); of several of a
kind the one that takes the most vectors a turn. `--write` puts the table into docs/arm64.md, `--show OPERATION` prints
the NEON unit's loops. `--earlier TREE ...` counts the base units of earlier trees, which it compiles, beside the NEON
unit of today: a tree is what `git archive` makes of a commit, in a folder that is called by it.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "arm64.md"
UNITS = ("neon", "base")
BRANCH = re.compile(r"(?:b\.\w+|b|cbn?z|tbn?z)$")
ITERATIONS = 200
# How llvm-mca names a CPU: what stands above its column. What it knows of Apple's CPUs is what the first had, in 2013.
CPUS = {
    "neoverse-n1": "Neoverse N1",
    "neoverse-n2": "N2",
    "neoverse-v1": "V1",
    "neoverse-v2": "V2",
    "neoverse-v3": "V3",
    "ampere1": "Ampere1",
    "apple-m1": "Apple",
}
# Machines by CPU: name, GHz, cores, GB/s of memory, as they are published.
MACHINES = {
    "neoverse-n1": ("Graviton2", 2.5, 64, 204.8),
    "neoverse-v1": ("Graviton3", 2.6, 64, 307.2),
    "neoverse-v2": ("Graviton4", 2.8, 96, 537.6),
}
BAR = 0.45  # of the base unit's cycles, asked for loss and loss + gradient in float32


class Instruction(NamedTuple):
    """One line of a disassembly."""

    address: int
    name: str
    operands: str


Loop = list[Instruction]


class Kind(NamedTuple):
    """A loop of an operation: its function, what must be in it, what must not, and what each of its vectors has."""

    function: str
    needs: str
    lacks: str
    vector: str


# The shift by 23 stands once in each e^z of a float32 vector, the store of a whole register once in each result.
EXP, STORE, LOAD = r"^shl .*\.4s, #23", r"^st[pu]?r? q.*\[x(?!29)", r"^ld[pu]?r? q"
COMPARES, WIDENS = r"^(fcmeq|cmeq) ", r"\.2d"
PASS = Kind("pass_f32", EXP, f"{STORE}|{COMPARES}|{WIDENS}", EXP)
PASS_KEEPING = Kind("pass_f32", f"{EXP}&{STORE}", f"{COMPARES}|{WIDENS}", EXP)
GRADIENT = Kind("gradient_f32", f"^fmul&{STORE}", rf"^(f(add|sub|ml[as])|shl|fcm|and|bif|bit|bsl|{WIDENS})", STORE)
LOG_SOFTMAX = Kind("log_softmax_f32", f"^fsub&{STORE}", f"^fadd|{WIDENS}", STORE)
INTO_TILE = Kind("tile_run_f32", "", "^$", "")
MAXIMA = Kind("near_sums_f32", f"{COMPARES}&^fadd", f"{EXP}|{STORE}|{WIDENS}", LOAD)
SUMS = Kind("near_sums_f32", EXP, STORE, EXP)
SUMS_KEEPING = Kind("near_sums_f32", f"{EXP}&{STORE}", "^$", EXP)
GRADIENTS = Kind("near_gradient_f32", f"^fmul&{COMPARES}&{STORE}", EXP, STORE)
OUT_OF_TILE = Kind("untile_run_f32", "", "^$", "")
TRANSPOSED = 16  # instructions at least of a loop that transposes four vectors, which is what these two do

# (operation in float32, its loops, bytes of memory a logit)
OPERATIONS = [
    ("loss", [PASS], 4),
    ("loss + gradient", [PASS_KEEPING, GRADIENT], 8),
    ("log-softmax", [PASS, LOG_SOFTMAX], 8),
    ("few classes: loss", [INTO_TILE, MAXIMA, SUMS], 4),
    ("few classes: loss + gradient", [INTO_TILE, MAXIMA, SUMS_KEEPING, GRADIENTS, OUT_OF_TILE], 8),
]


def functions(path: Path) -> dict[str, Loop]:
    """The instructions of each function of an object file, by its name."""
    command = ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(path)]
    found: dict[str, Loop] = {}
    body: Loop = []
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if head := re.match(r"[0-9a-f]+ <(\w+)[.\w]*>:", line):
            body = found.setdefault(head[1], [])
        elif one := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*([^/]*)", line):
            body.append(Instruction(int(one[1], 16), one[2], one[3].split(" <")[0].strip()))
    return found


def innermost_loops(body: Loop) -> list[Loop]:
    """What lies between a branch back and its target, where no such loop lies within."""
    at = {one.address: i for i, one in enumerate(body)}
    spans = []
    for i, one in enumerate(body):
        target = one.operands.split(",")[-1].strip()
        if BRANCH.match(one.name) and re.fullmatch("[0-9a-f]+", target) and at.get(int(target, 16), i + 1) <= i:
            spans.append((at[int(target, 16)], i))
    inner = [s for s in spans if not any(t != s and s[0] <= t[0] and t[1] <= s[1] for t in spans)]
    return [body[first : last + 1] for first, last in inner]


def leaped(loop: Loop) -> Loop:
    """The loop without what its branches forward leap over: what one vector of a row has, and all others have not."""
    at = {one.address: i for i, one in enumerate(loop)}
    taken, i = [], 0
    while i < len(loop):
        taken.append(loop[i])
        target = loop[i].operands.split(",")[-1].strip() if BRANCH.match(loop[i].name) else ""
        i = max(i + 1, at.get(int(target, 16), 0)) if re.fullmatch("[0-9a-f]+", target) else i + 1
    return taken


def count(loop: Loop, pattern: str) -> int:
    """Of a pattern's instructions; a pair of loads or stores is two."""
    found = [f"{one.name} {one.operands}" for one in loop]
    return sum(1 + text.startswith(("ldp", "stp")) for text in found if re.search(pattern, text))


def main_loop(body: Loop, kind: Kind, leaps: bool = False) -> tuple[Loop, int]:
    """The loop of that kind which takes the most vectors a turn, of these the shortest; and how many."""
    loops = [
        loop
        for loop in (leaped(loop) if leaps else loop for loop in innermost_loops(body))
        if all(count(loop, part) for part in kind.needs.split("&")) and not count(loop, kind.lacks)
    ]
    if not loops:
        raise SystemExit(f"{kind.function} has no loop of this kind: {kind}")
    if not kind.vector:
        return min((loop for loop in loops if len(loop) >= TRANSPOSED), key=len), 4
    best = min(loops, key=lambda loop: (-count(loop, kind.vector), len(loop)))
    return best, count(best, kind.vector)


def cycles(loop: Loop, cpu: str) -> float:
    """Of one turn, by llvm-mca, many of which follow each other."""
    lines = ["loop:"]
    for one in loop:
        operands = one.operands
        if BRANCH.match(one.name):
            operands = ", ".join([*(part.strip() for part in operands.split(",")[:-1]), "loop"])
        lines.append(f"{one.name} {operands}")
    command = ["llvm-mca-22", "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={ITERATIONS}"]
    done = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    assert total, done.stdout
    return int(total[1]) / ITERATIONS


def spills(loop: Loop) -> int:
    """Accesses to the stack, and calls."""
    return count(loop, r"\[sp|\[x29|^bl ")


def class_of(one: Instruction) -> str:
    """The class of an instruction."""
    if one.name.startswith(("ld", "st")):
        return "loads" if one.name.startswith("ld") else "stores"
    if not re.match(r"v\d", one.operands):
        return "addresses, prefetches, branch"
    return "copies" if one.name == "mov" else "arithmetic"


def mix(units: dict[str, dict[str, Loop]]) -> str:
    """Instructions a vector of the loops over long rows, by class."""
    classes = ("arithmetic", "copies", "loads", "stores", "addresses, prefetches, branch")
    lines = [
        "| float32, instructions a vector | unit | " + " | ".join(classes) + " |",
        "|---|---|" + "---|" * len(classes),
    ]
    for name, kind in (("loss", PASS), ("loss, e^z kept", PASS_KEEPING), ("gradient of what is kept", GRADIENT)):
        for unit in UNITS:
            loop, vectors = main_loop(units[unit][kind.function], kind)
            of = [class_of(one) for one in loop]
            lines.append(f"| {name} | {unit} | " + " | ".join(f"{of.count(c) / vectors:.3g}" for c in classes) + " |")
    return "\n".join(lines) + "\n"


def table(units: dict[str, dict[str, Loop]]) -> str:
    """Cycles a logit of each operation and unit, and what they are of the base unit's; and bytes a cycle."""
    lines = ["| float32, cycles a logit | unit | vectors a turn | stack, calls | " + " | ".join(CPUS.values()) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(CPUS))
    of_bytes = []
    for operation, kinds, size in OPERATIONS:
        taken = {}
        for name in UNITS:
            loops = [main_loop(units[name][kind.function], kind) for kind in kinds]
            taken[name] = {cpu: sum(cycles(loop, cpu) / n for loop, n in loops) / 4 for cpu in CPUS}
            turns = ", ".join(str(n) for _, n in loops)
            strayed = sum(spills(loop) for loop, _ in loops)
            cells = " | ".join(f"{taken[name][cpu]:.2f}" for cpu in CPUS)
            lines.append(f"| {operation} | {name} | {turns} | {strayed} | {cells} |")
        ratios = " | ".join(f"{taken['neon'][cpu] / taken['base'][cpu]:.2f}" for cpu in CPUS)
        lines.append(f"| | neon / base | | | {ratios} |")
        rates = []
        for cpu, (_, ghz, _, memory) in MACHINES.items():
            rate = size / taken["neon"][cpu]
            rates.append(f"{rate:.1f}; {rate * ghz:.1f}; {memory / (rate * ghz):.0f}")
        of_bytes.append(f"| {operation} | " + " | ".join(rates) + " |")
    heads = [f"{name} ({cores} cores, {gb:.0f} GB/s)" for name, _, cores, gb in MACHINES.values()]
    lines += [
        "",
        "| NEON: bytes a cycle, GB/s of one core, cores that take all of the memory's rate | "
        + " | ".join(heads)
        + " |",
    ]
    return "\n".join([*lines, "|---|" + "---|" * len(heads), *of_bytes]) + "\n\n" + mix(units)


def earlier_base(tree: Path) -> dict[str, Loop]:
    """The base unit of an earlier tree, compiled for arm64 as its setup.py does."""
    (unit,) = [*tree.glob("kernels/rows_base.c"), *tree.glob("kernels/blocks/unit_base.c")]
    lists = {
        target.id: ast.literal_eval(line.value)
        for line in ast.parse((tree / "setup.py").read_text(encoding="utf-8")).body
        if isinstance(line, ast.Assign) and isinstance(target := line.targets[0], ast.Name)
        if target.id in ("COMMON", "FEWER_COPIES")
    }
    flags = [*sysconfig.get_config_var("CFLAGS").split(), "-fPIC", f"-I{tree / 'kernels'}"]
    flags += [*lists["COMMON"]["unix"], *lists.get("FEWER_COPIES", [])]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "base.o")
        subprocess.run(["aarch64-linux-gnu-gcc", *flags, "-c", str(unit), "-o", str(made)], check=True)
        return functions(made)


def beside_earlier(neon: dict[str, Loop], trees: list[Path]) -> str:
    """Cycles a logit of earlier base units for what has a bar, and what NEON's of today are of them."""
    lines = ["| float32, cycles a logit | unit | vectors a turn | " + " | ".join(CPUS.values()) + " |"]
    lines.append("|---|---|---|" + "---|" * len(CPUS))
    units = {"neon, today": neon} | {f"base, {tree.name}": earlier_base(tree) for tree in trees}
    for operation, kinds, _ in OPERATIONS[:2]:
        of_neon: dict[str, float] = {}
        for name, unit in units.items():
            loops = [main_loop(unit[kind.function], kind, leaps=True) for kind in kinds]
            taken = {cpu: sum(cycles(loop, cpu) / n for loop, n in loops) / 4 for cpu in CPUS}
            turns = ", ".join(str(n) for _, n in loops)
            lines.append(f"| {operation} | {name} | {turns} | " + " | ".join(f"{c:.2f}" for c in taken.values()) + " |")
            of_neon = of_neon or taken
            if of_neon is not taken:
                ratios = " | ".join(f"{of_neon[cpu] / taken[cpu]:.3f}" for cpu in CPUS)
                lines.append(f"| | neon / base | | {ratios} |")
    return "\n".join(lines) + "\n"


def put_into_page(name: str, text: str) -> None:
    """In place of what stands in docs/arm64.md between the marks of that name."""
    page = PAGE.read_text(encoding="utf-8")
    before, begin, rest = page.partition(f"<!-- {name}: begin -->\n")
    _, end, after = rest.partition(f"<!-- {name}: end -->")
    PAGE.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def main() -> None:
    """Print the table, write it, or show one loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where .ci/arm64 has built the package")
    parser.add_argument("--write", action="store_true", help="into docs/arm64.md")
    parser.add_argument("--earlier", type=Path, nargs="+", metavar="TREE", help="base units of earlier trees, alone")
    parser.add_argument("--show", metavar="OPERATION", help="print the NEON unit's loops of an operation")
    parser.add_argument("--check", action="store_true", help="that the NEON unit's loops for long rows need no stack")
    given = parser.parse_args()
    objects = {name: next(given.folder.rglob(f"blocks/unit_{name}.o")) for name in UNITS}
    units = {name: functions(path) for name, path in objects.items()}
    if given.show:
        for operation, kinds, _ in OPERATIONS:
            for kind in kinds if operation == given.show else []:
                for one in main_loop(units["neon"][kind.function], kind)[0]:
                    print(f"{one.address:x}: {one.name} {one.operands}")
        return
    if given.check:
        for operation, kinds, _ in OPERATIONS[:3]:
            for kind in kinds:
                if strayed := spills(main_loop(units["neon"][kind.function], kind)[0]):
                    raise SystemExit(f"{operation}: {strayed} times the stack, or a call, in a loop of {kind.function}")
        return
    text = beside_earlier(units["neon"], given.earlier) if given.earlier else table(units)
    print(text)
    if given.write:
        put_into_page("earlier" if given.earlier else "throughput", text)


if __name__ == "__main__":
    main()
