"""What is in force for a call: the settings of `config`, over the environment's, over the machine's own."""

from __future__ import annotations

import contextvars
import functools
import os
from types import ModuleType
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """What ``config`` sets; None leaves the choice to the environment and then to the machine."""

    backend: str | ModuleType | None = None
    threads: int | None = None
    isa: str | None = None
    check: bool | None = None


# The settings in force, innermost last: kept in the context alone, so that one `config` may be entered by many threads.
_stack: contextvars.ContextVar[tuple[Settings, ...]] = contextvars.ContextVar("crossentropy", default=(Settings(),))


def enter(given: dict[str, Any]) -> None:
    """Put settings over those in force."""
    inherited = _stack.get()
    _stack.set((*inherited, inherited[-1]._replace(**given)))


def leave() -> None:
    """Take the last ones off again."""
    _stack.set(_stack.get()[:-1])


class Environment(NamedTuple):
    """The settings of the process, from its environment variables."""

    backend: str | None
    threads: int
    isa: str | None


@functools.cache
def _environment() -> Environment:
    """Read at the first call and kept: os.environ decodes a variable each time it is asked."""
    return Environment(
        os.environ.get("CROSSENTROPY_BACKEND") or None, _default_threads(), os.environ.get("CROSSENTROPY_ISA") or None
    )


def _default_threads() -> int:
    own, openmp = os.environ.get("CROSSENTROPY_NUM_THREADS"), os.environ.get("OMP_NUM_THREADS")
    if own:
        if not own.strip().isdecimal() or not int(own):
            raise ValueError(f"CROSSENTROPY_NUM_THREADS must be a positive integer, got {own!r}")
        return int(own)
    first = (openmp or "").split(",")[0].strip()  # "4", or "4,2" for nested regions; its form is OpenMP's to judge
    return int(first) if first.isdecimal() and int(first) else processors()


def processors() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend() -> str | ModuleType | None:
    """The backend asked for by config or CROSSENTROPY_BACKEND; None for the best available."""
    return _stack.get()[-1].backend or _environment().backend


def checks_targets() -> bool:
    """Whether a bad target raises (the default on the CPU) or gives NaN in its row."""
    return _stack.get()[-1].check is not False


def checks_targets_on_device() -> bool:
    """Whether a bad target on a CUDA device raises, which waits for the device; by default it doesn't."""
    return _stack.get()[-1].check is True


def threads() -> int:
    """Threads for a call: by config, CROSSENTROPY_NUM_THREADS, OMP_NUM_THREADS, else one for each CPU; never more."""
    return min(_stack.get()[-1].threads or _environment().threads, processors())


def isa() -> str | None:
    """The ISA asked for by config or CROSSENTROPY_ISA; None for the best."""
    return _stack.get()[-1].isa or _environment().isa
