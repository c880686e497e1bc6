"""Which backends there are, which one a call uses, and the settings that decide it.

A backend is a module with the functions listed in _reference_backend.py. It is imported when first needed.
"""

from __future__ import annotations

import contextvars
import functools
import importlib
import os
import sys
import warnings
from types import ModuleType
from typing import NamedTuple

from . import _device


class Backend(NamedTuple):
    """A backend by name: whether it can be used here, and if not, why not."""

    name: str
    available: bool
    reason: str


# name -> module, best first: the order of the automatic choice.
_MODULES = {"native": "native", "numba": "numba_cpu", "reference": "_reference_backend"}


class Settings(NamedTuple):
    """What ``config`` sets; None leaves the choice to the environment and then to the machine."""

    backend: str | ModuleType | None = None
    threads: int | None = None
    isa: str | None = None
    check: bool | None = None


# The settings in force, innermost last: kept in the context alone, so that one `config` may be entered by many threads.
_settings: contextvars.ContextVar[tuple[Settings, ...]] = contextvars.ContextVar("crossentropy", default=(Settings(),))
_loaded: dict[str, ModuleType | ImportError] = {}
_warned = False


def _load(name: str) -> ModuleType | ImportError:
    if name not in _loaded:
        try:
            _loaded[name] = importlib.import_module(f".{_MODULES[name]}", __package__)
        except ImportError as error:
            _loaded[name] = error
    return _loaded[name]


def backends() -> tuple[Backend, ...]:
    """The backends in the order of the automatic choice, and last that for arrays on a CUDA device.

    Returns
    -------
    tuple of Backend
        Named tuples (name, available, reason); reason is empty where the backend is available, and otherwise says what
        is missing.
    """
    found = {name: _load(name) for name in _MODULES}
    reasons = {name: "" if isinstance(got, ModuleType) else str(got) for name, got in found.items()}
    reasons["cuda"] = _device.reason()
    return tuple(Backend(name, not reason, reason) for name, reason in reasons.items())


def _named(name: str | ModuleType) -> ModuleType:
    """The backend that was asked for by name, or as a module of its own."""
    if isinstance(name, ModuleType):
        return name
    if name == "cuda":
        raise ValueError("backend 'cuda' is not chosen: it serves whatever arrays lie on a device, and these alone")
    if name not in _MODULES:
        raise ValueError(f"backend must be one of {', '.join(map(repr, _MODULES))}, got {name!r}")
    got = _load(name)
    if isinstance(got, ImportError):
        available = ", ".join(repr(b.name) for b in backends() if b.available and b.name in _MODULES)
        raise RuntimeError(f"backend {name!r} is not available: {got}; available: {available}") from got
    return got


def _levels_to_the_caller() -> int:
    """The stacklevel, seen from where this is called, of the first frame outside the package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    return level


def _automatic() -> ModuleType:
    global _warned
    best = next(iter(_MODULES))
    for name in _MODULES:
        got = _load(name)
        if not isinstance(got, ModuleType):
            continue
        if name != best and not _warned:
            _warned = True
            message = f"crossentropy falls back from its {best!r} backend to {name!r}, which is slower: {_load(best)}"
            warnings.warn(message, RuntimeWarning, stacklevel=_levels_to_the_caller())
        return got
    raise RuntimeError("no backend can be imported")  # pragma: no cover: the reference needs nothing


class Environment(NamedTuple):
    """The settings of the process, from its environment variables."""

    backend: str | None
    threads: int
    isa: str | None


@functools.cache
def _environment() -> Environment:
    """Read once, at the first call: os.environ takes 2 us a variable."""
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


def current() -> ModuleType:
    """The backend of this context: by config, by CROSSENTROPY_BACKEND, or the best available."""
    name = _settings.get()[-1].backend or _environment().backend
    return _named(name) if name else _automatic()


def light():
    """The backend's short way for small plain arrays without options, or None where it has none."""
    return getattr(current(), "light", None)


def checks_targets() -> bool:
    """Whether a bad target raises (the default on the CPU) or gives NaN in its row."""
    return _settings.get()[-1].check is not False


def checks_targets_on_device() -> bool:
    """Whether a bad target on a CUDA device raises, which waits for the device; by default it doesn't."""
    return _settings.get()[-1].check is True


def threads() -> int:
    """Threads for a call: by config, CROSSENTROPY_NUM_THREADS, OMP_NUM_THREADS, else one for each CPU; never more."""
    return min(_settings.get()[-1].threads or _environment().threads, processors())


def isa() -> str | None:
    """The ISA asked for by config or CROSSENTROPY_ISA; None for the best."""
    return _settings.get()[-1].isa or _environment().isa


class config:
    """Settings for the calls in a ``with`` block.

    Parameters
    ----------
    backend : str or module, optional
        A name from ``backends()``; environment variable CROSSENTROPY_BACKEND. Or a module with the functions that
        ``crossentropy/_reference_backend.py`` lists: a backend of one's own (see `crossentropy.testing`).
    threads : int, optional
        At most so many threads in a call, and never more than the process has CPUs; CROSSENTROPY_NUM_THREADS, then
        OMP_NUM_THREADS. Any number gives the same bits.
    isa : str, optional
        An instruction set of the native backend: ``'avx512'``, ``'avx2'`` or ``'base'``; CROSSENTROPY_ISA.
    check : bool, optional
        Whether a target that is no class raises. False lets it through: its row's loss and gradient are then NaN (and
        so is the sum or mean). By default it raises on the host and does not on a CUDA device, where True waits for
        the device in each call.

    Raises
    ------
    ValueError
        For an unknown backend or ISA, or a number of threads below 1.
    RuntimeError
        For a backend or ISA that is known but not available here; the message lists what is.

    Notes
    -----
    Settings belong to the context (``contextvars``): a new thread starts from the defaults, an asyncio task inherits.
    Environment variables are read once, at the first call.

    Examples
    --------
    >>> with crossentropy.config(threads=1, isa="avx2"):
    ...     crossentropy.cross_entropy(logits, targets)
    """

    def __init__(self, *, backend=None, threads=None, isa=None, check=None):
        if backend is not None:
            _named(backend)
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise ValueError(f"threads must be a positive integer, got {threads!r}")
        if isa is not None:
            _named("native").isa_named(isa)
        if check is not None and not isinstance(check, bool):
            raise ValueError(f"check must be True or False, got {check!r}")
        given = {"backend": backend, "threads": threads, "isa": isa, "check": check}
        self._given = {name: value for name, value in given.items() if value is not None}

    def __enter__(self):
        inherited = _settings.get()
        _settings.set((*inherited, inherited[-1]._replace(**self._given)))
        return self

    def __exit__(self, *exception):
        _settings.set(_settings.get()[:-1])
