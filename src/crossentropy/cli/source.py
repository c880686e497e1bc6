"""Where data comes from: a file or standard input, unpacked, and what kind of file its first bytes say it is."""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .inputs import BadInput


class BadData(BadInput):
    """Data that can't be used; the message is one line that says where and why."""


class Source(NamedTuple):
    """A file of a kind, a key of reading.py's readers, whose bytes can be read from the beginning again."""

    path: str  # as the user wrote it
    name: str  # without folders and suffixes
    kind: str
    raw: BinaryIO  # as it lies on the disk: its position is how far reading has come
    size: int  # of raw, in bytes
    packing: str  # "gzip", "zstd" or ""

    def unpacked(self) -> BinaryIO:
        """Its bytes from the beginning, decompressed."""
        self.raw.seek(0)
        if self.packing == "gzip":
            return gzip.open(self.raw)
        return _zstd(self) if self.packing == "zstd" else self.raw


PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
KINDS = {b"PAR1": "parquet", b"PK\x03\x04": "npz", b"PK\x05\x06": "npz", b"\x93NUMPY": "npy"}
OLD_WORKBOOK = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
SUFFIXES = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".dat", ".data"), "text"),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "json"),
    **{".parquet": "parquet", ".xlsx": "xlsx", ".npz": "npz", ".npy": "npy"},
}
OTHERS = {".arff", ".dta", ".feather", ".h5", ".hdf5", ".ods", ".orc", ".pickle", ".pkl", ".rds", ".sas7bdat", ".sav"}
_FILES = "a .csv, .tsv, .json, .jsonl, .parquet, .xlsx, .npz or .npy file"
TAKEN = f"{_FILES}, also as .gz, .zst or .zip, or - for standard input"


def open_source(data: str, bundled: tuple[str, ...] = ()) -> Source:
    """The file of that path, or standard input for "-"."""
    if data == "-":
        raw: BinaryIO = io.BytesIO(sys.stdin.buffer.read())
        name, suffix, size = "standard-input", "", len(raw.getbuffer())
    else:
        path = Path(data)
        suffixes = [each.lower() for each in path.suffixes]
        packed = bool(suffixes) and suffixes[-1] in (".gz", ".zst")
        suffix = suffixes[-2 if packed and len(suffixes) > 1 else -1] if suffixes else ""
        name = path.name.removesuffix(path.suffix).removesuffix(
            path.suffixes[-2] if packed and len(suffixes) > 1 else ""
        )
        if not path.exists() and suffix not in SUFFIXES:
            sets = f"one of {', '.join(bundled)}, or " if bundled else ""
            raise BadData(f"the data must be {sets}{TAKEN}, got {data!r}")
        try:
            raw, size = path.open("rb"), path.stat().st_size
        except FileNotFoundError:
            raise BadData(f"{data}: no such file") from None
        except OSError as error:
            raise BadData(f"{data}: {error.strerror or error}") from None
    try:
        if suffix in OTHERS:
            raise BadData(f"{data}: {suffix} is not read: write it as {_FILES}")
        return _of_kind(Source(data, name, "text", raw, size, ""), SUFFIXES.get(suffix))
    except BaseException:
        raw.close()
        raise


def _of_kind(source: Source, expected: str | None) -> Source:
    """The source with what its first bytes say, which must go with its suffix."""
    data, first = source.path, source.raw.read(8)
    packing = next((how for magic, how in PACKINGS.items() if first.startswith(magic)), "")
    source = source._replace(packing=packing)
    if packing:
        try:
            first = source.unpacked().read(8)
        except Exception as error:  # of zlib, or of whatever knows zstd
            raise BadData(f"{data}: not a whole {packing} file: {error}") from None
    kind = next((kind for magic, kind in KINDS.items() if first.startswith(magic)), None)
    if kind == "npz":
        held = _members(source)
        if "xl/workbook.xml" in held:
            kind = "xlsx"
        elif len(held) == 1 and not held[0].endswith(".npy"):  # a file that someone has zipped
            with zipfile.ZipFile(io.BytesIO(source.unpacked().read())) as archive:
                inside = io.BytesIO(archive.read(held[0]))
            source.raw.close()
            inner = source._replace(raw=inside, size=len(inside.getbuffer()), packing="")
            return _of_kind(inner, SUFFIXES.get(Path(held[0]).suffix.lower()))
    if first == OLD_WORKBOOK:
        raise BadData(f"{data}: a workbook of Excel's before 2007, or one with a password: save it as .xlsx or .csv")
    if (kind is None and expected in ("npz", "npy", "parquet", "xlsx")) or (expected == "xlsx" and kind != "xlsx"):
        raise BadData(f"{data}: not an .{expected} file: it begins with {first!r}")
    if kind is None:
        kind = "json" if expected == "json" or (not expected and first.lstrip()[:1] in (b"{", b"[")) else "text"
    return source._replace(kind=kind)


def _members(source: Source) -> list[str]:
    """The files in a zip archive, without folders and what macOS adds."""
    try:
        names = zipfile.ZipFile(io.BytesIO(source.unpacked().read())).namelist()
    except zipfile.BadZipFile:
        return []
    return [name for name in names if not name.endswith("/") and not name.startswith("__MACOSX")]


def _zstd(source: Source) -> BinaryIO:
    try:
        from compression import zstd  # Python 3.14 and later
    except ImportError:
        try:
            import zstandard
        except ImportError:
            raise BadData(f"{source.path}: .zst needs zstandard: python -m pip install zstandard") from None
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(source.raw, closefd=False))
    return zstd.open(source.raw)
