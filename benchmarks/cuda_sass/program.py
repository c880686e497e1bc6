"""Machine code as nvdisasm prints it (-c -ndf -hex), taken apart: instructions with guards, modifiers and operands."""

import re
from typing import NamedTuple

SIZE = 16  # bytes of an instruction
_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?)(U?P\w+)\s+)?([A-Z][A-Z0-9_.a-z]*)\s*(.*?)\s*;\s*/\* 0x(\w{8})")
_LABEL = re.compile(r"^([.$\w]+):\s*$")
_BETWEEN = re.compile(r",(?![^\[]*\])(?![^(]*\))")  # operands


class Fault(Exception):
    """What a card would not do, or what is not known here."""


class Instruction(NamedTuple):
    """One instruction."""

    guard: str  # the predicate under which it is executed; "" for always
    name: str  # "IMAD"
    modifiers: tuple[str, ...]  # ("WIDE", "U32")
    operands: tuple[str, ...]
    label: str  # where it jumps to, if it does
    text: str

    @property
    def opcode(self) -> str:
        return ".".join((self.name, *self.modifiers))


class Program:
    """The instructions of a kernel, and where its labels are."""

    def __init__(self, text: str):
        self.instructions: list[Instruction] = []
        self.labels: dict[str, int] = {}
        for line in text.splitlines():
            if found := _LABEL.match(line):
                self.labels[found[1]] = len(self.instructions)
            elif found := _LINE.match(line):
                if int(found[1], 16) != SIZE * len(self.instructions):
                    raise Fault(f"one kernel at a time, and whole: {line.strip()}")
                self.instructions.append(_instruction(found, line))

    def __len__(self) -> int:
        return len(self.instructions)


def _instruction(found: re.Match, line: str) -> Instruction:
    opcode, operands = found[4], found[5].replace(".reuse", "")
    # Half of a float64's infinity is printed as a NaN, like any other: its bits are where such operands have them.
    operands = re.sub(r"[+-]QNAN", f"0x{found[6]}", operands)
    name, *modifiers = opcode.split(".")
    label = re.search(r"`\((.*?)\)", operands)
    parts = tuple(part.strip() for part in _BETWEEN.split(operands)) if operands else ()
    guard = found[2] + found[3] if found[3] else ""
    return Instruction(guard, name, tuple(modifiers), parts, label[1] if label else "", line.partition(";")[0].strip())
