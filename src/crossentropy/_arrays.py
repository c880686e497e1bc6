"""How arrays lie in memory, wherever that is: the arithmetic of shapes and strides that checks and backends share."""

from __future__ import annotations

from collections.abc import Sequence


def merged_rows(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """The row dimensions of several arrays, neighbours merged where every array lets them be.

    Parameters
    ----------
    shape : sequence of int
        Of the rows, which all arrays have.
    strides : sequence of sequences of int
        Of each array, by dimension.

    Returns
    -------
    list of (size, strides)
        A dimension each, from the slowest; strides has one number for each array. Dimensions of size 1 are left out.
    """
    kept: list[tuple[int, list[int]]] = []
    for d, size in enumerate(shape):
        if size == 1:
            continue
        here = [of[d] for of in strides]
        if kept and all(outer == size * inner for outer, inner in zip(kept[-1][1], here, strict=True)):
            kept[-1] = (kept[-1][0] * size, here)
        else:
            kept.append((size, here))
    return kept
