"""A call that is ready to be timed, and how its result is looked at."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple


def nothing():
    """What there is to do before and after most calls."""


class Prepared(NamedTuple):
    """A call that is ready to be timed; everything else here happens off the clock."""

    call: Callable[[], object]
    arrays: Callable[[object], tuple] | None  # its result as (loss or None, array or None), in NumPy
    settings: AbstractContextManager = contextlib.nullcontext()  # around every call
    restore: Callable[[], None] = nothing  # before every timing
    close: Callable[[], None] = nothing
    compile_s: float | None = None  # that its first call took, where it compiles then

    @property
    def in_place(self) -> bool:
        """Whether a call takes away its own inputs."""
        return self.restore is not nothing


def loss_alone(result):
    """Arrays of a result that is the loss."""
    return result, None


def array_alone(result):
    """Arrays of a result that is an array."""
    return None, result


def result_of(prepared: Prepared) -> tuple:
    """What one call computes."""
    with prepared.settings:
        prepared.restore()
        return prepared.arrays(prepared.call())


def compiled(prepared: Prepared) -> Prepared:
    """The same after its first call."""
    with prepared.settings:
        start = time.perf_counter()
        prepared.call()
        return prepared._replace(compile_s=time.perf_counter() - start)
