"""Labelled data for the command line: scikit-learn's bundled sets, or a user's .csv or .npz file."""

from __future__ import annotations

import contextlib
import csv
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

BUNDLED = ("digits", "wine", "iris", "breast_cancer")


class BadData(Exception):
    """Data that can't be trained on; the message is one line that says where and why."""


class Dataset(NamedTuple):
    """N observations of D features: x float64 (N, D), y int64 (N,) into ``classes``; the names are strings."""

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: list[str]
    features: list[str]


def load(data: str, label: str | None) -> Dataset:
    """The data set of that name or path; ``label`` names the label column (.csv) or array (.npz)."""
    if data in BUNDLED:
        if label is not None:
            raise BadData(f"--label goes with a file; {data} has its own labels")
        return _bundled(data)
    path = Path(data)
    readers = {".csv": _csv, ".npz": _npz}
    if path.suffix.lower() not in readers:
        raise BadData(f"--data must be one of {', '.join(BUNDLED)}, or a .csv or .npz file, got {data!r}")
    try:
        x, labels, features = readers[path.suffix.lower()](path, label)
    except FileNotFoundError:
        raise BadData(f"{path}: no such file") from None
    except OSError as error:
        raise BadData(f"{path}: {error.strerror or error}") from None
    return _checked(path.stem, x, labels, features, str(path))


def split(data: Dataset, test_fraction: float, seed: int):
    """Indices of the training and the test observations, each class divided in proportion."""
    from sklearn.model_selection import train_test_split

    counts = np.bincount(data.y)
    if counts.min() < 2:
        rare = data.classes[int(counts.argmin())]
        raise BadData(f"class {rare!r} occurs once: training and test data need one observation of each class")
    try:
        return train_test_split(np.arange(len(data.y)), test_size=test_fraction, random_state=seed, stratify=data.y)
    except ValueError as error:
        raise BadData(f"{len(data.y)} observations of {len(counts)} classes can't be split: {error}") from None


def _bundled(name: str) -> Dataset:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    classes, features = map(str, bunch.target_names), map(str, bunch.feature_names)
    return Dataset(name, bunch.data.astype(np.float64), bunch.target.astype(np.int64), list(classes), list(features))


def _checked(name, x, labels, features, where) -> Dataset:
    if not len(x):
        raise BadData(f"{where}: no observations")
    if not x.shape[1]:
        raise BadData(f"{where}: no features beside the label")
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.unravel_index(int(bad.argmax()), x.shape)
        raise BadData(
            f"{where}: feature {features[column]!r} of observation {row + 1} is {x[row, column]}, not a finite number"
        )
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise BadData(f"{where}: a single class, {str(classes[0])!r}: there is nothing to tell apart")
    return Dataset(name, x, y.reshape(-1).astype(np.int64), list(map(str, classes)), features)


# ---------------------------------------------------------------------- .csv


def _csv(path: Path, label: str | None):
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            sample = file.read(65536)
            file.seek(0)
            lines = [(number, row) for number, row in enumerate(csv.reader(file, _dialect(sample)), 1) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path}: not a UTF-8 CSV file: {error}") from None
    if not lines:
        raise BadData(f"{path}: empty file")
    names = [name.strip() for name in lines[0][1]]
    if all(map(_is_number, names)):
        names = [str(column) for column in range(len(names))]  # no header
    else:
        del lines[0]
    for number, row in lines:
        if len(row) != len(names):
            raise BadData(f"{path}: line {number} has {len(row)} fields, the first line has {len(names)}")
    at = _label_column(path, names, label)
    features = [column for column in range(len(names)) if column != at]
    x = np.empty((len(lines), len(features)))
    for j, column in enumerate(features):
        for i, (number, row) in enumerate(lines):
            if not _is_number(row[column]):
                raise BadData(f"{path}: column {names[column]!r} is not numeric: line {number} holds {row[column]!r}")
            x[i, j] = float(row[column])
    labels = np.array([row[at].strip() for _, row in lines])
    if labels.size and (labels == "").any():
        raise BadData(f"{path}: line {lines[int((labels == '').argmax())][0]} has no label in column {names[at]!r}")
    with contextlib.suppress(ValueError):  # words
        labels = np.array(list(map(int, labels)))  # so that 10 comes after 9
    return x, labels, [names[column] for column in features]


def _dialect(sample: str):
    try:
        return csv.Sniffer().sniff(sample.split("\n", 1)[0], delimiters=",;\t")
    except csv.Error:
        return csv.excel


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _label_column(path: Path, names: list[str], label: str | None) -> int:
    columns = f"its columns are {', '.join(map(repr, names))}"
    if label is None:
        raise BadData(f"{path}: --label must name the column of the labels; {columns}")
    if names.count(label) > 1:
        raise BadData(f"{path}: column {label!r} occurs twice; {columns}")
    if label not in names:
        raise BadData(f"{path}: no column {label!r}; {columns}")
    return names.index(label)


# ---------------------------------------------------------------------- .npz


def _npz(path: Path, label: str | None):
    try:
        with zipfile.ZipFile(path):  # np.load also takes a lone array, whatever the file's name
            pass
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError:
        raise
    except Exception as error:  # a damaged archive: from zipfile, zlib, or the tokenizer that reads NumPy's headers
        raise BadData(f"{path}: not an .npz file of plain arrays: {error}") from None
    label = "y" if label is None else label
    held = f"it holds {', '.join(map(repr, arrays)) or 'nothing'}"
    if label not in arrays:
        raise BadData(f"{path}: no array {label!r} for the labels (--label); {held}")
    labels = arrays.pop(label)
    matrices = {name: value for name, value in arrays.items() if value.ndim == 2}
    if len(matrices) != 1:
        raise BadData(f"{path}: exactly one array beside {label!r} must be a matrix of features; {held}")
    name, x = matrices.popitem()
    if x.dtype.kind not in "fiub":
        raise BadData(f"{path}: array {name!r} is not numeric: dtype {x.dtype}")
    if labels.shape != x.shape[:1]:
        raise BadData(
            f"{path}: {label!r} has shape {labels.shape}, {name!r} has shape {x.shape}: one label a row is needed"
        )
    if labels.dtype.kind not in "iubU":
        whole = labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.floor(labels)).all()
        if not whole:
            rule = "are classes and must be integers or strings"
            raise BadData(f"{path}: labels {label!r} {rule}, got {labels.dtype} such as {labels[:3].tolist()}")
        labels = labels.astype(np.int64)
    return x.astype(np.float64), labels, [str(column) for column in range(x.shape[1])]
