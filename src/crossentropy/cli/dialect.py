"""How a text file of data is written: encoding, delimiter, what stands above the data, whether there is a header."""

from __future__ import annotations

import codecs
import csv
import functools
import itertools
import re
from collections import Counter
from typing import NamedTuple

from .source import BadData

SAMPLE = 1 << 18  # bytes, from which everything here is told
ROWS = 500  # of them at most
# What stands for no value, in any case of its letters. Not in the column of labels, where text is as written.
MISSING = (
    *("", "NA", "N/A", "n.a.", "NaN", "-NaN", "NaT", "null", "nil", "None", "<NA>", "missing"),
    *("?", "-", "--", ".", "#N/A", "#NA", "#NULL!", "#VALUE!", "#REF!", "#DIV/0!", "#NUM!"),
)
_missing = frozenset(word.lower() for word in MISSING)


class Numbers(NamedTuple):
    """How numbers are written."""

    decimal: str = "."
    thousands: str = ""  # what stands between groups of three digits

    @property
    def pattern(self) -> re.Pattern[str]:
        """What a number looks like."""
        return _pattern(*self)


@functools.cache
def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    point, group = re.escape(decimal), re.escape(thousands)
    whole = rf"(\d+|\d{{1,3}}({group}\d{{3}})+)" if thousands else r"\d+"
    number = rf"({whole}({point}\d*)?|{point}\d+)(e[+-]?\d+)?|inf|infinity"
    return re.compile(rf"\s*[+-]?({number})\s*", re.IGNORECASE)


class Dialect(NamedTuple):
    """How a text file is written."""

    encoding: str
    delimiter: str  # " " for any white space
    comment: bool  # lines that begin with # are none of the data
    skipped: int  # lines above the header, or above the data where there is none
    header: bool
    names: list[str]  # of the columns: "1", "2" ... where there is no header
    first: int  # lines above the data
    numbers: Numbers
    numeric: list[bool]  # columns whose sampled values are all numbers or missing
    words: list[str]  # what was recognised, for the user

    @property
    def said(self) -> str:
        """The dialect in a line."""
        delimiter = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "white space"}
        head = f"header in line {self.skipped + 1}" if self.header else "no header: columns are numbered from 1"
        return ", ".join([f"separated by {delimiter.get(self.delimiter, repr(self.delimiter))}", head, *self.words])


def is_missing(text: str, also: tuple[str, ...] = ()) -> bool:
    """Whether that text stands for no value."""
    return text.strip().lower() in _missing or text.strip() in also


def recognise(
    sample: bytes, path: str, *, encoding=None, delimiter=None, header=None, na=(), decimal=None, known=()
) -> Dialect:
    """The dialect of a file that begins with those bytes; options say what is not to be guessed.

    A first line that has all of the names in ``known`` is a header.
    """
    words = []
    encoding = encoding or _encoding(sample)
    text = _decoded(sample, encoding, path)
    if len(sample) >= SAMPLE:
        text = text[: text.rfind("\n") + 1] or text
    if not text.strip():
        raise BadData(f"{path}: empty file")
    if re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        raise BadData(f"{path}: a page of HTML or XML, not a table of data")
    if encoding == "utf-8-sig":
        words.append("UTF-8 with a byte-order mark")
    elif encoding != "utf-8":
        words.append(f"encoding {encoding}")
    lines = text.splitlines(keepends=True)
    comments = len(list(itertools.takewhile(lambda line: not line.strip() or line.startswith("#"), lines)))
    comment = any(line.startswith("#") for line in lines[:comments])
    if comment:
        words.append("lines that begin with # skipped")
        body = [(number, line) for number, line in enumerate(lines) if not line.startswith("#")]
    else:
        body = list(enumerate(lines))
    delimiter = delimiter or _delimiter([line for _, line in body])
    rows = _rows(body, delimiter)
    usual = Counter(len(row) for _, _, row in rows).most_common(1)[0][0]
    above = 0
    while above < min(10, len(rows) - 1) and usual > 1 and sum(map(bool, map(str.strip, rows[above][2]))) == 1:
        above += 1  # a title
    if above:
        words.append(f"{above} line{'s' * (above > 1)} of text above skipped")
        rows = rows[above:]
    start, end, top = rows[0]
    top = [cell.strip() for cell in top]
    below = [row for _, _, row in rows[1:]]
    if known and set(known) <= set(top):
        header = True
    if header is None:
        header = _is_header(top, [row for row in below if len(row) == usual], na)
    names = top if header else [str(column + 1) for column in range(len(top))]
    if header and len(names) == usual - 1 and below and all(len(row) == usual for row in below):
        # A column without a name: empty fields behind a last delimiter, else the names of the rows.
        names = ["", *names] if any(row[-1].strip() for row in below) else [*names, ""]
    sampled = below if header else [top, *below]
    columns = [[row[j] for row in sampled if j < len(row) and not is_missing(row[j], na)] for j in range(len(names))]
    numbers = _numbers(columns, delimiter, decimal)
    if numbers.decimal == ",":
        words.append("decimal commas")
    if numbers.thousands:
        words.append(f"{numbers.thousands!r} between thousands")
    numeric = [all(map(numbers.pattern.fullmatch, column)) for column in columns]
    first = end if header else start
    return Dialect(encoding, delimiter, comment, start, header, names, first, numbers, numeric, words)


