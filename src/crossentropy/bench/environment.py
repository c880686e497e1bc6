"""What a run was measured on: the machine as it names itself, and the versions of the libraries."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path

from .. import __version__, native

DISTRIBUTIONS = (
    *("numpy", "numba", "torch", "jax", "optax", "tensorflow", "tensorflow-cpu", "onnxruntime"),
    *("scipy", "scikit-learn"),
)


def machine() -> dict:
    """CPU, cores, caches and system, as the system names them."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size
    return {
        "cpu": named[1] if named else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "threads": native.current_threads(),
        "isas": list(native.SUPPORTED_ISAS),
        "caches": caches,
        "system": platform.system(),
    }


def versions() -> dict:
    """Of Python, of this package, and of the libraries it is measured with, where they are installed."""
    found = {"crossentropy": __version__, "Python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
