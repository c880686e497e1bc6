"""The shared memory of all blocks: bounds, and what two warps do to a word with no barrier between them."""

import numpy as np
from accesses import RESERVED
from program import Fault

NEVER = np.int64(-1)
MOST_BARRIERS = 4  # of a block


class Shared:
    """Words of each block. A word that one warp writes and another reads or writes needs a barrier in between.

    Between warps of one block a block's barrier is one; between blocks of a cluster only the cluster's is. A word that
    another block sends can be read by the warps that have waited for the phase of the barrier which counts it; before
    it is sent again, the block's threads must have met since one of them read it.
    """

    def __init__(self, blocks: int, warps: int, size: int):
        """For blocks of so many warps, and of ``size`` bytes."""
        self.words = np.full((blocks, (RESERVED + size) // 4), 0xA5A5A5A5, np.uint32)
        self.size, self._warps = size, warps
        self.passed = np.zeros(blocks, np.int64)  # barriers, of blocks
        self.passed_together = np.zeros(blocks, np.int64)  # and of clusters
        shape = self.words.shape
        # Of the last access: the warp, and how many barriers its block and cluster had passed.
        self._written, self._read = ([np.full(shape, NEVER) for _ in range(3)] for _ in range(2))
        # Of what was sent: the barrier's number and phase; and the phases of each barrier that a warp has waited for.
        self._barrier, self._phase = np.full(shape, NEVER), np.full(shape, NEVER)
        self._seen = np.zeros((blocks * warps, MOST_BARRIERS * blocks), np.int64)

    def check(self, at, size: int, text: str) -> None:
        if (at % size).any():
            raise Fault(f"not at a multiple of {size} of shared memory: {text}")
        if (at < RESERVED).any() or (at + size > RESERVED + self.size).any():
            raise Fault(f"out of shared memory: {text}")

    def load(self, blocks, word, warps, text: str):
        here = blocks, word
        self._apart(self._written, here, blocks, warps, text)
        barrier, phase = self._barrier[here], self._phase[here]
        if ((barrier != NEVER) & (self._seen[warps, barrier] <= phase)).any():
            raise Fault(f"read before it has come: {text}")
        self._keep(self._read, here, blocks, warps)
        return self.words[here]

    def store(self, blocks, word, warps, value, text: str) -> None:
        """``blocks`` are those that are written to, each by a thread of one of these warps."""
        here, own = (blocks, word), warps // self._warps
        self._apart(self._written, here, own, warps, text)
        self._apart(self._read, here, own, warps, text)
        self._keep(self._written, here, own, warps)
        self._barrier[here] = NEVER
        self.words[here] = value

    def send(self, block: int, word: int, values, barrier, text: str) -> None:
        """Words to a block, whose barrier counts them in its phase."""
        for k, value in enumerate(values):
            here = block, word + k
            if self._read[0][here] != NEVER and self._read[1][here] == self.passed[block]:
                raise Fault(f"sent while what was there may be read: {text}")
            self._barrier[here], self._phase[here] = barrier.number, barrier.phase
            self._written[0][here] = NEVER
            self.words[here] = value

    def has_seen(self, warp: int, barrier) -> None:
        """A warp has waited for a barrier's last phase."""
        self._seen[warp, barrier.number] = barrier.phase

    def _apart(self, last, here, blocks, warps, text):
        warp, passed, together = (kept[here] for kept in last)
        same_block = warp // self._warps == blocks
        ordered = (warp == NEVER) | (warp == warps) | (together != self.passed_together[blocks])
        ordered |= same_block & (passed != self.passed[blocks])
        if not ordered.all():
            raise Fault(f"a race in shared memory: {text}")

    def _keep(self, last, here, blocks, warps):
        last[0][here], last[1][here], last[2][here] = warps, self.passed[blocks], self.passed_together[blocks]
