"""A multiprocessor that is not there: all threads of all clusters of a launch, the ones furthest behind first.

Threads that are at the same instruction execute it together, whatever warp they are of. What each instruction has been
issued for is counted by warps.
"""

import re

import accesses  # noqa: F401  # fills in the table
import halves  # noqa: F401
import integers  # noqa: F401
import moving  # noqa: F401
import numpy as np
import reals  # noqa: F401
from accesses import SHARED_WINDOW
from barriers import Barriers, waiting
from opcodes import executed
from operands import WARP, Operands
from program import SIZE, Fault, Program
from shared import Shared

U32 = np.uint32
OWN = 4096  # bytes of a thread's own memory
MOST_STEPS = 3_000_000
CONTROL = ("BRA", "EXIT", "CALL", "RET", "BAR", "UCGABAR_WAIT")


def _turns(i) -> bool:
    """Whether threads may be anywhere after an instruction."""
    return i.name in CONTROL or "PHASECHK" in i.modifiers


class Machine(Operands):
    """One launch of a kernel, by ``run``."""

    def __init__(self, program: Program, parameters: bytes, threads, blocks, cluster, memory, shared, capability=90):
        super().__init__(threads * blocks)
        if threads % WARP:
            raise Fault(f"blocks of {threads} threads: warps must be whole here")
        self.program, self.threads, self.blocks, self.cluster, self.memory = program, threads, blocks, cluster, memory
        each = np.arange(self.count)
        self.block, self.warp = each // threads, each // WARP
        self.shared, self.barriers = Shared(blocks, threads // WARP, shared), Barriers()
        self.own = np.zeros((OWN // 4, self.count), U32)
        self.special = {
            "SR_TID.X": (each % threads).astype(U32),
            "SR_CTAID.X": self.block.astype(U32),
            "SR_LANEID": (each % WARP).astype(U32),
            "SR_CgaCtaId": (self.block % cluster).astype(U32),
            "SR_CLUSTERID.X": (self.block // cluster).astype(U32),
            "SR_CgaSize": np.ones(1, U32),
            "SR_SWINHI": np.array([SHARED_WINDOW], U32),
        }
        self._fill_constants(parameters, capability)
        self.issued = np.zeros(len(program), np.int64)  # to warps
        self.order: list[int] = []  # instructions, as they were first reached
        self._ready: dict[int, np.ndarray] = {0: np.ones(self.count, bool)}
        self._waiting = np.zeros(self.count, np.int8)  # for a block (1), for a cluster (2)
        self._after = np.zeros(self.count, np.int64)  # where those go on
        self._asking: list[tuple[int, np.ndarray]] = []  # those that wait for bytes, and where they ask for them
        self.live = np.ones(self.count, bool)
        self.code = [executed(self, i) if not _turns(i) else None for i in program.instructions]
        self._waits = {at: waiting(self, i) for at, i in enumerate(program.instructions) if "PHASECHK" in i.modifiers}
        self.guards = [self.predicate(i.guard) if i.guard else None for i in program.instructions]

    def _fill_constants(self, parameters, capability):
        """Where a launch leaves its numbers, which NVIDIA does not document: seen in code."""
        words, clusters = self.constants.view(U32), self.blocks // self.cluster
        old = capability < 100
        at = 0x210 if old else 0x380
        self.constants[at : at + len(parameters)] = np.frombuffer(parameters, np.uint8)
        words[(0x28 if old else 0x37C) // 4] = OWN
        for place, size in zip((0x0, 0xC) if old else (0x360, 0x370), (self.threads, self.blocks), strict=True):
            words[place // 4 : place // 4 + 3] = size, 1, 1
        for place in (0x150,) if old else (0x210, 0x2B0):
            words[place // 4 : place // 4 + 1].view(np.float32)[:] = 1 / self.cluster
        for place in (0x15C,) if old else (0x220, 0x2C0):
            words[place // 4] = clusters

    # ---------------------------------------------------------------- threads that go on

    def run(self) -> None:
        """Until all threads have ended."""
        steps = 0
        with np.errstate(all="ignore"):
            while self.live.any():
                if self.barriers.ended:
                    asking, self._asking, self.barriers.ended = self._asking, [], False
                    for at, those in asking:
                        self._go_on(at, those)
                if not self._ready:
                    raise Fault("threads wait at a barrier for others that never come")
                at = min(self._ready)
                those = self._ready.pop(at)
                steps += self._straight(at, those, min(self._ready, default=len(self.program)))
                if steps > MOST_STEPS:
                    raise Fault("the kernel does not end")

    def _straight(self, at: int, those, limit: int) -> int:
        """Executes from there until threads part, or others are met; how many instructions that were."""
        start, active = at, None if those.all() else those
        while at < limit:
            run, guard = self.code[at], self.guards[at]
            if run is None:
                break
            if guard is None:
                run(active)
            else:
                those_here = those & guard()
                if those_here.any():
                    run(None if active is None and those_here.all() else those_here)
            at += 1
        else:
            self._count(start, at, those)
            self._go_on(at, those)
            return at - start
        self._count(start, at + 1, those)
        self._turn(at, those)
        return at + 1 - start

    def _count(self, start, end, those):
        if not self.issued[start:end].all():
            self.order += [k for k in range(start, end) if not self.issued[k]]
        self.issued[start:end] += int(those.reshape(-1, WARP).any(1).sum())

    def _go_on(self, at: int, those) -> None:
        """Some threads, none perhaps, are at an instruction."""
        if those.any():
            self._ready[at] = self._ready[at] | those if at in self._ready else those

    def _turn(self, at: int, those) -> None:
        """An instruction after which threads may be anywhere."""
        i, guard = self.program.instructions[at], self.guards[at]
        taken = those if guard is None else those & guard()
        if i.name == "BRA":
            if any(name != "U" for name in i.modifiers):
                raise Fault(f"unknown instruction {i.opcode}: {i.text}")
            for condition in i.operands[:-1]:
                taken = taken & self.predicate(condition)()
        self._go_on(at + 1, those & ~taken)
        if i.name in ("BRA", "CALL"):
            self._go_on(self.program.labels[i.label], taken)
        elif i.name == "RET":
            back = self.R[int(re.match(r"R(\d+)", i.operands[0])[1])] // SIZE
            for there in np.unique(back[taken]):
                self._go_on(int(there), taken & (back == there))
        elif at in self._waits:
            there = self._waits[at](taken)
            self._go_on(at + 1, there)
            if (taken & ~there).any():
                self._asking.append((at, taken & ~there))
        elif i.name == "EXIT":
            self.live &= ~taken
            self._meet()
        else:
            self._waiting[taken] = 1 if i.name == "BAR" else 2
            self._after[taken] = at + 1
            self._meet()

    def _meet(self) -> None:
        """Lets those go on who have all come."""
        wide = (self.blocks, self.threads), (self.blocks // self.cluster, self.threads * self.cluster)
        passed = self.shared.passed, self.shared.passed_together
        for kind, shape, count in zip((1, 2), wide, passed, strict=True):
            waiting = (self._waiting == kind).reshape(shape)
            there = (waiting | ~self.live.reshape(shape)).all(1) & waiting.any(1)
            if not there.any():
                continue
            free = (waiting & there[:, None]).reshape(-1)
            count += np.repeat(there, len(count) // len(there))
            self._waiting[free] = 0
            for at in np.unique(self._after[free]):
                self._go_on(int(at), free & (self._after == at))
