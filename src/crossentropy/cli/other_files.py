"""Files that say of themselves what they hold: JSON, Parquet, NumPy's; each function as reading.py has one for text."""

from __future__ import annotations

import contextlib
import io
import warnings
from json import loads

import numpy as np

from .source import BadData
from .table import Table


def json(source, options, label, known, progress) -> Table:
    """Lines of JSON objects, or a list of them."""
    import pandas as pd

    try:
        text = source.unpacked().read().decode(options.encoding or "utf-8-sig").lstrip()
        if text.startswith("{") and (rows := _rows(text)) is not None:
            return _frame(source, rows, "JSON")
        lines = text.startswith("{")
        with warnings.catch_warnings(action="ignore"):  # convert_dates goes with pandas 4, by when it is off
            frame = pd.read_json(io.StringIO(text), lines=lines, dtype=False, convert_dates=False, convert_axes=False)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadData(f"{source.path}: not lines of JSON objects, nor a list of them: {error}") from None
    return _frame(source, frame, "JSON")


def _rows(text):
    """The rows of one JSON object: its only list of objects, or its members as columns; None for lines of objects."""
    import pandas as pd

    first, _, others = text.partition("\n")
    with contextlib.suppress(ValueError):
        loads(first)
        if others.strip():
            return None
    held = loads(text)
    records = [value for value in held.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(records) == 1:
        return pd.DataFrame(records[0])
    if set(held) >= {"columns", "data"}:  # as pandas splits tables
        return pd.DataFrame(held["data"], columns=held["columns"])
    if all(isinstance(value, dict | list) for value in held.values()):
        return pd.DataFrame(held).reset_index(drop=True)
    return None


def parquet(source, options, label, known, progress) -> Table:
    """A Parquet file, by PyArrow."""
    import pandas as pd

    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BadData(f"{source.path}: .parquet needs PyArrow: python -m pip install pyarrow") from None
    try:
        frame = pq.read_table(io.BytesIO(source.unpacked().read())).to_pandas(ignore_metadata=True)
    except pa.ArrowInvalid as error:
        raise BadData(f"{source.path}: not a Parquet file: {error}") from None
    return _frame(source, pd.DataFrame(frame), "Parquet")


def sheet(source) -> tuple[bytes, str]:
    """The first sheet of an Excel workbook as a file of CSV, and a word about where it was."""
    import pandas as pd

    try:
        import openpyxl  # noqa: F401
    except ImportError:
        raise BadData(f"{source.path}: .xlsx needs openpyxl: python -m pip install openpyxl") from None
    try:
        with warnings.catch_warnings(action="ignore"):  # of styles and the like
            book = pd.ExcelFile(io.BytesIO(source.unpacked().read()), engine="openpyxl")
            cells = book.parse(0, header=None, dtype=object, keep_default_na=False)
    except Exception as error:  # of zipfile, of an XML parser, of openpyxl
        raise BadData(f"{source.path}: not a workbook that can be read: {error}") from None
    filled = cells.notna() & (cells != "")
    cells = cells.loc[filled.any(axis=1), filled.any(axis=0)]
    names = book.sheet_names
    said = f"sheet {names[0]!r}" + (f", the first of {len(names)}" if len(names) > 1 else "")
    return cells.to_csv(header=False, index=False).encode(), said


def _frame(source, frame, kind) -> Table:
    names = ["" if str(name).startswith("__index_level_") else str(name) for name in frame.columns]
    frame.columns = range(len(names))
    return Table(source.name, source.path, frame, names, True, f"{kind}, {len(names)} columns")


def npz(source, options, label, known, progress) -> Table:
    """A matrix of features and an array of labels in an .npz file."""
    try:
        with np.load(io.BytesIO(source.unpacked().read()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive: from zipfile, zlib, or the tokenizer that reads NumPy's headers
        raise BadData(f"{source.path}: not an .npz file of plain arrays: {error}") from None
    label = "y" if label is None else label
    held = f"it holds {', '.join(map(repr, arrays)) or 'nothing'}"
    labels = arrays.pop(label, None)
    if labels is None and not known:
        raise BadData(f"{source.path}: no array {label!r} for the labels (--label); {held}")
    matrices = {name: value for name, value in arrays.items() if value.ndim == 2}
    if len(matrices) != 1:
        raise BadData(f"{source.path}: exactly one array beside {label!r} must be a matrix of features; {held}")
    name, x = matrices.popitem()
    if x.dtype.kind not in "fiub":
        raise BadData(f"{source.path}: array {name!r} is not numeric: dtype {x.dtype}")
    said = f"NumPy's arrays {name!r}" + (f" and {label!r}" if labels is not None else "")
    table = _matrix(source, x, said)
    if labels is None:
        return table
    if labels.shape != x.shape[:1]:
        raise BadData(
            f"{source.path}: {label!r} has shape {labels.shape}, {name!r} {x.shape}: one label a row is needed"
        )
    if labels.dtype.kind not in "iubfUS":
        raise BadData(f"{source.path}: labels {label!r} must be integers, strings or numbers, got {labels.dtype}")
    table.frame[x.shape[1]] = labels.astype(str) if labels.dtype.kind in "US" else labels
    return table._replace(names=[*table.names, label])


def npy(source, options, label, known, progress) -> Table:
    """A matrix, or records, in an .npy file."""
    try:
        x = np.load(io.BytesIO(source.unpacked().read()), allow_pickle=False)
    except ValueError as error:
        raise BadData(f"{source.path}: not an .npy file of a plain array: {error}") from None
    if x.dtype.names:
        import pandas as pd

        return _frame(source, pd.DataFrame({name: x[name] for name in x.dtype.names}), "NumPy's records")
    if x.ndim != 2 or x.dtype.kind not in "fiubUS":
        raise BadData(f"{source.path}: must be a matrix of numbers or strings, got {x.dtype} of shape {x.shape}")
    return _matrix(source, x, "a NumPy matrix")


def _matrix(source, x, said) -> Table:
    import pandas as pd

    frame = pd.DataFrame(x.astype(str) if x.dtype.kind in "US" else x)
    names = [str(column + 1) for column in range(x.shape[1])]
    return Table(source.name, source.path, frame, names, False, f"{said}: columns are numbered from 1")
