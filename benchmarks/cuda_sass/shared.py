"""The shared memory of all blocks: bounds, and what two warps do to a word with no barrier between them."""

import numpy as np
from accesses import RESERVED
from program import Fault

NEVER = np.int64(-1)


class Shared:
    """Words of each block. A word that one warp writes and another reads or writes needs a barrier in between.

    Between warps of one block a block's barrier is one; between blocks of a cluster only the cluster's is.
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

    def check(self, at, size: int, text: str) -> None:
        if (at % size).any():
            raise Fault(f"not at a multiple of {size} of shared memory: {text}")
        if (at < RESERVED).any() or (at + size > RESERVED + self.size).any():
            raise Fault(f"out of shared memory: {text}")

    def load(self, blocks, word, warps, text: str):
        here = blocks, word
        self._apart(self._written, here, blocks, warps, text)
        self._keep(self._read, here, blocks, warps)
        return self.words[here]

    def store(self, blocks, word, warps, value, text: str) -> None:
        """``blocks`` are those that are written to, each by a thread of one of these warps."""
        here, own = (blocks, word), warps // self._warps
        self._apart(self._written, here, own, warps, text)
        self._apart(self._read, here, own, warps, text)
        self._keep(self._written, here, own, warps)
        self.words[here] = value

    def _apart(self, last, here, blocks, warps, text):
        warp, passed, together = (kept[here] for kept in last)
        same_block = warp // self._warps == blocks
        ordered = (warp == NEVER) | (warp == warps) | (together != self.passed_together[blocks])
        ordered |= same_block & (passed != self.passed[blocks])
        if not ordered.all():
            raise Fault(f"a race in shared memory: {text}")

    def _keep(self, last, here, blocks, warps):
        last[0][here], last[1][here], last[2][here] = warps, self.passed[blocks], self.passed_together[blocks]
