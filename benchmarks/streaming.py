"""Logits in a file, larger than what is in memory at a time: each way through them beside one call on them all.

    python benchmarks/streaming.py                          # 12288 rows of 50257 classes, float32: 2.5 GB on disk
    python benchmarks/streaming.py --rows 256 --classes 5000 --rounds 3

The file is made in a temporary folder (TMPDIR says where) and read once, so that it lies in the page cache where that
has room. All ways take turns, round by round. Of each, GB of logits a second by the least time of all rounds, and that
rate beside the one of the call: by the least times, by the median over the rounds, and by processor time, which others
that compute on the machine change least.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np

import crossentropy
from crossentropy.dask import cross_entropy, evaluate, from_memmap

AT_ONCE = 256  # rows that are drawn; the file repeats them


def made(folder, rows, classes):
    """(a memmap of logits, targets)."""
    rng = np.random.default_rng(0)
    some = rng.standard_normal((min(AT_ONCE, rows), classes), dtype=np.float32)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, classes)}
    with open(Path(folder) / "logits.npy", "wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for first in range(0, rows, AT_ONCE):
            file.write(some[: rows - first].data)
    return np.load(Path(folder) / "logits.npy", mmap_mode="r"), rng.integers(0, classes, rows)


def ways(logits, targets):
    """What takes turns, by name, with the bytes that it reads: the call first, to which the others are held."""
    (rows, classes), size = logits.shape, logits.nbytes

    def chunks(of_rows, of_classes=classes):
        return from_memmap(logits, chunks=(min(of_rows, rows), min(of_classes, classes)))

    found = {
        "cross_entropy(memmap)": (lambda: crossentropy.cross_entropy(logits, targets), size),
        "Evaluation().update(memmap)": (lambda: crossentropy.Evaluation().update(logits, targets), size),
    }
    for cut in ((256,), (512, 8192), (4096, 2048)):
        name = f"dask.cross_entropy, chunks {cut[0]} x {cut[1] if len(cut) > 1 else 'all'}"
        found[name] = cross_entropy(chunks(*cut), targets).compute, size
    held = np.array(logits[: max(rows // 4, 1)])  # memory is read block by block; a file that is cut so is read by rows
    for cut in ((512, 8192), (4096, 2048)):
        some = da.from_array(held, chunks=(min(cut[0], len(held)), min(cut[1], classes)))
        name = f"dask.cross_entropy, chunks {cut[0]} x {cut[1]} of an array"
        found[name] = cross_entropy(some, targets[: len(held)]).compute, held.nbytes
    for cut in ((256,), (512, 8192)):
        name = f"dask.evaluate, chunks {cut[0]} x {cut[1] if len(cut) > 1 else 'all'}"
        found[name] = evaluate(chunks(*cut), targets).compute, size
    return found


def seconds(way):
    """(by the clock, of the processor)."""
    began, used = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - began, max(time.process_time() - used, 1e-9)


def main(arguments=None):
    """Make the file, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 12288), ("classes", 50257), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="threads"):
        logits, targets = made(folder, options.rows, options.classes)
        taken = ways(logits, targets)
        times = {name: [] for name in taken}
        for turn in range(options.rounds + 1):
            for name, (way, size) in taken.items():
                found = [size / 1e9 / took for took in seconds(way)]
                times[name] += [found] if turn else []
    print(f"{options.rows} x {options.classes} float32, {logits.nbytes / 1e9:.2f} GB, {os.cpu_count()} CPUs")
    call, *_ = times.values()
    best = [max(rates) for rates in zip(*call, strict=True)]
    for name, found in times.items():
        clock, used = (max(rates) for rates in zip(*found, strict=True))
        median = statistics.median(b[0] / a[0] for a, b in zip(call, found, strict=True))
        print(
            f"{name:52s} {clock:6.2f} GB/s; of the call's rate {clock / best[0]:.2f} at best, {median:.2f} median, "
            f"{used / best[1]:.2f} by processor time"
        )


if __name__ == "__main__":
    main()
