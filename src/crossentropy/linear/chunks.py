"""How many rows of logits there are at once."""

from __future__ import annotations

from collections.abc import Iterator

MOST, LEAST = 512, 128  # rows: each chunk packs the whole weight afresh, which 512 rows make little of
LOGITS = 64 << 20  # bytes that a chunk's logits may always take


def rows_of(n: int, classes: int, itemsize: int, weight_bytes: int, asked: int | None = None) -> int:
    """The rows of a chunk, of about equal length; fewer where their logits outgrow half of the weight.

    Parameters
    ----------
    n : int
        The rows that count.
    classes : int
        V.
    itemsize : int
        Bytes of a logit.
    weight_bytes : int
        Bytes of the weight.
    asked : int, optional
        So many in place of the default.
    """
    rows = asked or max(LEAST, min(MOST, max(LOGITS, weight_bytes // 2) // max(1, classes * itemsize)))
    chunks = -(-n // rows)
    return -(-n // chunks) if chunks else 0


def slices(n: int, rows: int) -> Iterator[slice]:
    """The chunks of n rows, one after the other."""
    for first in range(0, n, rows):
        yield slice(first, min(first + rows, n))
