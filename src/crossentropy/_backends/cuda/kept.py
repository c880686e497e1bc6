"""Compiled kernels kept on disk: PTX by what it is made from, so that Numba compiles a kernel once on a machine.

What it is made from is the source of the package's kernels, the kernel's own parameters, the compute capability and the
versions of the compilers. A file that cannot be read or written is as none: then the kernel is compiled.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

COMPILERS = ("numba-cuda", "numba", "llvmlite", "nvidia-nvvm", "nvidia-cuda-nvcc-cu12")


def folder() -> Path:
    """Where kernels are kept: in Numba's own folder where NUMBA_CACHE_DIR names one, else in the user's."""
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(chosen, "crossentropy-cuda")
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "crossentropy", "cuda")


def _of_sources():
    """A digest of the sources that kernels are made from, as they are now."""
    found, here = hashlib.sha256(), Path(__file__).resolve().parent
    for path in sorted([*here.glob("*.py"), *here.parent.glob("*.py"), here.parent.parent / "_options.py"]):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found


_sources = _of_sources()  # at once: those that are edited later are not those that are imported


@functools.cache
def _made_with() -> bytes:
    """A digest of the sources and of the compilers' versions."""
    found = _sources.copy()
    for name in COMPILERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    if not _has_nvvm():
        from numba.cuda.cudadrv import nvvm

        found.update(repr(nvvm.NVVM().get_version()).encode())
    return found.digest()


def _has_nvvm() -> bool:
    """Whether NVVM is a package, whose version is known without loading it."""
    for name in COMPILERS[3:]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            return True
    return False


def kept(of: object, compiled: Callable[[], str]) -> str:
    """The text that ``compiled`` gives, from disk where it is there; ``of`` tells it from others by its repr."""
    try:
        name = hashlib.sha256(_made_with() + repr(of).encode()).hexdigest()
        path = folder() / f"{name}.ptx.z"
        return zlib.decompress(path.read_bytes()).decode()
    except (OSError, RuntimeError, UnicodeDecodeError, zlib.error):  # RuntimeError: there is no home
        text = compiled()
    with contextlib.suppress(OSError, RuntimeError, UnboundLocalError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Under a name of its own, and then under the right one: another process never finds half of it.
        handle, part = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(zlib.compress(text.encode(), 1))
            os.replace(part, path)
        except OSError:
            os.unlink(part)
    return text
