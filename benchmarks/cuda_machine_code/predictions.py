"""The times to be expected of the kernels on a card: by the bytes that they move, and by what they issue.

The larger of the two is what to expect. What a kernel issues is counted by executing its machine code (cuda_sass/).
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from machine_code import by_ptxas, prepare, registers_of
from units import CARD

from crossentropy._backends.cuda import driver, launch
from crossentropy._backends.cuda.arguments import values_of
from crossentropy._backends.cuda.kernels import Result
from crossentropy.testing import dtypes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cuda_sass"))
from card_times import CARDS, SCHEDULERS, milliseconds
from counts import counted, logits

L2 = 50e6  # bytes, of an H100
SIZES = {"bfloat16": 2, "float32": 4}
PLACES = (
    (32768, 1024), (32768, 4096), (32768, 16384), (16384, 50257), (32768, 65536), (16384, 131072), (8192, 262144)
)  # fmt: skip
OPS = ("loss", "loss + gradient", "gradient from saved numbers", "probability targets", "smoothing")


__all__ = ("CARDS", "L2", "SCHEDULERS", "predictions")


def result_of(op: str, kind: str) -> Result:
    if op == "loss":
        return Result(loss=True)
    if op == "gradient from saved numbers":
        return Result(reads="statistics", writes="gradient")
    beside = op == "probability targets"
    return Result(loss=True, writes="gradient", spreads=beside or op == "smoothing", q=kind if beside else "")


def shape_of(kind: str, classes: int, op: str) -> tuple:
    """(how rows that begin at multiples of 16 bytes are shared out, what is computed of them) by a plain call."""
    result = result_of(op, kind)
    limit = launch.limit_for(kind, result)
    return launch.shape_for(-(-classes * SIZES[kind] // 16), False, limit, True, limit), result._replace(plain=True)


def predicted(op: str, rows: int, classes: int, kind: str, known: dict) -> dict:
    """The time of an operation by what it issues, and by bytes, each array once; how often its kernel reads again.

    ``known`` is the same of before, and is given back where the kernel has the same instructions.
    """
    beside, size = op == "probability targets", SIZES[kind]
    result, h100 = result_of(op, kind), CARDS["H100"]
    vectors, array = -(-classes * size // 16), rows * classes * size
    whole = classes * size % 16 == 0
    part = launch.part_for(rows, vectors, h100.multiprocessors, True)
    limit = launch.limit_for(kind, result)
    shape = launch.shape_for(part, False, limit if whole else 0, part == vectors, limit)
    # Beside targets, a row is looked at for its maximum and sum, for their weight, and for what is written.
    again = (3 if beside else 1) if result.writes and result.reads == "row" and not shape.kept else 2 if beside else 0
    again += op == "smoothing"
    once = array * (3 if beside else 2 if result.writes else 1)
    at_once = h100.multiprocessors * launch.blocks_at_once(kind, shape, result) // shape.blocks
    flight = at_once * shape.rows * classes * size * (2 if beside else 1)
    found = {
        "op": op, "rows": rows, "classes": classes, "dtype": kind, "shape": list(shape),
        "bytes": once, "again": again, "working": flight, "fits_l2": flight <= L2,
    }  # fmt: skip
    if not whole:
        classes = classes - 1  # rows that begin at an odd place, as all do but for one in eight
    # The same PTX is assembled for later cards, and comes to the same counts but for an instruction or two a row.
    counts = counts_of(kind, shape, result._replace(plain=True), classes, whole, CARD, known)
    if counts is None:
        return known
    found |= {
        "slots": round(counts.slots, 2),
        "by_unit": {unit: round(value, 2) for unit, value in sorted(counts.by_unit.items())},
        "of_classes": round(counts.of_classes, 2), "of_rows": round(counts.of_rows, 2),
        "in_flight": counts.in_flight, "instructions": counts.instructions,
        "code": counts.code,
    }  # fmt: skip
    moved_bytes = once + (0 if found["fits_l2"] else again * array)
    for name, card in CARDS.items():
        issue, moved = milliseconds(card, counts, rows * classes, moved_bytes)
        found[name] = {"ms_issue": round(issue, 4), "ms_bytes": round(moved, 4)}
    return found


def counts_of(kind, shape, result, classes, whole, capability, known):
    """Counts of a kernel, None where they are known; ``whole``: rows begin at multiples of 16."""
    asked, dtype, size = launch.compiled(0, kind, shape, result), dtypes()[kind], SIZES[kind]
    text = driver.ptx_of(asked.function, asked.arguments, (asked.threads, asked.at_once), (9, 0), asked.of)
    registers = registers_of(by_ptxas(text, capability)[1])

    def arrays(memory, n):
        x = logits(n, classes, dtype)
        past = 0 if whole else size
        step = size * classes if whole else -(-size * classes // 16) * 16  # each row as far past a multiple of 16

        def rows_of(a):
            if whole:
                return memory.put(a)
            room = memory.room(n * step, past)
            for k, row in enumerate(a.view(np.uint8)):
                room[k * step : k * step + len(row)] = row
            memory.register(room.ctypes.data, n * step)
            return room.ctypes.data

        given = {"rows": n, "inner": n, "classes": classes, "part_classes": classes}
        wide = {"x": x, "out": np.zeros_like(x)} | ({"q": np.full_like(x, 1 / classes)} if result.q else {})
        for name, a in wide.items():
            given |= {name: rows_of(a), f"{name}_row": step, f"{name}_class": size}
        if not result.q:
            y = np.random.default_rng(2).integers(0, classes, n)
            given |= {"targets": memory.put(y), "targets_row": 8, "target_size": -8}
        given["loss"] = memory.put(np.zeros(n, np.float32))
        kept = np.stack([x.astype(np.float32).max(1), np.full(n, 3.0), np.zeros(n)], 1).astype(np.float32)
        given["statistics"] = memory.put(kept)
        if result.spreads and not result.q:
            given["label_smoothing"] = 0.1
        return values_of(given, result)

    return counted(asked, capability, registers, shape.rows, classes, arrays, known)


def named(p: dict) -> str:
    """What a prediction is of: "32768 x 4096, bfloat16, loss"."""
    return f"{p['rows']} x {p['classes']}, {p['dtype']}, {p['op']}"


def predictions(before: list[dict] = (), only: str = "") -> Iterator[dict]:
    """One after another: each takes seconds. Of ``before`` those remain whose kernels are the same.

    Only those are made whose names have this regular expression; others remain as they were.
    """
    prepare()
    known = {named(p): p for p in before}
    for kind in SIZES:
        for rows, classes in PLACES:
            for op in OPS:
                name = named({"rows": rows, "classes": classes, "dtype": kind, "op": op})
                if re.search(only, name):
                    yield predicted(op, rows, classes, kind, known.get(name, {}))
                elif name in known:
                    yield known[name]
