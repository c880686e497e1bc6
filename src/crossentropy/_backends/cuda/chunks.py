"""How many rows of logits there are at once on a device, and of how many rows their 16-bit gradients are kept."""

from __future__ import annotations

MOST, LEAST = 4096, 2048  # rows: each chunk reads the whole weight, and adds to its whole gradient
LOGITS = 1 << 30  # bytes that a chunk's logits may always take


def logit_rows(n: int, classes: int, itemsize: int, weight_bytes: int, asked: int | None = None) -> int:
    """The rows of a chunk, of about equal length; fewer where their logits outgrow the weight.

    Parameters
    ----------
    n : int
        Rows.
    classes : int
        V.
    itemsize : int
        Bytes of a logit.
    weight_bytes : int
        Bytes of the weight's gradient while it is summed.
    asked : int, optional
        So many in place of the default.
    """
    rows = asked or max(LEAST, min(MOST, max(LOGITS, weight_bytes) // (classes * itemsize)))
    chunks = -(-n // rows)
    return -(-n // chunks) if chunks else 0


def grad_rows(n: int, rows: int, columns: int) -> int:
    """Of how many rows 16-bit gradients are kept: all for one product, or those of a chunk.

    Of 2 H rows they take the 4 V H bytes of a float32 sum of the weight's gradient, which one product can do without.
    """
    return n if n <= max(rows, 2 * columns) else rows
