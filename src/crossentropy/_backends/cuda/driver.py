"""Kernels compiled for the current device, and started with as little ado as there can be."""

from __future__ import annotations

import ctypes
import functools
import gc
import re

import numpy as np
from numba import cuda
from numba.core import config
from numba.cuda import types

from .kept import kept

NEWEST = (9, 0)  # compute capability that NVVM compiles for
SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    REALS = {types.float32: np.float32, types.float64: np.float64}
else:
    REALS = {types.float32: ctypes.c_float, types.float64: ctypes.c_double}

if not SIMULATED:
    from cuda.core import LaunchConfig, ObjectCode, Stream, launch

    # Numba's own call prepares each argument in Python; this one hands all of them to the driver at once.
    _stream = functools.lru_cache(64)(Stream.from_handle)


def ptx_of(function, arguments, bounds: tuple[int, int], capability: tuple[int, int], of: tuple | None = None) -> str:
    """A kernel as PTX; ``of`` is what it is made of, by which it is kept on disk (None: it is not kept)."""

    def compiled():
        # What compiles keeps what it makes, so that looking for garbage meanwhile takes a quarter of the time.
        collects = gc.isenabled()
        gc.disable()
        try:
            text, _ = cuda.compile(
                function, types.void(*arguments), device=False, abi="numba", output="ptx", cc=capability,
                launch_bounds=bounds,
            )  # fmt: skip
        finally:
            if collects:
                gc.enable()
        return text

    return compiled() if of is None else kept((of, arguments, bounds, capability), compiled)


def _assembled(function, arguments, bounds, of):
    """A kernel as the driver assembles it from PTX: whole, and from NVVM for compute capability 9.0 at most.

    Numba's own way links at the end, and nvJitLink then optimizes anew, or assembles PTX as if it were to be called
    from elsewhere: about half of the kernels spill, or have in memory what a thread keeps of a row
    (``benchmarks/cuda_compile.py --way link`` lists them). Later capabilities have another NVVM, which does not unroll
    the loops over registers, and what they hold ends up in memory.
    """
    text = ptx_of(function, arguments, bounds, min(tuple(cuda.get_current_device().compute_capability), NEWEST), of)
    (name,) = re.findall(r"\.entry\s+(\w+)", text)
    try:
        return ObjectCode.from_ptx(text.encode()).get_kernel(name)
    except Exception:  # A driver older than the toolkit refuses its PTX, by an error that cuda.core does not export.
        signature = types.void(*arguments)
        (compiled,) = cuda.jit(signature, launch_bounds=bounds)(function).overloads.values()
        return compiled._codelibrary.get_cufunc().kernel


class Kernel:
    """A kernel compiled for the current device.

    ``arguments`` are types; one NamedTuple type alone stands for its fields, which are passed one by one. ``at_once``
    blocks are to fit on a multiprocessor, which bounds the registers; ``cluster`` blocks make a cluster. ``of`` is all
    that the function is made of, which with the sources tells it from every other.
    """

    def __init__(self, function, arguments, threads: int, at_once: int = 1, cluster: int = 1, of=None):
        self._threads, self._cluster = threads, cluster
        self._record = arguments[0] if isinstance(arguments[0], types.NamedTuple) else None
        fields = self._record.types if self._record else arguments
        self._reals = {i: REALS[kind] for i, kind in enumerate(fields) if kind in REALS}
        if SIMULATED:
            self._kernel = cuda.jit(types.void(*arguments))(function)
        else:
            self._handle = _assembled(function, arguments, (threads, at_once), of)

    def real_at(self, i: int):
        """What makes a number into argument i, which is a real one."""
        return self._reals[i]

    def prepare(self, grid: int, values: list):
        """(start, values): ``start(stream, values)`` launches so many clusters of blocks, with values like these."""
        values = list(values)
        for i, kind in self._reals.items():
            values[i] = kind(values[i])
        if SIMULATED:  # a cluster is one block there, of all its blocks' threads
            kernel, threads = self._kernel, self._threads * self._cluster
            given = (lambda values: [self._record.instance_class(*values)]) if self._record else list
            return lambda stream, values: kernel[grid, threads, stream](*given(values)), values
        config, handle = LaunchConfig(grid=grid * self._cluster, block=self._threads), self._handle
        return lambda stream, values: launch(_stream(stream), config, handle, *values), values


def device() -> int:
    """The current device, whose context is this thread's after this call."""
    return 0 if SIMULATED else cuda.current_context().device.id


@functools.cache
def devices() -> int:
    """How many devices there are."""
    return 1 if SIMULATED else len(cuda.gpus)


@functools.cache
def multiprocessors(device: int) -> int:
    """How many multiprocessors the device has."""
    return 1 if SIMULATED else cuda.gpus[device].MULTIPROCESSOR_COUNT


@functools.cache
def has_clusters(device: int) -> bool:
    """Whether blocks may work together: from compute capability 9.0 on."""
    return False if SIMULATED else cuda.gpus[device].compute_capability >= (9, 0)
