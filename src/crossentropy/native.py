"""The native backend by its public name: what it was built with, and the machine's memory at its best."""

from ._backends.native import (
    ISAS,
    OPENMP,
    STREAM_ROW,
    SUPPORTED_ISAS,
    current_isa,
    current_threads,
    isa_named,
    stream,
)

__all__ = [
    "ISAS",
    "OPENMP",
    "STREAM_ROW",
    "SUPPORTED_ISAS",
    "current_isa",
    "current_threads",
    "isa_named",
    "stream",
]