def _numbers(columns, delimiter, decimal) -> Numbers:
    """How numbers are written: so that the most columns are numbers, and the plainest of such ways."""
    ways = [(".", ""), (",", ""), (".", ","), (",", "."), (".", "'"), (".", " "), (",", " ")]
    if delimiter == ",":  # quoted, "1,234" is more than a thousand
        ways[1:3] = ways[2:0:-1]
    best, most = None, -1
    for way in ways:
        numbers = Numbers(*way)
        if decimal in (None, numbers.decimal):
            count = sum(bool(column) and all(map(numbers.pattern.fullmatch, column)) for column in columns)
            if count > most:
                best, most = numbers, count
            if most == len(columns):
                break
    return best


def _encoding(sample: bytes) -> str:
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if sample.startswith(mark):
            return name
    for name, high in ("utf-16-le", sample[1::2]), ("utf-16-be", sample[::2]):  # most bytes of which are 0 then
        if high.count(0) > 0.4 * len(sample[:-1:2]) > 0:
            return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return LEGACY
    return "utf-8"


# Numbers of any fashion, per cent, dates and times of day.
VALUE = r"[+-]?[\d.,' ]*\d ?%?|\d+[-/.:]\d+[-/.:T]\d.*"
# What a file is read as that is not UTF-8: Windows' superset of latin-1.
LEGACY = "cp1252"


def _decoded(sample: bytes, encoding: str, path: str) -> str:
    if b"\0" in sample and not encoding.startswith("utf-16"):
        raise BadData(f"{path}: not a text file: it holds NUL bytes")
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample, final=len(sample) < SAMPLE)
    except LookupError:
        raise BadData(f"--encoding: Python knows no encoding {encoding!r}") from None
    except UnicodeDecodeError as error:
        raise BadData(f"{path}: not a text file in {encoding}: {error.reason}; --encoding names another") from None


def _rows(body, delimiter):
    """Rows of the sample: the number of the line that each begins with, of the one after it, and its cells."""
    if delimiter == " ":
        return [(number, number + 1, line.split()) for number, line in body[:ROWS] if line.strip()]
    rows, reader, last = [], csv.reader((line for _, line in body), delimiter=delimiter), 0
    try:
        for row in itertools.islice(reader, ROWS):
            here, last = last, reader.line_num
            if row and any(map(str.strip, row)):
                rows.append((body[here][0], body[last - 1][0] + 1, row))
    except csv.Error:
        pass  # a field longer than the module takes: what came before it will do
    return rows


def _delimiter(lines: list[str]) -> str:
    """The one that divides the most lines into the same number of fields."""
    best, score = ",", 0.0
    for candidate in ("\t", ";", "|", ",", " "):
        rows = [row for _, _, row in _rows(list(enumerate(lines[:100])), candidate)]
        if not rows:
            continue
        fields, times = Counter(map(len, rows)).most_common(1)[0]
        regular = times / len(rows) - (len(rows[0]) < fields - 1) * 0.5  # the header says it, too
        if fields > 1 and regular > score + (0.3 if candidate == " " else 0.01):
            best, score = candidate, regular
    return best


def _is_header(top, below, na) -> bool:
    """Whether names stand over values: words over numbers, or words that do not come again below them."""
    if not below:
        return not any(Numbers().pattern.fullmatch(cell) for cell in top)
    if len(top) > 1 and top in ([str(i) for i in range(len(top))], [str(i + 1) for i in range(len(top))]):
        return below[0] != top
    columns = list(zip(*below, strict=True))
    counted = [cell for j, cell in enumerate(top) if cell in (str(j), str(j + 1))]
    words = [(cell, column) for cell, column in zip(top, columns, strict=False) if cell not in counted]
    if (
        len(counted) > 1
        and words
        and all(cell and not cell[0].isdigit() and cell not in column for cell, column in words)
    ):
        return True  # pandas' names for columns without, and a name for the labels
    if len(columns) != len(top):
        return True  # names of rows have no name

    def is_value(cell):
        return bool(Numbers().pattern.fullmatch(cell) or re.fullmatch(VALUE, cell.strip()))

    over_values = [
        (cell, is_missing(cell, na))
        for cell, column in zip(top, columns, strict=True)
        if all(is_value(value) or is_missing(value, na) for value in column)
        and not all(is_missing(value, na) for value in column)
    ]
    if any(not is_value(cell) and not missing for cell, missing in over_values):
        return True
    if any(is_value(cell) for cell, _ in over_values):
        return False
    again = any(cell in column for cell, column in zip(top, columns, strict=True) if cell)
    return not again and len(set(top)) == len(top)
