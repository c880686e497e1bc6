"""A process of one contender: ``python -m crossentropy.bench.linear.worker CASE FOLDER NAME THREADS``.

It answers each line that it reads by one of JSON: "first" by a sample of the result, "memory" by the bytes at the peak
of a call beyond the inputs, "time" by the seconds of one.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

from ... import empty_cache
from ..runner import SHORTEST, WARM_BELOW
from .cases import Case, read
from .contenders import CONTENDERS
from .records import sampled

STATUS = Path("/proc/self/status")


def _bytes(field: str) -> int:
    line = next(each for each in STATUS.read_text().splitlines() if each.startswith(field))
    return int(line.split()[1]) << 10


def _peak_of(call) -> tuple[int | None, object]:
    """The bytes at the peak of a call beyond what was there before it, where the system tells; and its result."""
    gc.collect()
    empty_cache()  # what earlier calls have left for this one
    _trim()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
        before = _bytes("VmRSS")
    except OSError:
        return None, call()
    result = call()
    return _bytes("VmHWM") - before, result


def _seconds(call) -> float:
    """What a call takes; short ones are made once more before, and repeated (see bench/runner.py)."""
    start = time.perf_counter()
    result = call()
    once = time.perf_counter() - start
    if once >= WARM_BELOW:
        return once
    del result
    number = max(1, int(10 * SHORTEST / once))
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def _trim() -> None:
    """What was freed goes back to the system: else a call that takes it again seems to take nothing."""
    import ctypes

    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # no GNU C library
        return


def serve(case: Case, folder: Path, name: str, threads: int, requests, answer) -> None:
    """Answer requests until there are no more."""
    contender, p = CONTENDERS[name], read(case, folder)
    small = contender.prepare(p.smaller, threads)
    small.call()  # threads and libraries are started by it
    ready, memory = contender.prepare(p, threads), None
    if contender.compiles:
        ready.call()
    del small
    for request in requests:
        if request.strip() == "first":
            memory, result = _peak_of(ready.call)
            memory = None if memory is None else memory + sum(a.nbytes for a in ready.given)
            answer(sampled(p, *ready.arrays(result)) if ready.arrays else None)
        elif request.strip() == "memory":
            answer(memory)
        else:
            answer(_seconds(ready.call))
        result = None  # before the next call, so that it is not held beside that one's


def main() -> None:
    """Serve standard input; what libraries print there does not reach standard output."""
    case, folder, name, threads = sys.argv[1:]
    op, shape, dtype, option = json.loads(case)
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value):
        print(json.dumps({"answer": value}), file=lines, flush=True)

    try:
        serve(Case(op, tuple(shape), dtype, option), Path(folder), name, int(threads), sys.stdin, answer)
    except Exception as error:  # whatever a library raises: the others are timed
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=lines, flush=True)


if __name__ == "__main__":
    main()
