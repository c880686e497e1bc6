"""Logits and targets in files that may be larger than memory: .npy, .npz, Zarr stores, folders of .npy parts."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import _mapped
from .source import BadData

ROWS = 32 << 20  # bytes of rows that are read at once
KINDS = "an .npy or .npz file, a Zarr store, or a folder of .npy parts"


class Rows(Protocol):
    """An array in files, of which slices of the first axis are read; it pickles, for other processes to read it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, first: int, last: int) -> np.ndarray:
        """These rows."""


def is_of_arrays(path: str) -> bool:
    """Whether a file or folder of that name holds arrays, and not a model."""
    return Path(path).is_dir() or Path(path).suffix.lower() in (".npy", ".npz", ".zarr")


def open_rows(path: str, wanted: str) -> Rows:
    """The array of a file or folder; of several the one that is ``wanted`` by its name."""
    at = Path(path)
    if not at.exists():
        raise BadData(f"{path}: no such file or folder")
    try:
        if at.is_dir():
            stores = ("zarr.json", ".zarray", ".zgroup")
            rows = _zarr(at, wanted) if any((at / name).exists() for name in stores) else Parts(at)
        elif at.suffix.lower() == ".npz":
            rows = _of_npz(at, wanted)
        elif at.suffix.lower() == ".npy":
            rows = Npy(_mapped.of_npy(str(at)))
        else:
            raise BadData(f"{path}: {wanted} must be {KINDS}")
        if not rows.shape:
            raise ValueError("it holds a single number")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _told(path, error) from None
    return rows


def _told(path: Any, error: Exception) -> BadData:
    """A line of the file, for an error that may name it or not."""
    return BadData(f"{path}: {(getattr(error, 'strerror', None) or str(error)).removeprefix(f'{path} ')}")


