"""What is in force for a call: settings of `config`, over those of `set_config`, the environment, the machine."""

from __future__ import annotations

import contextvars
import functools
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """What ``config`` and ``set_config`` set; None leaves the choice to what they stand over."""

    backend: str | ModuleType | None = None
    threads: int | None = None
    isa: str | None = None
    check: bool | None = None
    keep_memory: bool | None = None


# The settings in force, innermost last: kept in the context alone, so that one `config` may be entered by many threads.
_stack: contextvars.ContextVar[tuple[Settings, ...]] = contextvars.ContextVar("crossentropy", default=(Settings(),))


def enter(given: dict[str, Any]) -> None:
    """Put settings over those in force."""
    inherited = _stack.get()
    _stack.set((*inherited, inherited[-1]._replace(**given)))


def leave() -> None:
    """Take the last ones off again."""
    _stack.set(_stack.get()[:-1])


class _Process:
    """The settings of the process, and these over its environment: put together once, for calls, which ask often."""

    def __init__(self, own: Settings) -> None:
        self.own = own
        self.over_environment: Settings | None = None
        self.found: dict[Any, Any] = {}


_process = _Process(Settings())


def set_for_process(given: dict[str, Any]) -> None:
    """Put settings under those of every context, in every thread; None takes one off again."""
    global _process
    _process = _Process(_process.own._replace(**given))  # a new one: what a thread finds out of the old goes with it


@functools.cache
def _environment() -> Settings:
    """Read at the first call and kept: os.environ decodes a variable each time it is asked."""
    return Settings(
        os.environ.get("CROSSENTROPY_BACKEND") or None,
        _default_threads(),
        os.environ.get("CROSSENTROPY_ISA") or None,
        keep_memory=_default_keep_memory(),
    )


def once(find: Callable[[], Any]) -> Any:
    """What ``find`` comes to under the settings of this context; called once for each, since small calls ask often."""
    found, key = _process.found, (find, _stack.get()[-1])
    try:
        return found[key]
    except KeyError:
        return found.setdefault(key, find())


def _defaults() -> Settings:
    process = _process
    if process.over_environment is None:
        process.over_environment = _over(process.own, _environment())
    return process.over_environment


def _over(above: Settings, below: Settings) -> Settings:
    return below._replace(**{name: value for name, value in above._asdict().items() if value is not None})


def in_force() -> Settings:
    """All settings of this context; None where the choice is the machine's."""
    return _over(_stack.get()[-1], _defaults())


def asked_for() -> dict[str, Any]:
    """What `config` and `set_config` say here, and neither the environment nor the machine: as another one takes it."""
    found = _over(_stack.get()[-1], _process.own)
    return {name: value for name, value in found._asdict().items() if value is not None}


def _default_threads() -> int:
    own, openmp = os.environ.get("CROSSENTROPY_NUM_THREADS"), os.environ.get("OMP_NUM_THREADS")
    if own:
        if not own.strip().isdecimal() or not int(own):
            raise ValueError(f"CROSSENTROPY_NUM_THREADS must be a positive integer, got {own!r}")
        return int(own)
    first = (openmp or "").split(",")[0].strip()  # "4", or "4,2" for nested regions; its form is OpenMP's to judge
    return int(first) if first.isdecimal() and int(first) else processors()


def _default_keep_memory() -> bool | None:
    own = os.environ.get("CROSSENTROPY_KEEP_MEMORY", "").strip()
    if own not in ("", "0", "1"):
        raise ValueError(f"CROSSENTROPY_KEEP_MEMORY must be 0 or 1, got {own!r}")
    return own == "1" if own else None


def processors() -> int:
    """How many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def backend() -> str | ModuleType | None:
    """The backend asked for; None for the best available."""
    return _stack.get()[-1].backend or (_process.over_environment or _defaults()).backend


def checks_targets() -> bool:
    """Whether a bad target raises (the default on the CPU) or gives NaN in its row."""
    return in_force().check is not False


def checks_targets_on_device() -> bool:
    """Whether a bad target on a CUDA device raises, which waits for the device; by default it doesn't."""
    return in_force().check is True


def threads() -> int:
    """Threads for a call, as they were asked for or one for each CPU; never more than these."""
    return min(_stack.get()[-1].threads or _defaults().threads or 1, processors())


def keeps_memory() -> bool:
    """Whether large arrays lie in memory that is kept for the next ones."""
    own = _stack.get()[-1].keep_memory
    return (own if own is not None else (_process.over_environment or _defaults()).keep_memory) is not False


def isa() -> str | None:
    """The ISA asked for; None for the best."""
    return _stack.get()[-1].isa or (_process.over_environment or _defaults()).isa
