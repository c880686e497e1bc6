"""What a kernel issues, a logit: by the units that execute it, for its classes and for its rows; and its loads.

A slot is an instruction of one thread: a multiprocessor has 128 of them a clock, however many of a warp's threads do
something. Counts are of the rows that follow the first of a block, so that what a block does once is spread over all.
"""

import hashlib
import re
from collections import Counter
from typing import NamedTuple

import numpy as np
from emulated import Code
from memory import Memory

LANES = 32  # of a warp
REGISTERS, MOST_THREADS, MOST_BLOCKS = 65536, 2048, 32  # of a multiprocessor
UNITS = {  # instructions by what executes them; what is not here is the integer unit's
    "fma": ("FADD", "FMUL", "FFMA", "IMAD", "HFMA2", "HADD2", "FADD2", "FMUL2", "FFMA2", "HMUL2"),
    "double": ("DADD", "DMUL", "DFMA", "DSETP"),
    "special": ("MUFU", "I2F", "F2I", "FCHK", "F2F"),
    "memory": ("LDG", "STG", "LDS", "STS", "SHFL", "LD", "ST", "STAS", "LDL", "STL", "LDC"),
    "control": (
        "BRA", "BSSY", "BSYNC", "EXIT", "CALL", "RET", "BAR", "NOP", "MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL",
        "UCGABAR_ARV", "UCGABAR_WAIT", "SYNCS", "NANOSLEEP", "WARPSYNC", "YIELD", "S2R", "S2UR", "CS2R",
    ),
}  # fmt: skip
_UNIT = {name: unit for unit, names in UNITS.items() for name in names}
MEETINGS = ("SHFL", "REDUX", "BAR", "UCGABAR_WAIT", "SYNCS", "LDS", "STS", "ST", "STAS", "VOTE")


def unit_of(name: str) -> str:
    if name in _UNIT:
        return _UNIT[name]
    return "uniform" if name.startswith("U") or name in ("R2UR", "LDCU", "VOTEU") else "integer"


class Counts(NamedTuple):
    """Of a kernel, for rows of so many classes."""

    slots: float  # a logit
    by_unit: dict[str, float]  # the same, by `UNITS`
    of_classes: float  # of these, what is done for each class
    of_rows: float  # and for each row and thread
    loads: int  # of 16 bytes, that a thread has on their way when it waits for the first of them
    threads: int  # that a multiprocessor has at once
    instructions: int  # of the kernel
    code: str  # a digest of them, by which it can be told what was counted

    @property
    def in_flight(self) -> int:
        """Bytes that are on their way to a multiprocessor."""
        return 16 * self.loads * self.threads


def digest(program) -> str:
    """Of a kernel's instructions, without the names of things."""
    text = "\n".join(" ".join((i.guard, i.opcode, *i.operands)) for i in program.instructions)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def counted(asked, capability: int, registers: int, rows: int, classes: int, arrays, known: dict) -> Counts | None:
    """Of a kernel of rows. ``arrays(memory, n)`` are the values for n rows; each block has ``rows`` at once.

    None where ``known``, a prediction, is of the same instructions.
    """
    code = Code(asked, capability)
    made = digest(code.program)
    if known.get("code") == made:
        return None
    once, twice = (_issued(code, arrays, turns * rows) for turns in (1, 2))
    each = twice.issued - once.issued
    unit, slots = Counter(), LANES / (rows * classes)
    for i, count in zip(code.program.instructions, each, strict=True):
        unit[unit_of(i.name)] += count * slots
    of_classes = _for_classes(code.program, once.order, each) * slots
    total = each.sum() * slots
    at_once = REGISTERS // (-(-registers // 8) * 8) // asked.threads
    at_once = min(at_once, MOST_THREADS // asked.threads, MOST_BLOCKS)
    return Counts(
        float(total), {name: float(value) for name, value in unit.items()}, float(of_classes),
        float(total - of_classes), _loads(code.program, once.order), at_once * asked.threads, len(code.program), made,
    )  # fmt: skip


def _issued(code, arrays, n):
    memory = Memory()
    return code.run(arrays(memory, n), memory)


def _is(i, name, size="128") -> bool:
    return i.name == name and size in i.modifiers


def _for_classes(program, order, each) -> float:
    """What is issued after loads of 16 bytes until threads meet, and from the first store of 16 bytes on."""
    found = before = written = 0
    stores, of_class, loaded = 0, False, False
    for at in order:
        i = program.instructions[at]
        if _is(i, "STG"):
            stores += 1
        elif _is(i, "LDG"):
            of_class = loaded = True
        elif i.name in MEETINGS:
            of_class = loaded = False
        if stores:
            written += each[at]
        elif of_class:
            found += each[at]
        else:
            before += each[at]
    # The first vector's results are computed before the first store.
    share = written / (stores - 1) if stores > 1 and not loaded else 0
    return found + written + min(share, before)


def _loads(program, order) -> int:
    """The most loads of 16 bytes that follow each other with no use of what they load."""
    most, loaded = 0, []
    for at in order:
        i = program.instructions[at]
        registers = {int(n) for n in re.findall(r"(?<![U\w])R(\d+)", " ".join(i.operands))}
        if _is(i, "LDG"):
            first = int(i.operands[0][1:])
            loaded.append(range(first, first + 4))
        elif any(r in those for r in registers for those in loaded):
            loaded = []
        most = max(most, len(loaded))
    return most


def logits(rows: int, classes: int, dtype) -> np.ndarray:
    """Ordinary ones."""
    return (np.random.default_rng(1).standard_normal((rows, classes)) * 2).astype(dtype)
