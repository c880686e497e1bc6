"""Memory of the card that is not there: one stretch of the host's, in which each access must lie in an array."""

import bisect

import numpy as np
from program import Fault

APART = 64  # bytes between arrays, at least


class Memory:
    """Arrays, and loads and stores by address; counts the bytes of both."""

    def __init__(self, size: int = 1 << 26):
        self.data = np.zeros(size, np.uint8)
        self.base = self.data.ctypes.data
        self.views = {n: self.data[: size // n * n].view(f"u{n}") for n in (1, 2, 4)}
        self.read = self.written = 0
        self.forget()

    def forget(self) -> None:
        """No array is there any more."""
        self._end, self._starts, self._ends = APART, [], []
        self._spans = None

    def room(self, size: int, past: int = 0) -> np.ndarray:
        """Bytes for an array, so far past a multiple of 16 of the address."""
        start = self._end + (-(self.base + self._end) % 256) + past
        if start + size + APART > len(self.data):
            raise MemoryError("the arrays of one launch are more than the emulated memory has room for")
        self._end = start + size + APART
        return self.data[start : start + size]

    def register(self, address: int, size: int) -> None:
        """Let kernels reach these bytes."""
        start = address - self.base
        at = bisect.bisect(self._starts, start)
        self._starts.insert(at, start)
        self._ends.insert(at, start + size)
        self._spans = None

    def put(self, array: np.ndarray, past: int = 0) -> int:
        """The address of a copy of an array in C order."""
        values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        room = self.room(len(values), past)
        room[:] = values
        self.register(room.ctypes.data, len(values))
        return room.ctypes.data

    def get(self, address: int, like: np.ndarray) -> np.ndarray:
        """What lies there now, of the shape and dtype of ``like``."""
        start = address - self.base
        return self.data[start : start + like.nbytes].view(like.dtype).reshape(like.shape).copy()

    def places(self, addresses: np.ndarray, size: int, text: str) -> np.ndarray:
        """Offsets into ``data``, once it is sure that so many bytes are of an array and begin at a multiple."""
        if (addresses % size).any():
            raise Fault(f"not at a multiple of {size}: {text}")
        if self._spans is None:
            nothing = np.iinfo(np.int64).min  # below the first array lies one without bytes
            self._spans = np.array([nothing, *self._starts]), np.array([nothing, *self._ends])
        starts, ends = self._spans
        offsets = addresses - self.base
        if (offsets + size > ends[np.searchsorted(starts, offsets, "right") - 1]).any():
            raise Fault(f"out of bounds: {text}")
        return offsets
