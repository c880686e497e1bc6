"""``crossentropy info``: what runs here, and why something does not, in lines that can be copied into a report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path

import click
import numpy as np

from .. import __version__, backends

LIBRARIES = (
    *("numba", "numba-cuda", "torch", "jax", "scipy", "scikit-learn", "pandas", "pyarrow"),
    *("skops", "matplotlib", "ml_dtypes", "threadpoolctl"),
    *("transformers", "accelerate", "keras", "optax", "xgboost", "xgboost-cpu", "lightgbm", "dask"),
)
VARIABLES = (
    *("CROSSENTROPY_BACKEND", "CROSSENTROPY_ISA", "CROSSENTROPY_NUM_THREADS", "CROSSENTROPY_KEEP_MEMORY"),
    *("OMP_NUM_THREADS", "KMP_AFFINITY", "GOMP_CPU_AFFINITY", "OMP_PROC_BIND", "CUDA_VISIBLE_DEVICES"),
)


@click.command()
def info():
    """Show versions, backends (and why one is missing), CPU, ISA and threads: a line each, as an issue wants them."""
    for name, value in lines():
        click.echo(f"{name + ':':<22} {value}")


def lines():
    """Pairs of a name and what is to be said of it."""
    yield "crossentropy", __version__
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    yield (
        "system",
        f"{platform.system()} {platform.release()} {platform.machine()}, {' '.join(filter(None, _libc()))}".rstrip(
            ", "
        ),
    )
    yield "CPU", f"{_cpu()}, {os.cpu_count()} logical, {_usable()} usable"
    yield "NumPy", np.__version__
    for backend in backends():
        yield f"backend {backend.name}", "available" if backend.available else f"missing: {backend.reason}"
    if backends()[0].available:
        from .. import native

        yield "ISA", f"{native.current_isa()} (available: {', '.join(native.SUPPORTED_ISAS)})"
        yield "threads", f"{native.current_threads()} ({native.THREADS})"
        yield "compiler", _compiler()
        yield "OpenMP", _openmp()
    for name in LIBRARIES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]


def _libc():
    return platform.libc_ver()


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _compiler() -> str:
    """What compiled the extension: GCC and Clang leave a line of their own in it."""
    from .. import _native

    found = re.findall(rb"(?:GCC: \([^\0]*|(?:\w+ )?clang version [^\0]*)", Path(_native.__file__).read_bytes())
    return (
        ", ".join(dict.fromkeys(text.decode(errors="replace").strip() for text in found))
        or "unknown (a stripped extension)"
    )


def _openmp() -> str:
    """The OpenMP runtimes of this process."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return "unknown"
    found = re.findall(r"\S*/lib[gi]?omp[\w.-]*\.so\S*", maps.read_text())
    return ", ".join(dict.fromkeys(os.path.realpath(path) for path in found)) or "none"
