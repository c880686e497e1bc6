"""What each column is taken as: a number, a boolean, a category, a date, or left out, and why."""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from .dialect import Numbers, is_missing
from .source import BadData
from .table import Table, column_of


class Column(NamedTuple):
    """A column of the data, and what it is taken as."""

    name: str
    kind: str  # "number", "boolean", "category", "date"; "" where it is left out
    note: str = ""  # the way it is written, or why it is left out
    missing: int = 0
    format: str = ""  # of a date


BOOLEANS = [("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"), ("on", "off")]
_IDENTIFIER = re.compile(r"(.*[_\s-])?(id|uuid|guid|key|index|row|nr|no|number)|.*[a-z]I[dD]", re.IGNORECASE)
_ISO = re.compile(r"\d{4}[-/]\d\d?[-/]\d\d?([T ]\d.*)?")
_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y")
_WORDS = ("%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%d-%b-%Y", "%d-%b-%y")
FORMATS = [day + time for time in ("", " %H:%M", " %H:%M:%S") for day in _DAYS + _WORDS] + ["%H:%M", "%H:%M:%S"]
MOST_CATEGORIES = 1000  # more than that are text


def label_column(table: Table, label: str | None) -> int:
    """Where the labels are."""
    if label is None:
        names = ", ".join(map(repr, table.names[:30])) + " …" * (len(table.names) > 30)
        last = "" if table.header else "; --label -1 is the last one"
        raise BadData(f"{table.where}: --label must name the column of the labels; its columns are {names}{last}")
    return column_of(label, table.names, table.where, table.header)


def unique_names(names: list[str]) -> list[str]:
    """The names, none of them empty and none twice."""
    made: list[str] = []
    for number, name in enumerate(names, 1):
        name = name or f"column {number}"
        made.append(name if name not in made else f"{name} (column {number})")
    return made


def take(table: Table, *, label: int | None, drop=(), keep=(), na=()):
    """The columns beside the label, each in the type of its kind, and what each was taken as."""
    import pandas as pd

    names = unique_names(table.names)
    dropped, kept = ({column_of(each, table.names, table.where) for each in those} for those in (drop, keep))
    taken, columns = {}, []
    for at, name in enumerate(names):
        if at == label:
            continue
        if at in dropped:
            columns.append(Column(name, "", "--drop"))
            continue
        values, column = _recognised(table.frame[at], name, table, na)
        why = "" if at in kept else _useless(values, column, table.names[at])
        if column.kind and not why:
            taken[name] = values
        columns.append(column if not why else column._replace(kind="", note=why))
    if not taken:
        left = "".join(f"; {column.name!r}: {column.note}" for column in columns[:3])
        raise BadData(f"{table.where}: no features beside the label{left}")
    return pd.DataFrame(taken, copy=False), columns


def take_as(table: Table, columns: list[Column], na=()):
    """The columns that a model was made of, as its own data had them; and how many values could not be read so."""
    import pandas as pd

    names = unique_names(table.names)
    absent = [column.name for column in columns if column.kind and column.name not in names]
    if absent:
        raise BadData(
            f"{table.where}: no column {absent[0]!r}{f' and {len(absent) - 1} more' if len(absent) > 1 else ''}, "
            f"which the model needs; its columns are {', '.join(map(repr, names[:30]))}"
        )
    taken, unread = {}, {}
    for column in columns:
        if not column.kind:
            continue
        series = table.frame[names.index(column.name)]
        values = _as_kind(series, column, table.numbers, na)
        taken[column.name] = values
        lost = int(pd.isna(values).sum()) - int(_blank(series, na).sum())
        if lost > 0:
            unread[column.name] = lost
    return pd.DataFrame(taken), unread


# ---------------------------------------------------------------------- one column


def _is_text(series) -> bool:
    import pandas as pd

    return not (pd.api.types.is_numeric_dtype(series) or pd.api.types.is_datetime64_any_dtype(series))


def _blank(series, na):
    """Which values are missing."""
    import pandas as pd

    if not _is_text(series):
        return series.isna().to_numpy()
    codes, uniques = pd.factorize(series)
    blank = np.array([is_missing(str(value), na) for value in uniques] + [True])
    return blank[codes]


