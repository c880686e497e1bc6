"""Cycles of the arm64 units' main loops by llvm-mca, with no arm64 machine: `python benchmarks/arm64_throughput.py OBJECT ...`."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import NamedTuple

BRANCH = re.compile(r"(?:b\.\w+|b|cbn?z|tbn?z)$")


class Instruction(NamedTuple):
    """One line of a disassembly."""

    address: int
    name: str
    operands: str


def functions(path):
    """The instructions of each function of an object file, by its name."""
    text = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for line in text.splitlines():
        if head := re.match(r"[0-9a-f]+ <(\w+)[.\w]*>:", line):
            body = found.setdefault(head[1], [])
        elif match := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*([^/]*)", line):
            body.append(Instruction(int(match[1], 16), match[2], match[3].split(" <")[0].strip()))
    return found


def innermost_loops(body):
    """What lies between a branch back and its target, where no such loop lies within."""
    at = {one.address: i for i, one in enumerate(body)}
    spans = []
    for i, one in enumerate(body):
        target = one.operands.split(",")[-1].strip()
        if BRANCH.match(one.name) and re.fullmatch("[0-9a-f]+", target) and at.get(int(target, 16), i + 1) <= i:
            spans.append((at[int(target, 16)], i))
    return [
        body[first : last + 1]
        for first, last in spans
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in spans)
    ]


def count(loop, pattern):
    return sum(bool(re.search(pattern, f"{one.name} {one.operands}")) for one in loop)


def cycles(loop, cpu, iterations=200):
    lines = ["loop:"]
    for one in loop:
        operands = one.operands
        if BRANCH.match(one.name):
            operands = ", ".join([*[p.strip() for p in operands.split(",")[:-1]], "loop"])
        lines.append(f"{one.name} {operands}")
    out = subprocess.run(
        ["llvm-mca-22", "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={iterations}"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
    )
    if out.returncode:
        print(out.stderr[:500])
    return int(re.search(r"Total Cycles:\s+(\d+)", out.stdout)[1]) / iterations


CPUS = [
    "neoverse-n1",
    "neoverse-n2",
    "neoverse-v1",
    "neoverse-v2",
    "neoverse-v3",
    "cortex-a76",
    "cortex-x4",
    "ampere1",
    "apple-m1",
]
if __name__ == "__main__":
    f = functions(sys.argv[1])
    for loop in innermost_loops(f[sys.argv[2]]):
        n = count(loop, r"^shl v\d+\.(4s, .*#23|2d, .*#52)") or count(loop, r"^s[t]p?u?r? q") or 1
        print(
            f"{loop[0].address:x}",
            len(loop),
            "shl",
            n,
            "st",
            count(loop, r"^st[pu]?r? q"),
            "cmeq",
            count(loop, "fcmeq"),
            "2d",
            count(loop, r"\.2d"),
            "mov",
            count(loop, r"^mov v"),
            "sp",
            count(loop, r"\[sp|\[x29"),
            "br",
            count(loop, r"^(b\.|cb|tb|b )"),
            "prfm",
            count(loop, "prfm"),
            "call",
            count(loop, "^bl "),
        )
        if len(sys.argv) > 3:
            print("   ", " ".join(f"{c.split('-')[-1]} {cycles(loop, c) / n:.2f}" for c in CPUS))
