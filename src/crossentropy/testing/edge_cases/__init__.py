"""The design's table of edge cases, by name; for `crossentropy.testing`. A file for each theme enters its own."""

from __future__ import annotations

from . import (
    arguments,
    axes,
    binary,
    blocks,
    distillation,
    linear,
    log_softmax,
    options,
    row_statistics,
    second_derivatives,
    shapes,
    sums,
    targets,
    values,
)
from .case import EDGE_CASES, both

__all__ = [
    "EDGE_CASES",
    "arguments",
    "axes",
    "binary",
    "blocks",
    "both",
    "distillation",
    "linear",
    "log_softmax",
    "options",
    "row_statistics",
    "second_derivatives",
    "shapes",
    "sums",
    "targets",
    "values",
]
