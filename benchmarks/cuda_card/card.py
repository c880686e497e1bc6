"""What the machine is: a record of the card and of the libraries' versions."""

import contextlib
import importlib.metadata
import platform
import subprocess
import sys

import lines

LIBRARIES = ("numpy", "numba", "numba-cuda", "cuda-core", "cuda-bindings", "torch", "triton")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def versions() -> dict[str, str]:
    import crossentropy

    found = {"crossentropy": crossentropy.__version__, "Python": platform.python_version()}
    for name in (*LIBRARIES, *CUPY):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def driver() -> str | None:
    """The driver's version, by NVIDIA's tool."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def machine() -> dict:
    import torch

    if not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here")
    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "compute_capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_gb": round(found.total_memory / 1e9, 1),
        "l2_mb": round(getattr(found, "L2_cache_size", 0) / 1e6, 1),
        "driver": driver(),
        "cuda": torch.version.cuda,
        "system": platform.system(),
    }


if __name__ == "__main__":
    rehearsed = {"gpu": "a rehearsal", "system": platform.system()}
    found = rehearsed if "--rehearse" in sys.argv else machine()
    lines.record("machine", **found)
    lines.record("versions", **versions())
    lines.say(", ".join(f"{name} {value}" for name, value in (found | versions()).items()))
