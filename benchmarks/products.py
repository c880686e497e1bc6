"""The three products of a linear cross-entropy: each unit's GFLOP/s beside NumPy's matmul and torch.mm.

    python benchmarks/products.py                     # every size of the table, a minute or two each
    python benchmarks/products.py 512 1024 32000      # rows, H, V

All contenders take turns, round by round; medians and, in brackets, the best.
torch.mm of bfloat16 rounds its results to bfloat16; ours are float32, and for the two products of the gradient ours
round it, which is float32, too: torch's is given in bfloat16 already.
"""

import sys
import time

import ml_dtypes
import numpy as np
import torch

from crossentropy.linear import own

SIZES = ((512, 1024, 32000), (512, 768, 50257), (512, 2048, 128256))
KINDS = ("logits", "hidden", "weight")


def contenders(dtype, rows, width, classes):
    """By kind, then by name: what does the product."""
    rng = np.random.default_rng(0)
    kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    x = rng.standard_normal((rows, width), np.float32).astype(kind)
    w = (rng.standard_normal((classes, width), np.float32) / width**0.5).astype(kind)
    grad = rng.standard_normal((rows, classes), np.float32) * np.float32(1e-3)
    # at a multiple of 64 bytes, as torch's tensors are
    outs = [torch.zeros(shape).numpy() for shape in ((rows, classes), (rows, width), (classes, width))]
    found = {each: {} for each in KINDS}
    for unit in own.units(dtype):
        if unit in ("avx2", "base") and dtype != "float32":
            continue
        found["logits"][unit] = lambda unit=unit: own.logits(x, w, outs[0], unit=unit)
        found["hidden"][unit] = lambda unit=unit: own.hidden(grad, w, outs[1], unit=unit)
        found["weight"][unit] = lambda unit=unit: own.weight(grad, x, outs[2], unit=unit)
    if dtype == "float32":
        found["logits"]["NumPy"] = lambda: np.matmul(x, w.T, out=outs[0])
        found["hidden"]["NumPy"] = lambda: np.matmul(grad, w, out=outs[1])
        found["weight"]["NumPy"] = lambda: np.matmul(grad.T, x, out=outs[2])
    as_torch = getattr(torch, dtype)
    tx, tw, tgrad = (
        torch.from_numpy(each.view(np.uint16) if each.dtype.itemsize == 2 else each).view(as_torch)
        for each in (x, w, grad.astype(kind))
    )
    touts = [torch.zeros(out.shape, dtype=as_torch) for out in outs]
    found["logits"]["torch"] = lambda: torch.mm(tx, tw.T, out=touts[0])
    found["hidden"]["torch"] = lambda: torch.mm(tgrad, tw, out=touts[1])
    found["weight"]["torch"] = lambda: torch.mm(tgrad.T, tx, out=touts[2])
    return found


def measure(functions, rounds):
    """Seconds of each function in each round, after one that does not count."""
    times = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def main():
    """Print a line for each product, and for all three."""
    sizes = [tuple(map(int, sys.argv[1:4]))] if len(sys.argv) > 3 else SIZES
    for size in sizes:
        operations = 2 * size[0] * size[1] * size[2]
        for dtype in ("float32", "bfloat16"):
            total = {}
            for kind, functions in contenders(dtype, *size).items():
                slow = {name for name in functions if name == "base"}
                functions = {name: each for name, each in functions.items() if name not in slow}
                times = measure(functions, 7)
                for name, each in times.items():
                    total[name] = total.get(name, 0) + np.median(each)
                line = "  ".join(
                    f"{name} {operations / np.median(each) / 1e9:.0f} [{operations / min(each) / 1e9:.0f}]"
                    for name, each in times.items()
                )
                print(f"{size} {dtype} {kind}: {line}", flush=True)
            line = "  ".join(f"{name} {1e3 * each:.1f}" for name, each in total.items())
            print(f"{size} {dtype} all three, ms: {line}", flush=True)


if __name__ == "__main__":
    main()