def rows_at_once(rows: Rows) -> int:
    """How many of them make a block: some 32 MB, in whole chunks of a Zarr store where these are smaller."""
    each = max(int(np.prod(rows.shape[1:])) * rows.dtype.itemsize, 1)
    step, chunk = max(1, ROWS // each), getattr(rows, "chunk", 1)
    return max(step - step % chunk, chunk) if chunk * each <= 8 * ROWS else step


class Npy:
    """An array in an .npy file, or in an .npz file that is not compressed."""

    def __init__(self, where: _mapped.FileArray):
        if where.dtype == "V2":  # as NumPy writes bfloat16
            where = where._replace(dtype=_bfloat16())
        self.where, self.shape, self.dtype = where, where.shape, where.dtype
        whole = tuple(slice(0, size) for size in self.shape)
        where.part((slice(max(self.shape[0] - 1, 0), self.shape[0]), *whole[1:]) if whole else ())  # or it is cut off

    def read(self, first: int, last: int) -> np.ndarray:
        """These rows."""
        return self.where.part((slice(first, last), *(slice(0, size) for size in self.shape[1:])))


def _bfloat16() -> np.dtype[Any]:
    try:
        from ml_dtypes import bfloat16
    except ModuleNotFoundError:
        raise ValueError(
            "its numbers of two bytes look like bfloat16, which needs ml_dtypes: pip install ml_dtypes"
        ) from None
    return np.dtype(bfloat16)


class Parts:
    """The .npy files of a folder, in natural order, rows after rows."""

    def __init__(self, folder: Path):
        paths = sorted(folder.glob("*.npy"), key=lambda path: _natural(path.name))
        if not paths:
            raise BadData(f"{folder}: no .npy files in it, nor is it a Zarr store")
        self.parts = []
        for path in paths:
            try:
                self.parts.append(Npy(_mapped.of_npy(str(path))))
            except (OSError, ValueError, EOFError) as error:
                raise _told(path, error) from None
        first = self.parts[0]
        for path, part in zip(paths, self.parts, strict=True):
            if not part.shape or part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
                like = f"{first.dtype} (n, {', '.join(map(str, first.shape[1:]))})".replace(", )", ",)")
                raise BadData(f"{path}: it must be {like}, as {paths[0].name} is, got {part.dtype} {part.shape}")
        self.ends = np.cumsum([part.shape[0] for part in self.parts])
        self.shape, self.dtype = (int(self.ends[-1]), *first.shape[1:]), first.dtype

    def read(self, first: int, last: int) -> np.ndarray:
        """These rows."""
        found = []
        for part, end in zip(self.parts, self.ends, strict=True):
            start = int(end) - part.shape[0]
            if first < end and last > start:
                found.append(part.read(max(first - start, 0), min(last, int(end)) - start))
        return found[0] if len(found) == 1 else np.concatenate(found) if found else self.parts[0].read(0, 0)


class Zarr:
    """An array of a Zarr store."""

    def __init__(self, path: str, name: str):
        self.path, self.name = path, name
        array = self._array()
        self.shape, self.dtype, self.chunk = array.shape, np.dtype(array.dtype), array.chunks[0] if array.chunks else 1

    def _array(self) -> Any:
        import zarr

        found = zarr.open(self.path, mode="r")
        return found[self.name] if self.name else found

    def read(self, first: int, last: int) -> np.ndarray:
        """These rows."""
        return np.asarray(self._array()[first:last])


class Compressed:
    """An array in a compressed .npz file, which is read from its beginning on."""

    def __init__(self, path: str, member: str):
        self.path, self.member = path, member
        self._open()

    def _open(self) -> None:
        self.file = zipfile.ZipFile(self.path).open(self.member)  # noqa: SIM115 -- it stays open from block to block
        version = np.lib.format.read_magic(self.file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = read(self.file)
        if fortran and len(self.shape) > 1:
            raise ValueError("it is compressed and in Fortran order: write it in C order, or with numpy.savez")
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        self.at, self.each = 0, int(np.prod(self.shape[1:])) * self.dtype.itemsize

    def __reduce__(self) -> Any:
        raise BadData(f"{self.path}: it is compressed, so that parts of it can't be read: use --engine threads")

    def read(self, first: int, last: int) -> np.ndarray:
        """These rows."""
        if first < self.at:
            self._open()
        left = (first - self.at) * self.each
        while left:
            left -= len(self.file.read(min(left, ROWS))) or left
        found = bytearray(self.file.read((last - first) * self.each))
        if len(found) < (last - first) * self.each:
            raise BadData(f"{self.path}: {self.member} is cut off")
        self.at = last
        return np.frombuffer(found, self.dtype).reshape(last - first, *self.shape[1:])


def _of_npz(path: Path, wanted: str) -> Rows:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        info = members[_chosen(str(path), list(members), wanted)]
        if info.compress_type != zipfile.ZIP_STORED:
            return Compressed(str(path), info.filename)
        with open(path, "rb") as file:
            file.seek(info.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        return Npy(_mapped.of_npy(str(path), info.header_offset + 30 + name + extra))


def _zarr(path: Path, wanted: str) -> Rows:
    try:
        import zarr
    except ModuleNotFoundError:
        raise BadData(f"{path}: a Zarr store needs zarr: python -m pip install zarr") from None
    found = zarr.open(str(path), mode="r")
    if isinstance(found, zarr.Array):
        return Zarr(str(path), "")
    return Zarr(str(path), _chosen(str(path), [name for name, _ in found.arrays()], wanted))


def _chosen(path: str, names: list[str], wanted: str) -> str:
    if wanted in names:
        return wanted
    if len(names) == 1:
        return names[0]
    held = f"several arrays, {', '.join(names[:8])}" if names else "no array"
    raise BadData(f"{path}: it holds {held}; {wanted} must be the only one, or be called {wanted!r}")


def _natural(name: str) -> list[Any]:
    """part-2 before part-10."""
    return [(0, int(text), "") if text.isdigit() else (1, 0, text) for text in re.split(r"(\d+)", name)]
