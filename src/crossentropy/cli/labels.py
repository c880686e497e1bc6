"""Labels as text, their classes in natural order, and the observations of each class divided in proportion."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

import numpy as np

from .source import BadData


def as_text(series, na=()):
    """Labels as they are written, without spaces around them; "" where there is none."""
    import pandas as pd

    if pd.api.types.is_float_dtype(series) and not pd.api.types.is_string_dtype(series):
        held = series.dropna()
        if not np.isfinite(held.to_numpy()).all():
            raise BadData(f"a label is {held[~np.isfinite(held.to_numpy())].iloc[0]}: labels must be finite")
        if (held == np.floor(held)).all():
            series = series.astype("Int64")  # where a missing label does not make 1 of another 1.0
    if series.dtype == object and series.map(lambda value: isinstance(value, dict | list)).any():
        raise BadData("the labels are nested values, where text or numbers are needed")
    codes, uniques = pd.factorize(series)
    texts = np.array([*(str(value).strip() for value in uniques), ""], dtype=object)
    texts[np.isin(texts, list(na))] = ""
    return texts[codes]


def natural(texts) -> list[str]:
    """In the order in which a person has them: 2 before 10, 9.5 before 10.0, a2 before a10."""

    def words(text):
        parts = re.split(r"(\d+)", text)
        return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], text

    try:
        return sorted(texts, key=lambda text: (_finite(text), text))
    except InvalidOperation:
        return sorted(texts, key=words)


def _finite(text: str) -> Decimal:
    number = Decimal(text)
    if not number.is_finite():
        raise InvalidOperation
    return number


def looks_continuous(classes: list[str], count: int) -> bool:
    """Whether labels are numbers of so many different values that they are more likely a quantity than classes."""
    try:
        numbers = [_finite(text) for text in classes]
    except InvalidOperation:
        return False
    fractions = any(number != int(number) for number in numbers)
    return len(classes) > (20 if fractions else 100) and len(classes) > (0.05 if fractions else 0.2) * count


def divided(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two parts, of which the second has that fraction of each class, and the first one of each at least.

    By scikit-learn's train_test_split, but for classes so rare that it refuses them, or leaves the first part without.
    """
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(np.arange(len(y)), test_size=fraction, random_state=seed, stratify=y)
        if len(np.unique(y[first])) == len(np.unique(y)):
            return first, second
    except ValueError:
        pass
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]  # class by class
    counts = np.bincount(y)
    counts = counts[counts > 0]
    wanted = counts * fraction
    second = np.minimum(np.floor(wanted).astype(int), counts - 1)
    room = np.flatnonzero(second < counts - 1)
    missing = max(round(len(y) * fraction) - int(second.sum()), 0)
    second[room[np.argsort((second - wanted)[room], kind="stable")][:missing]] += 1
    starts = np.cumsum(counts) - counts
    chosen = np.zeros(len(y), bool)
    for start, n in zip(starts, second, strict=True):
        chosen[order[start : start + n]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
