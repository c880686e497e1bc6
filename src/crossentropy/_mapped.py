"""Arrays that lie in files, a part at a time: mapped while it is read, and gone from memory when it is let go of."""

from __future__ import annotations

import mmap
import os
from typing import Any, NamedTuple

import numpy as np


class FileArray(NamedTuple):
    """An array in a file, by where it lies there: plain numbers, which go to other processes and machines."""

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int  # of its first element, in bytes
    strides: tuple[int, ...]  # none negative

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def part(self, key: tuple[slice, ...]) -> np.ndarray:
        """A part, read-only, from a mapping of its own: of its bytes alone, which the system reads all at once."""
        offset, shape = self.offset, []
        for size, stride, each in zip(self.shape, self.strides, key, strict=True):
            first, last, _ = each.indices(size)
            offset += first * stride
            shape.append(max(last - first, 0))
        if 0 in shape:
            return np.empty(shape, self.dtype)
        spans = (stride * (size - 1) for size, stride in zip(shape, self.strides, strict=True))
        length = sum(spans) + self.dtype.itemsize
        before = offset % mmap.ALLOCATIONGRANULARITY
        with open(self.path, "rb") as file:
            held = os.fstat(file.fileno()).st_size
            if offset + length > held:
                raise ValueError(f"{self.path} must have {offset + length} bytes, got {held}: was it cut off?")
            dense = 2 * int(np.prod(shape)) * self.dtype.itemsize >= length
            mapping = _mapped(file.fileno(), offset - before, before + length, dense)
        return np.ndarray(shape, self.dtype, mapping, before, self.strides)


def _mapped(number: int, offset: int, length: int, dense: bool) -> mmap.mmap:
    """These bytes of a file; dense: most of them will be read."""
    if dense and hasattr(mmap, "MAP_POPULATE"):  # or each page would be fetched when it is first touched
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        return mmap.mmap(number, length, flags=flags, prot=mmap.PROT_READ, offset=offset)
    return mmap.mmap(number, length, access=mmap.ACCESS_READ, offset=offset)


def of_memmap(array: np.memmap[Any, Any]) -> FileArray | None:
    """Where a ``numpy.memmap``, or a view of one, lies in its file; None where that can't be told."""
    mapping, path = getattr(array, "_mmap", None), getattr(array, "filename", None)
    if mapping is None or path is None or any(stride < 0 for stride in array.strides):
        return None
    start = np.frombuffer(mapping, np.uint8)
    begins = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY  # of the mapping; a view keeps its array's offset
    address = array.__array_interface__["data"][0] - start.__array_interface__["data"][0]
    return FileArray(os.fspath(path), array.dtype, array.shape, begins + address, array.strides)


def of_npy(path: str, start: int = 0) -> FileArray:
    """The array of an .npy file, or of one that begins at so many bytes of another; a ValueError for what is none."""
    with open(path, "rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        read = readers.get(version) or _header_3
        shape, fortran, dtype = read(file)
        offset = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    strides, step = [], dtype.itemsize
    for size in shape if fortran else shape[::-1]:
        strides.append(step)
        step *= size
    return FileArray(path, dtype, shape, offset, tuple(strides if fortran else strides[::-1]))


def _header_3(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Version 3 is version 2 in UTF-8, which only names of fields need."""
    raise ValueError("it is a structured array")
