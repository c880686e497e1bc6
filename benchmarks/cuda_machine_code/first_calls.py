"""How long the first call of a kernel takes, in seconds of a CPU, and how long where it is kept on disk.

Each kernel is compiled in a process of its own, as the first of it and after another; a second process finds both on
disk. What is counted is the process's own time, so that what else runs on the machine matters little.
"""

import multiprocessing
import os
import resource
import tempfile
import time

from machine_code import by_ptxas, prepare
from predictions import shape_of

from crossentropy._backends.cuda import driver, launch

KERNELS = (  # what each call needs, and the call before it
    (("bfloat16", 4096, "loss"), ("bfloat16", 1024, "loss")),
    (("bfloat16", 4096, "loss + gradient"), ("bfloat16", 1024, "loss")),
    (("float32", 4096, "loss + gradient"), ("float32", 1024, "loss")),
    (("bfloat16", 65536, "loss + gradient"), ("bfloat16", 4096, "loss + gradient")),
    (("bfloat16", 4096, "smoothing"), ("bfloat16", 4096, "loss")),
)


def _compiled(kind, classes, op):
    """(seconds until there is PTX, of these NVVM's, seconds of ptxas)."""
    from numba.cuda.cudadrv import nvvm

    spent, original = [0.0], nvvm.compile_ir

    def timed(*given, **named):
        start = time.process_time()
        made = original(*given, **named)
        spent[0] += time.process_time() - start
        return made

    nvvm.compile_ir = timed
    try:
        start = time.process_time()
        asked = launch.compiled(0, kind, *shape_of(kind, classes, op))
        text = driver.ptx_of(asked.function, asked.arguments, (asked.threads, asked.at_once), (9, 0), asked.of)
        seconds = time.process_time() - start
    finally:
        nvvm.compile_ir = original
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    by_ptxas(text, 90)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, spent[0], after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _in_order(kernels):
    return [_compiled(*kernel) for kernel in kernels]


def first_calls() -> list[dict]:
    """A record for each kernel."""
    found, context = [], multiprocessing.get_context("spawn")
    for kernel, other in KERNELS:
        record = dict(zip(("dtype", "classes", "op"), kernel, strict=True))
        for order, name in (((kernel,), "first"), ((other, kernel), "after another")):
            with tempfile.TemporaryDirectory() as folder:
                os.environ["NUMBA_CACHE_DIR"] = folder
                for state in ("compiled", "kept"):
                    with context.Pool(1, prepare) as pool:
                        seconds, nvvm, assembled = pool.apply(_in_order, (order,))[-1]
                    numbers = {"seconds": seconds} if state == "kept" else {"numba": seconds - nvvm, "nvvm": nvvm}
                    if state == "compiled":
                        numbers |= {"seconds": seconds, "ptxas": assembled}
                    record[f"{name}, {state}"] = {key: round(value, 4) for key, value in numbers.items()}
        found.append(record)
    return found
