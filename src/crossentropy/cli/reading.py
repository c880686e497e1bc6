"""A file as a table: read by pandas in the dialect that was recognised, with every line's number of fields counted."""

from __future__ import annotations

import csv
import io

import numpy as np

from . import dialect as dialects
from . import other_files
from .source import BadData, Source
from .table import Table, column_of

BLOCK = 1 << 20  # bytes read at a time


def read(source: Source, options, label=None, known=None, progress=lambda done, total: None) -> Table:
    """The table in a file; ``label`` is the column that stays text as it is written: a name, a number from 1 or -1.

    ``known`` are the columns of a model (columns.Column): a first line that has all their names is a header, and what
    was no number in the model's data is read as text.
    """
    readers = {
        "text": _text,
        "json": other_files.json,
        "parquet": other_files.parquet,
        "xlsx": _sheet,
        "npz": other_files.npz,
        "npy": other_files.npy,
    }
    try:
        table = readers[source.kind](source, options, label, known, progress)
    except BadData:
        raise
    except MemoryError:
        raise BadData(f"{source.path}: there is not enough memory for it") from None
    except (OSError, EOFError) as error:
        raise BadData(f"{source.path}: {error}") from None
    progress(source.size, source.size)
    if not len(table.frame):
        raise BadData(f"{source.path}: no observations")
    return table


# ---------------------------------------------------------------------- text


def _text(source, options, label, known, progress) -> Table:
    try:
        return _text_in(source, options, label, known, progress, options.encoding)
    except UnicodeDecodeError as error:
        if options.encoding:
            raise BadData(f"{source.path}: not a text file in {options.encoding}: {error.reason}") from None
    try:  # past the sample there is something that is not UTF-8
        return _text_in(source, options, label, known, progress, dialects.LEGACY)
    except UnicodeDecodeError as error:
        raise BadData(f"{source.path}: neither UTF-8 nor {dialects.LEGACY}: --encoding names another") from error


def _text_in(source, options, label, known, progress, encoding) -> Table:
    sample = source.unpacked().read(dialects.SAMPLE)
    if b"\r" in sample and b"\n" not in sample:  # lines end as they did on old Macs
        source = source._replace(raw=io.BytesIO(source.unpacked().read().replace(b"\r", b"\n")), packing="")
        sample = source.unpacked().read(dialects.SAMPLE)
    dialect = dialects.recognise(
        sample,
        source.path,
        encoding=encoding,
        delimiter=options.delimiter,
        header=options.header,
        na=options.na,
        decimal=options.decimal,
        known=[column.name for column in known or ()],
    )
    names = dialect.names
    at = None if label is None else column_of(label, names, source.path, dialect.header)
    as_text = {column.name for column in known or () if column.kind != "number"}
    missing = [form for word in dialects.MISSING for form in {word, word.lower(), word.upper(), word.title()}]
    missing += options.na
    numeric = [j for j in range(len(names)) if dialect.numeric[j] and j != at and names[j] not in as_text]
    frame = _plain(source, dialect, numeric, missing, progress)
    if frame is None:
        frame = _any(source, dialect, numeric, missing, progress)
    return Table(source.name, source.path, frame, names, dialect.header, dialect.said, dialect.numbers)


def _sheet(source, options, label, known, progress) -> Table:
    text, said = other_files.sheet(source)
    source = source._replace(raw=io.BytesIO(text), size=len(text), packing="")
    options = options._replace(encoding="utf-8", delimiter=",", decimal=".")
    table = _text(source, options, label, known, progress)
    return table._replace(said=f"{said}, {table.said.removeprefix('separated by commas, ').replace('line', 'row')}")


def _plain(source, dialect, numeric, missing, progress):
    """By PyArrow, which is the fastest and needs no GIL: fields that no quotation marks or spaces are around.

    None where something is not so plain, or does not suit, which pandas' reader is to tell or to cope with.
    """
    if dialect.delimiter == " " or dialect.encoding not in ("utf-8", "utf-8-sig") or dialect.numbers.thousands:
        return None
    try:
        import pyarrow as pa
        from pyarrow import csv as arrow
    except ImportError:
        return None
    names = list(map(str, range(len(dialect.names))))
    kinds = {name: pa.float64() if j in set(numeric) else pa.string() for j, name in enumerate(names)}
    try:
        table = arrow.read_csv(
            pa.PythonFile(io.BufferedReader(_Watched(source, dialect, progress, plain=True), BLOCK), "r"),
            arrow.ReadOptions(block_size=BLOCK, column_names=names),
            arrow.ParseOptions(delimiter=dialect.delimiter, quote_char=False),
            arrow.ConvertOptions(column_types=kinds, null_values=missing, decimal_point=dialect.numbers.decimal),
        )
    except (pa.ArrowInvalid, _NotPlain):
        return None
    import pandas as pd

    columns = {}
    for j, name in enumerate(names):
        held = table.column(name)
        table = table.drop_columns([name])  # so that there are never two copies of all
        columns[j] = held.to_numpy() if pa.types.is_floating(held.type) else held.to_pandas()
        del held
    pa.default_memory_pool().release_unused()
    return pd.DataFrame(columns, copy=False)