def _recognised(series, name, table, na):
    """The values in the type of their kind, and the column."""
    import pandas as pd

    kind = pd.api.types
    if kind.is_bool_dtype(series):
        values = series.astype(np.float64)
        return values, Column(name, "boolean", "true is 1", int(values.isna().sum()))
    if kind.is_numeric_dtype(series):
        values = series.astype(np.float64)
        infinite = np.isinf(values.to_numpy())
        if infinite.any():
            at = int(infinite.argmax())
            raise BadData(
                f"{table.where}: feature {name!r} of observation {at + 1} is {values.iloc[at]}, not a finite number"
            )
        return values, Column(name, "number", "", int(values.isna().sum()))
    if kind.is_datetime64_any_dtype(series):
        values = _naive(series)
        return values, Column(name, "date", "", int(values.isna().sum()), "ISO8601")
    if series.map(lambda value: isinstance(value, dict | list)).any():
        return None, Column(name, "", "nested values")
    codes, uniques = pd.factorize(series)
    texts = [str(value).strip() for value in uniques]
    held = [text for text in texts if not is_missing(text, na)]
    missing = int(_blank(series, na).sum())
    if not held:
        return None, Column(name, "", "no values", missing)
    column = _kind_of(name, held, table, codes, texts, na)._replace(missing=missing)
    return _as_kind(series, column, table.numbers, na), column


def _kind_of(name, held, table, codes, texts, na) -> Column:
    unit = _unit(held)
    numbers = [_number(text, table.numbers, unit) for text in held]
    if None not in numbers:
        if any(map(np.isinf, numbers)):
            return _refuse_infinity(name, table, codes, texts)
        note = "per cent" if any(text.endswith("%") for text in held) else unit and f"in {unit}"
        return Column(name, "number", note, format=unit)
    lower = {text.lower() for text in held}
    for yes, no in BOOLEANS:
        if lower <= {yes, no}:
            return Column(name, "boolean", f"{yes} is 1")
    found = _date_format(held)
    if found:
        return Column(name, "date", note=found[1], format=found[0])
    if all(map(_DURATION.fullmatch, held)):
        return Column(name, "number", "a duration, in seconds", format="duration")
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    how = {text: _number(text, table.numbers) for text in held}
    words = Counter({text: int(counts[i]) for i, text in enumerate(texts) if how.get(text, 0) is None})
    total = sum(int(counts[i]) for i, text in enumerate(texts) if text in how)
    if sum(words.values()) <= 0.2 * total:
        ((word, _),) = words.most_common(1)
        at = int(np.flatnonzero(codes == texts.index(word))[0])
        raise BadData(
            f"{table.where}: column {name!r} is not numeric: observation {at + 1} holds {word!r}, "
            f"as {sum(words.values())} of {total} values are no numbers; --na {word!r} takes it as missing, "
            f"--drop {name!r} leaves the column out"
        )
    return Column(name, "category", f"{len(held)} categories")


def _refuse_infinity(name, table, codes, texts):
    at = next(i for i, text in enumerate(texts) if np.isinf(_number(text, table.numbers) or 0))
    where = int(np.flatnonzero(codes == at)[0])
    raise BadData(f"{table.where}: feature {name!r} of observation {where + 1} is {texts[at]}, not a finite number")


_DURATION = re.compile(r"\d+:[0-5]\d(:[0-5]\d([.,]\d+)?)?")
_UNIT = re.compile(r"[\d.,' \u00a0\u202f]*\d ?([^\W\d_]{1,8}|°[CF]?|µ\w)([²³]|/\w+)?")
_CURRENCY = re.compile(r"[$€£¥₹]|\b(EUR|USD|GBP|CHF|JPY|CNY|INR|CAD|AUD|SEK|NOK|DKK|PLN)\b")


def _unit(held: list[str]) -> str:
    """What stands behind every number, some of which are no whole ones; or nothing: 12B and 13B may be rooms."""
    matches = [_UNIT.fullmatch(text.lstrip("+-\u2212 ")) for text in held]
    units = {match and match.group(0)[match.start(1) :] for match in matches}
    if len(units) > 1 or None in units or not any(re.search(r"\d[.,]\d", text) for text in held):
        return ""
    return units.pop()


def _number(text: str, numbers: Numbers, unit: str = "") -> float | None:
    """The number that is written so, also per cent, of money, in brackets as bookkeepers have losses; or None."""
    if unit == "duration":
        if not _DURATION.fullmatch(text):
            return None
        parts = [float(part.replace(",", ".")) for part in text.split(":")]
        return parts[0] * 3600 + parts[1] * 60 + sum(parts[2:])
    plain = _CURRENCY.sub("", text.removesuffix(unit).removesuffix("%").strip(), count=1).strip().strip("'")
    for mark, instead in ("\u2212", "-"), ("\u00a0", ""), ("\u202f", ""):
        plain = plain.replace(mark, instead)
    if plain[:1] == "(" and plain[-1:] == ")" and plain[1:2] not in "+-":
        plain = f"-{_CURRENCY.sub('', plain[1:-1]).strip()}"
    if not numbers.pattern.fullmatch(plain):
        return None
    if numbers.thousands:
        plain = plain.replace(numbers.thousands, "")
    return float(plain.replace(numbers.decimal, "."))


