"""Kernels that run without a card, in the place of `driver.Kernel`: the package's own, compiled, then emulated."""

import ctypes
import re
from types import SimpleNamespace

import numpy as np
from machine import Machine
from machine_code import Asked, by_ptxas
from memory import Memory
from numba.cuda import codegen, types
from program import Program
from units import CARD

from crossentropy._backends.cuda import driver

_PACKED = {types.float32: np.float32, types.float64: np.float64}
_REALS = {types.float32: ctypes.c_float, types.float64: ctypes.c_double}


class Code:
    """The machine code of a kernel for a compute capability."""

    def __init__(self, asked: Asked, capability: int):
        bounds, compiler = (asked.threads, asked.at_once), divmod(min(capability, CARD), 10)
        text = driver.ptx_of(asked.function, asked.arguments, bounds, compiler, asked.of)
        binary, said = by_ptxas(text, capability)
        self.program = Program(codegen.run_nvdisasm(SimpleNamespace(code=binary), ["-c", "-ndf", "-hex"]))
        self.shared = sum(map(int, re.findall(r"(\d+) bytes smem", said)))
        self.asked, self.capability = asked, capability
        record = asked.arguments[0] if isinstance(asked.arguments[0], types.NamedTuple) else None
        self.types = record.types if record else asked.arguments

    def run(self, values, memory: Memory, clusters: int = 1) -> Machine:
        """One launch of so many clusters; the machine, which has counted."""
        asked, blocks = self.asked, clusters * self.asked.cluster
        machine = Machine(
            self.program, packed(self.types, values), asked.threads, blocks, asked.cluster, memory,
            self.shared, self.capability,
        )  # fmt: skip
        machine.run()
        return machine


def packed(kinds, values) -> bytes:
    """Parameters as a launch hands them over: each at a multiple of its size."""
    found = bytearray()
    for kind, value in zip(kinds, values, strict=True):
        one = np.array(getattr(value, "value", value)).astype(_PACKED.get(kind, f"{kind.name[:-2]}{kind.bitwidth}"))
        found += bytes(-len(found) % one.itemsize) + one.tobytes()
    return bytes(found)


class Kernel:
    """As `driver.Kernel`, over emulated memory."""

    memory: Memory
    capability = 90
    launches = 0

    def __init__(self, function, arguments, threads: int, at_once: int = 1, cluster: int = 1, of=None):
        self._code = Code(Asked(function, arguments, threads, at_once, cluster, of), self.capability)

    def real_at(self, i: int):
        return _REALS[self._code.types[i]]

    def prepare(self, grid: int, values: list):
        def start(stream, values):
            Kernel.launches += 1
            self._code.run(values, self.memory, grid)

        return start, list(values)
