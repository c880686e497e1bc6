"""How few cycles arm64 loops for long rows could take, by llvm-mca: `python benchmarks/arm64_limits.py FOLDER`.

The loops are written by hand, not compiled: docs/arm64.md says how fast the NEON unit could be with fewer operations,
and at which price. Each is tried in several orders of its instructions, and the best counts. FOLDER is as for
arm64_throughput.py: the base unit's loops are read there; or `--earlier TREE`, as there, is where they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from arm64_throughput import CPUS, OPERATIONS, Instruction, Loop, cycles, earlier_base, functions, main_loop

SHAPES = [(4, 1), (8, 1), (4, 2), (8, 2), (4, 4), (8, 4)]  # vectors a turn, and how many of them take turns
REGISTERS = [f"v{i}" for i in range(16, 32)]  # of which vectors have what changes; v0 to v7 are maxima and sums


class Way(NamedTuple):
    """A way to e^z."""

    name: str
    polynomial: str  # pairs, square, reciprocal, horner
    two_parts: bool = True  # of ln 2
    maximum: bool = True
    adds_bits: bool = False  # what is kept is made by an integer multiply-add
    saturates: bool = False  # n is added to the exponent as an integer, which stays at 0: z has no lower limit


WAYS = [
    Way("as it is", "pairs"),
    Way("1 + r + D(r)^2", "square"),
    Way("1 + r (h + D(r)^2), FRECPS", "reciprocal"),
    Way("the same, ln 2 in one part", "reciprocal", two_parts=False),
    Way("the same, without the maximum", "reciprocal", two_parts=False, maximum=False),
    Way("no lower limit, saturating addition", "horner", saturates=True),
    Way("the same, 1 + r (h + D(r)^2)", "reciprocal", saturates=True),
    Way("FRECPS, integer multiply-add", "reciprocal", adds_bits=True),
    Way("the same, ln 2 in one part", "reciprocal", adds_bits=True, two_parts=False),
    Way("the same, without the maximum", "reciprocal", adds_bits=True, two_parts=False, maximum=False),
]


def one_vector(way: Way, u: int, turns: int, keeps: bool) -> tuple[str, str, list[str]]:
    """The register of z, that of e^z, and what is done in between."""
    of = 4 if turns == 4 else 5
    z, t, a, b, c = (REGISTERS[(u % turns) * of + i] if i < of else "v15" for i in range(5))
    low, total = ["fmls z a v11"] if way.two_parts else [], f"v{4 + u % 4}"
    text = ["fmax v{u} v{u} z"] if way.maximum else []
    if way.saturates:
        text += ["fmul a z v8", "frintn a a", "fmls z a v10", *low, "fcvtzs t a #23"]
    else:
        text += ["fmax z z v12", "ld1 t 10", "fmla t z v8", "fsub a t v9", "fmls z a v10", *low]
        text += [] if way.adds_bits else ["shl t t #23"]
    if way.polynomial == "pairs":
        text += ["fmul c z z", "ld1 a 11", "fmla a z v13", "fmla a c v14", "ld1 b 12", "fmla b z v13", "fmla b a c"]
        text += ["fmla z c b"]
    elif way.polynomial == "horner":
        text += [
            "ld1 a 10",
            "fmla a z v13",
            "ld1 b 11",
            "fmla b z a",
            "ld1 a 12",
            "fmla a z b",
            "ld1 b 13",
            "fmla b z a",
        ]
        text += ["ld1 a 14", "fmls a z b", "frecps z z a"]
    else:
        text += ["ld1 a 11", "fmla a z v13", "ld1 b 12", "fmla b z a", "ld1 a 13", "fmla a z b"]
        square = way.polynomial == "square"
        text += ["fmul b z a", "fmla z b b"] if square else ["ld1 b 14", "fmls b a a", "frecps z z b"]
    e = t if way.polynomial in ("pairs", "square") else z
    if way.saturates:
        text += ["usqadd z t", "fadd s s z"]
    elif e == t:
        text += ["fmla t z t", "fadd s s t"]
    elif not keeps:
        text += ["fmla s t z"]
    else:
        text += ["mla z t v14" if way.adds_bits else "fmul z z t", "fadd s s z"]
    named = {"z": z, "t": t, "a": a, "b": b, "c": c, "s": total, "v{u}": f"v{u % 4}"}
    lines = []
    for line in text:
        name, *operands = (named.get(part, part) for part in line.split())
        vectors = ", ".join(o if o.startswith("#") else f"{o}.4s" for o in operands)
        lines.append(f"ld1 {{{operands[0]}.4s}}, [x{operands[1]}]" if name == "ld1" else f"{name} {vectors}")
    return z, e, lines


def turn(way: Way, vectors: int, turns: int, keeps: bool) -> list[str]:
    """A turn of the pass over a row."""
    made = [one_vector(way, u, turns, keeps) for u in range(vectors)]
    lines: list[str] = []
    for first in range(0, vectors, turns):
        group = range(first, first + turns)
        lines += [f"ldr q{made[u][0][1:]}, [x0, #{16 * u}]" for u in group]
        lines += [line for together in zip(*(made[u][2] for u in group), strict=True) for line in together]
        if keeps and turns == 1:
            lines.append(f"str q{made[first][1][1:]}, [x1, #{16 * first}]")
        elif keeps:
            lines += [f"stp q{made[u][1][1:]}, q{made[u + 1][1][1:]}, [x1, #{16 * u}]" for u in group[::2]]
    for line in range(0, vectors, 4):
        lines += [f"prfm pldl2keep, [x0, #{2048 + 16 * line}]", f"prfm pldl1keep, [x0, #{512 + 16 * line}]"]
    return [*lines, f"add x0, x0, #{16 * vectors}", *["add x1, x1, #64"] * keeps, "cmp x0, x9", "b.ne 0"]


def product(vectors: int) -> list[str]:
    """A turn of the gradient, which is what was kept times a factor."""
    lines: list[str] = []
    for u in range(0, vectors, 2):
        a, b = f"q{16 + u}", f"q{17 + u}"
        lines.append(f"ldp {a}, {b}, [x0, #{16 * u}]")
        lines += [f"fmul v{i}.4s, v{i}.4s, v0.4s" for i in (16 + u, 17 + u)]
        lines.append(f"stp {a}, {b}, [x1, #{16 * u}]")
    return [*lines, f"add x0, x0, #{16 * vectors}", f"add x1, x1, #{16 * vectors}", "cmp x0, x9", "b.ne 0"]


def taken(lines: list[str], vectors: int, cpu: str) -> float:
    """Cycles a logit."""
    loop = [Instruction(0, *line.split(" ", 1)) for line in lines]
    return cycles(loop, cpu) / vectors / 4


def main() -> None:
    """Print what each way would take of the base unit's cycles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where .ci/arm64 has built the package")
    parser.add_argument("--earlier", type=Path, metavar="TREE", help="of the cycles of this tree's base unit")
    given = parser.parse_args()
    base: dict[str, Loop] = (
        earlier_base(given.earlier) if given.earlier else functions(next(given.folder.rglob("blocks/unit_base.o")))
    )
    for keeps, (operation, kinds, _) in enumerate(OPERATIONS[:2]):
        loops = [main_loop(base[kind.function], kind, leaps=True) for kind in kinds]
        whole = {cpu: sum(cycles(loop, cpu) / n for loop, n in loops) / 4 for cpu in CPUS}
        of_product = {cpu: min(taken(product(n), n, cpu) for n in (4, 8)) for cpu in CPUS} if keeps else {}
        print(f"| {operation} | operations | " + " | ".join(CPUS.values()) + " |")
        for way in WAYS if keeps else [way for way in WAYS if not way.adds_bits]:
            cells = []
            for cpu in CPUS:
                least = min(taken(turn(way, n, turns, bool(keeps)), n, cpu) for n, turns in SHAPES)
                cells.append(f"{(least + of_product.get(cpu, 0)) / whole[cpu]:.2f}")
            work = [line for line in one_vector(way, 0, 1, bool(keeps))[2] if not line.startswith("ld1")]
            print(f"| {way.name} | {len(work)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
