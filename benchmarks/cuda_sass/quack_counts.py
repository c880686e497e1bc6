"""What QuACK's cross-entropy issues, a logit, counted in its machine code for sm_90: `python quack_counts.py DOCUMENT`.

It needs quack-kernels and nvidia-cutlass-dsl, and no card. Its kernels have no loop over classes: what stands in them
until the last unconditional end is what each thread issues. They are not executed, since the emulator does not know
copies into shared memory and the barriers of their clusters. DOCUMENT is what cuda_compile.py has written.
"""

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

CLASSES = (1024, 4096, 16384, 65536)
OPS = {"fwd": "loss", "dx": "loss + gradient", "bwd": "gradient from saved numbers"}
THREADS = ((64, 8), (128, 16), (3072, 32), (6144, 64), (16384, 128))  # of a row in a block, as QuACK chooses them
CLUSTERS = {2: ((16384, 1), (32768, 2), (65536, 4)), 4: ((16384, 1), (65536, 2))}  # by bytes of a logit
BACKWARD_TILE = 16384  # classes that a block of the backward has


def compiled(folder: str) -> None:
    """Has QuACK leave its machine code there: autotuning, which wants a card, is of other kernels."""
    os.environ |= {
        "QUACK_ARCH": "90",
        "CUTE_DSL_ARCH": "sm_90a",
        "CUDA_VISIBLE_DEVICES": "",
        "CUTE_DSL_DUMP_DIR": folder,
    }
    os.environ |= {"CUTE_DSL_KEEP_PTX": "1", "CUTE_DSL_KEEP_CUBIN": "1", "CUTE_DSL_KEEP": "ptx,cubin"}
    tuner = types.ModuleType("quack.autotuner")
    tuner.AutotuneConfig = type("AutotuneConfig", (), {"__init__": lambda self, **given: None})
    tuner.autotune = lambda *given, **named: lambda function: function
    sys.modules["quack.autotuner"] = tuner
    from cutlass import BFloat16, Float32, Int64

    q = importlib.import_module("quack.cross_entropy")
    for dtype, name in ((BFloat16, "bfloat16"), (Float32, "float32")):
        for classes in CLASSES:
            for what in OPS:
                before = set(Path(folder).iterdir())
                if what == "bwd":
                    q.CrossEntropyBackward.compile.__wrapped__(dtype, Int64, classes, None)
                else:
                    q.CrossEntropy.compile.__wrapped__(dtype, Int64, None, classes, True, what == "dx", None, None)
                for path in set(Path(folder).iterdir()) - before:
                    path.rename(path.with_name(f"{name}-{what}-{classes}{path.suffix}"))


def counts(folder: Path, nvdisasm: Path) -> list[dict]:
    found = []
    for path in sorted(folder.glob("*float*.cubin")):
        dtype, what, classes = path.stem.split("-")
        text = subprocess.run([nvdisasm, "-c", "-ndf", "-hex", path], capture_output=True, text=True, check=True).stdout
        program = Program(text)
        last = max(k for k, i in enumerate(program.instructions) if i.name == "EXIT" and not i.guard)
        issued = sum(i.name != "NOP" for i in program.instructions[: last + 1])
        row = min(int(classes), BACKWARD_TILE) if what == "bwd" else int(classes)
        threads = next((count for most, count in THREADS if row <= most), 256)
        blocks = 1 if what == "bwd" else next(b for most, b in CLUSTERS[2 if dtype == "bfloat16" else 4] if row <= most)
        slots = round(issued * threads * blocks / row, 2)
        found.append({"op": OPS[what], "classes": int(classes), "dtype": dtype, "slots": slots})
    return found


def main(document: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        compiled(folder)
        made = counts(Path(folder), tool("nvdisasm"))
    read = json.loads(document.read_text(encoding="utf-8"))
    read["quack"] = {"version": importlib.metadata.version("quack-kernels"), "counts": made}
    tables = {name: read.pop(name) for name in ("columns", "kernels")}
    document.write_text(compact(read | tables), encoding="utf-8")


if __name__ == "__main__":
    benchmarks = Path(__file__).resolve().parent.parent
    sys.path[0:1] = [str(benchmarks / "cuda_machine_code"), str(benchmarks / "cuda_sass")]
    from compact import compact
    from machine_code import tool
    from program import Program

    main(Path(sys.argv[1]))
