"""JAX's losses beside optax's and the NumPy functions, value and gradient: `python benchmarks/jax_losses.py`.

Each case is run in processes of their own for two ways of the system with memory: as it is, where XLA gives each result
back and gets new pages, which the system clears, and kept, by glibc's own settings (docs/howto/jax.md). In each,
contenders take turns, so that other work on the machine meets all alike; a result that the next call is donated is one
of them, which has the memory of the last call as it is. Times are the least of the rounds; where much else runs, time
of the CPU, on all threads, is the better measure.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

KEPT = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 33),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}
CASES = ((4096, 32000, "float32"), (4096, 32000, "bfloat16"), (1 << 20, 10, "float32"), (32, 10, "float32"))


def contenders(rows, classes, dtype):
    """By name, functions without arguments that make a loss and its gradient."""
    import jax
    import ml_dtypes
    import numpy as np
    import optax

    import crossentropy
    from crossentropy.jax import softmax_cross_entropy_with_integer_labels as ours

    theirs, rng = optax.softmax_cross_entropy_with_integer_labels, np.random.default_rng(0)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    x, t = rng.standard_normal((rows, classes), np.float32).astype(kind), rng.integers(classes, size=rows)
    there, labels, out = jax.device_put(x), jax.device_put(t.astype(np.int32)), np.empty_like(x)

    def by_jax(loss):
        call = jax.jit(jax.value_and_grad(lambda x: loss(x, labels).mean()))
        return lambda: jax.block_until_ready(call(there))

    def donated(loss):
        def of(x, last):
            return jax.value_and_grad(lambda x: loss(x, labels).mean())(x)

        call, last = jax.jit(of, donate_argnums=1, keep_unused=True), [jax.numpy.zeros_like(there)]

        def run():
            _, last[0] = jax.block_until_ready(call(there, last[0]))

        return run

    def new_memory():
        with crossentropy.config(keep_memory=False):
            crossentropy.cross_entropy_and_grad(x, t)

    return {
        "here": by_jax(ours),
        "optax": by_jax(theirs),
        "here, donated": donated(ours),
        "optax, donated": donated(theirs),
        "NumPy": lambda: crossentropy.cross_entropy_and_grad(x, t),
        "NumPy, new memory": new_memory,
        "NumPy, out=": lambda: crossentropy.cross_entropy_and_grad(x, t, out=out),
        "copy": lambda: np.copyto(out, x),
    }


def measure(rows, classes, dtype, rounds):
    """Print what each takes: milliseconds, those of the CPU, of the system among these, and page faults."""
    calls = contenders(rows, classes, dtype)
    repeats = max(1, 20_000 // (rows * classes))
    found = {name: [] for name in calls}
    for n in range(rounds + 1):
        for name, call in calls.items():
            before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            for _ in range(repeats):
                call()
            wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
            system = after.ru_stime - before.ru_stime
            cpu = system + after.ru_utime - before.ru_utime
            if n:
                found[name].append((wall, cpu, system, after.ru_minflt - before.ru_minflt))
    for name, of_rounds in found.items():
        wall, cpu, system, faults = (min(column) / repeats for column in zip(*of_rounds, strict=True))
        times = "".join(
            f"{1e3 * seconds:10.3f} ms {of}" for seconds, of in ((wall, ""), (cpu, "CPU"), (system, "system"))
        )
        print(f"  {name:18}{times} {faults:8.0f} faults", flush=True)


def main():
    """Run every case in both ways, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--case", nargs=3, metavar=("ROWS", "CLASSES", "DTYPE"), help="this one alone, in this process")
    asked = parser.parse_args()
    if asked.case:
        rows, classes, dtype = asked.case
        measure(int(rows), int(classes), dtype, asked.rounds)
        return
    for case in CASES:
        for way, more in (("as it is", {}), ("kept by glibc", KEPT)):
            rows, classes, dtype = map(str, case)
            print(f"{rows} x {classes}, {dtype}, memory {way}:", flush=True)
            command = [sys.executable, __file__, "--rounds", str(asked.rounds), "--case", rows, classes, dtype]
            subprocess.run(command, env=os.environ | more, check=True)


if __name__ == "__main__":
    main()