def _any(source, dialect, numeric, missing, progress):
    """By pandas' reader."""
    import pandas as pd

    count = len(dialect.names)
    settings = {
        "header": None,
        "names": range(count),
        "index_col": False,
        "sep": r"\s+" if dialect.delimiter == " " else dialect.delimiter,
        "encoding": "utf-8" if _is_wide(dialect) else dialect.encoding,
        "decimal": dialect.numbers.decimal,
        "thousands": dialect.numbers.thousands or None,
        "keep_default_na": False,
        "skipinitialspace": True,
        "na_values": {j: missing for j in numeric},
        "dtype": {j: np.float64 if j in set(numeric) else str for j in range(count)},
    }
    try:
        return _parsed(source, dialect, settings, progress)
    except (UnicodeDecodeError, BadData):
        raise
    except pd.errors.EmptyDataError:
        raise BadData(f"{source.path}: no observations") from None
    except pd.errors.ParserError as error:
        raise BadData(f"{source.path}: {' '.join(str(error).split())}") from None
    except ValueError:  # past the sample there is a word among the numbers: columns.py finds it
        return _parsed(source, dialect, {**settings, "dtype": str, "na_values": {}}, progress)


def _is_wide(dialect) -> bool:
    return dialect.encoding.replace("-", "_").lower().startswith(("utf_16", "utf_32"))


def _parsed(source, dialect, settings, progress):
    import pandas as pd

    watched = _Watched(source, dialect, progress)
    try:
        return pd.read_csv(io.BufferedReader(watched, BLOCK), **settings)
    except pd.errors.ParserError:
        watched.finish()  # whose message names the line
        raise


class _NotPlain(Exception):
    """There are quotation marks in a file."""


class _Watched(io.RawIOBase):
    """What is read: lines whose fields are counted, since pandas would fill a line cut short with missing values.

    Where it is plain it is only looked at for quotation marks.
    """

    def __init__(self, source: Source, dialect: dialects.Dialect, progress, plain=False):
        self.source, self.dialect, self.progress = source, dialect, progress
        self.stream = source.unpacked()
        if _is_wide(dialect):  # whose bytes are not those of ASCII
            self.stream = io.BytesIO(self.stream.read().decode(dialect.encoding).encode())
        self.plain = plain
        self.counted = len(dialect.names) > 1 and dialect.delimiter != " " and not plain
        for _ in range(dialect.first):
            self.stream.readline()
        self.line, self.rest, self.block, self.at, self.quotes = dialect.first, b"", memoryview(b""), 0, False

    def readable(self):
        """It is."""
        return True

    def readinto(self, buffer):
        """The next bytes."""
        while self.at == len(self.block):
            if not self._advance():
                return 0
        count = min(len(buffer), len(self.block) - self.at)
        buffer[:count] = self.block[self.at : self.at + count]
        self.at += count
        return count

    def finish(self):
        """Count the fields of what has not been read."""
        while self._advance():
            pass

    def _advance(self) -> bool:
        read = self.stream.read(BLOCK)
        self.progress(self.source.raw.tell(), self.source.size)
        if not read and not self.rest:
            return False
        if self.plain and b'"' in read:
            raise _NotPlain
        block = self.rest + read
        if read:
            cut = self._whole_lines(block)
        else:
            self._whole_lines(block + b"\n")
            cut = len(block)
        block, self.rest = block[:cut], block[cut:]
        if self.dialect.comment:
            block = b"".join(line for line in block.splitlines(keepends=True) if not line.startswith(b"#"))
        self.block, self.at = memoryview(block), 0
        return True

    def _whole_lines(self, block: bytes) -> int:
        """Where the last whole line of the block ends; the fields of every line are counted."""
        if not self.counted:
            return block.rfind(b"\n") + 1
        a = np.frombuffer(block, np.uint8)
        ends, marks = a == ord("\n"), a == ord(self.dialect.delimiter)
        if b'"' in block:
            self.quotes = True
            outside = (np.cumsum(a == ord('"'), dtype=np.uint8) & 1) == 0
            ends &= outside
            marks &= outside
        at = np.flatnonzero(ends | marks)
        lines = np.flatnonzero(ends[at])
        if not len(lines):
            self.counted = len(block) < 64 * BLOCK  # a lone quotation mark
            return 0
        stops = at[lines]
        starts = np.concatenate(([0], stops[:-1] + 1))
        fields = np.diff(lines, prepend=-1)
        wrong = (fields != len(self.dialect.names)) & (stops - starts > 1)
        if self.dialect.comment:
            wrong &= a[starts] != ord("#")
        if wrong.any():
            first = int(wrong.argmax())
            number = self.line + int(np.count_nonzero(a[: stops[first]] == ord("\n"))) + 1
            self._tell(number, int(fields[first]), block[starts[first] : stops[first]])
        cut = int(stops[-1]) + 1
        self.line += int(np.count_nonzero(a[:cut] == ord("\n")))
        return cut

    def _tell(self, number, fields, line):
        if self.quotes:  # which may stand within a field, where they mean themselves
            fields = len(
                next(
                    csv.reader(
                        [line.decode(self.dialect.encoding, errors="replace")], delimiter=self.dialect.delimiter
                    ),
                    [],
                )
            )
        expected = len(self.dialect.names)
        if fields == expected or not line.strip():
            return
        above = "the header" if self.dialect.header else "the first line"
        raise BadData(f"{self.source.path}: line {number} has {fields} fields, {above} has {expected}")