def _date_format(held: list[str]) -> tuple[str, str] | None:
    """The format in which all are dates or times, and a word about it."""
    import pandas as pd

    def suits(format_, these):
        return bool(pd.to_datetime(pd.Series(these), format=format_, errors="coerce", utc=True).notna().all())

    iso = [text.replace("/", "-") for text in held if _ISO.fullmatch(text)]
    if len(iso) == len(held):
        return ("ISO8601", "") if suits("ISO8601", iso) else None
    if iso and suits("ISO8601", iso):
        others = _date_format([text for text in held if not _ISO.fullmatch(text)])
        return others and (f"ISO8601 or {others[0]}", f"written in two ways; {others[1]}".removesuffix("; "))
    if not all(any(c.isdigit() for c in text) for text in held[:50]):
        return None
    for format_ in FORMATS:
        if suits(format_, held[:50]) and suits(format_, held):
            swapped = format_.translate(str.maketrans("dm", "md"))
            either = swapped != format_ and swapped in FORMATS and suits(swapped, held)
            return format_, "day before month, though month before day would do" if either else ""
    return None


def _naive(series):
    """Dates without a time zone, in UTC if they had one."""
    return series.dt.tz_convert("UTC").dt.tz_localize(None) if series.dt.tz is not None else series


def _as_kind(series, column: Column, numbers: Numbers, na):
    """The values as that kind, missing where they are missing or can't be read so."""
    import pandas as pd

    if not _is_text(series):
        if column.kind in ("number", "boolean"):
            return series.astype(np.float64)
        if column.kind == "date":
            return _naive(series) if pd.api.types.is_datetime64_any_dtype(series) else pd.to_datetime(series)
        series = series.astype(str)
    codes, uniques = pd.factorize(series)
    texts = [str(value).strip() for value in uniques]
    texts = [None if is_missing(text, na) else text for text in texts]
    if column.kind == "number":
        unit = column.format
        values = [np.nan if text is None or (x := _number(text, numbers, unit)) is None else x for text in texts]
        return pd.Series(np.array([*values, np.nan])[codes])
    if column.kind == "boolean":
        meaning = {yes: float(i == 0) for pair in BOOLEANS for i, yes in enumerate(pair)} | {"1": 1.0, "0": 0.0}
        values = [np.nan if text is None else meaning.get(text.lower(), np.nan) for text in texts]
        return pd.Series(np.array([*values, np.nan])[codes])
    if column.kind == "date":
        written, dates = pd.Series([*texts, None], dtype=object), None
        for format_ in column.format.split(" or "):
            plain = written.str.replace("/", "-") if format_ == "ISO8601" and any(texts) else written
            found = pd.to_datetime(plain, format=format_, errors="coerce", utc=True).dt.tz_localize(None)
            dates = found if dates is None else dates.fillna(found)
        return dates.take(codes).reset_index(drop=True)
    values = np.array([*(np.nan if text is None else text for text in texts), np.nan], dtype=object)
    return pd.Series(values[codes], dtype=object)


def _useless(values, column: Column, name: str) -> str:
    """Why a column is left out that says nothing of the class of other observations; or nothing."""
    import pandas as pd

    if values is None or not column.kind:
        return column.note
    if column.kind == "category":
        different, held = int(values.nunique()), len(values) - column.missing
        if different == held and held >= 20:
            return "an identifier: every value once"
        if different > MOST_CATEGORIES or (different > 100 and different > 0.5 * held):
            return f"text: {different} different values"
        return "" if different > 1 or column.missing else "the same everywhere"
    if column.kind == "date":
        return "" if column.missing or values.nunique() > 1 else "the same everywhere"
    x = values.to_numpy()
    if column.missing == len(x):
        return "no values"
    if not column.missing and len(x) > 1 and (x == x[0]).all():
        return "the same everywhere"
    if not column.missing and len(x) >= 10 and x[0] in (0, 1) and (np.diff(x) == 1).all():
        return "an index: it counts the observations"
    if not name or _IDENTIFIER.fullmatch(name):
        whole = x[~np.isnan(x)]
        if len(whole) >= 10 and (whole == np.floor(whole)).all() and len(pd.unique(whole)) == len(whole):
            return "an identifier: every value once"
    return ""
