"""Which backends there are, and which one a call uses: a backend (contract.py) is imported when it is first needed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from types import EllipsisType, ModuleType
from typing import Any, NamedTuple

from .. import _memory, _settings
from .contract import FUNCTIONS


class Backend(NamedTuple):
    """A backend by name: whether it can be used here, and if not, why not."""

    name: str
    available: bool
    reason: str


# Best first, the order of the automatic choice; each is a module or folder beside this file.
_NAMES = ("native", "numba", "reference")
_loaded: dict[str, ModuleType | ImportError] = {}
_warned = False


def _load(name: str) -> ModuleType | ImportError:
    if name not in _loaded:
        try:
            _loaded[name] = importlib.import_module(f".{name}", __package__)
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

    Examples
    --------
    >>> [backend.name for backend in crossentropy.backends()]
    ['native', 'numba', 'reference', 'cuda']
    """
    found = {name: _load(name) for name in _NAMES}
    reasons = {name: "" if isinstance(got, ModuleType) else str(got) for name, got in found.items()}
    reasons["cuda"] = device_reason()
    return tuple(Backend(name, not reason, reason) for name, reason in reasons.items())


def _named(name: str | ModuleType) -> ModuleType:
    """The backend that was asked for by name, or as a module of its own."""
    if isinstance(name, ModuleType):
        missing = [function for function in FUNCTIONS if not hasattr(name, function)]
        if missing:
            raise TypeError(f"backend must have the functions of one, got {name.__name__} without {', '.join(missing)}")
        return name
    if name == "cuda":
        raise ValueError("backend 'cuda' is not chosen: it serves whatever arrays lie on a device, and these alone")
    if name not in _NAMES:
        raise ValueError(f"backend must be one of {', '.join(map(repr, _NAMES))}, got {name!r}")
    got = _load(name)
    if isinstance(got, ImportError):
        available = ", ".join(repr(b.name) for b in backends() if b.available and b.name in _NAMES)
        raise RuntimeError(f"backend {name!r} is not available: {got}; available: {available}") from got
    return got


def _levels_to_the_caller() -> int:
    """The stacklevel, seen from where this is called, of the first frame outside the package."""
    package = __package__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__package__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level


def _automatic() -> ModuleType:
    global _warned
    best = _NAMES[0]
    for name in _NAMES:
        got = _load(name)
        if not isinstance(got, ModuleType):
            continue
        if name != best and not _warned:
            _warned = True
            message = f"crossentropy falls back from its {best!r} backend to {name!r}, which is slower: {_load(best)}"
            warnings.warn(message, RuntimeWarning, stacklevel=_levels_to_the_caller())
        return got
    raise RuntimeError("no backend can be imported")  # pragma: no cover: the reference needs nothing


def current() -> ModuleType:
    """The backend of this context: by config, by CROSSENTROPY_BACKEND, or the best available."""
    name = _settings.backend()
    return _named(name) if name else _automatic()


def light() -> Callable[..., tuple[Any, ...] | None] | None:
    """The backend's way for small plain arrays without options, or None where it has none."""
    return getattr(current(), "light", None)


def light_at() -> Callable[..., float | None] | None:
    """The same by the addresses of memory (`native.light_at`), or None where it has none."""
    own = getattr(current(), "light_at", None)
    return own and own()


# ---------------------------------------------------------------------- arrays on a CUDA device

HOW = "pip install 'crossentropy[cuda13]', or [cuda12] for a driver of CUDA 12"


@functools.cache
def _found_device() -> ModuleType | str:
    """The CUDA backend, or why there is none."""
    if importlib.util.find_spec("numba_cuda") is None:  # without it numba.cuda is Numba's old one
        return f"numba-cuda is missing: {HOW}"
    try:
        backend = importlib.import_module(".cuda", __package__)
    except (ImportError, AttributeError) as error:
        return f"numba-cuda is older than 0.30, or Numba than it needs ({error}): {HOW}"
    return backend.unavailable() or backend


def device_reason() -> str:
    """Why there is no CUDA backend here; empty where there is one."""
    found = _found_device()
    return "" if isinstance(found, ModuleType) else found


def device_backend(name: str = "logits") -> ModuleType:
    """The CUDA backend, for a call whose argument of that name lies on a device."""
    found = _found_device()
    if isinstance(found, ModuleType):
        return found
    raise TypeError(f"{name} is a CUDA array, and the backend for these is not available: {found}")


# ---------------------------------------------------------------------- settings


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """Settings that can be had; None is no setting, and always can."""
    backend, threads, isa, check, keep_memory = (given.get(name) for name in _settings.Settings._fields)
    if backend is not None:
        _named(backend)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads must be a positive integer, got {threads!r}")
    if isa is not None:
        _named("native").isa_named(isa)
    if check is not None and not isinstance(check, bool):
        raise ValueError(f"check must be True or False, got {check!r}")
    if keep_memory is not None and not isinstance(keep_memory, bool):
        raise ValueError(f"keep_memory must be True or False, got {keep_memory!r}")
    return given


class config:
    """Settings for the calls in a ``with`` block, in the thread that enters it; `set_config` is for the process.

    Parameters
    ----------
    backend : str or module, optional
        A name from ``backends()``; environment variable CROSSENTROPY_BACKEND. Or a module with the functions that
        `crossentropy._backends.contract.Backend` lists: a backend of one's own (see `crossentropy.testing`).
    threads : int, optional
        At most so many threads in a call, and never more than the process has CPUs; CROSSENTROPY_NUM_THREADS, then
        OMP_NUM_THREADS. Any number gives the same bits.
    isa : str, optional
        An instruction set of the native backend: ``'avx512'``, ``'avx2'``, ``'neon'`` or ``'base'``; CROSSENTROPY_ISA.
    check : bool, optional
        Whether a target that is no class raises. False lets it through: its row's loss and gradient are then NaN (and
        so is the sum or mean). By default it raises on the host and does not on a CUDA device, where True waits for
        the device in each call.
    keep_memory : bool, optional
        Whether results of 4 MB and more on the host lie in memory that is kept for the next ones (see `empty_cache`);
        CROSSENTROPY_KEEP_MEMORY, 0 or 1. By default it is, where the system can take it back (Linux, macOS). False:
        arrays are NumPy's own, and nothing that is let go of here is kept.

    Raises
    ------
    ValueError
        For an unknown backend or ISA, a number of threads below 1, or what is neither True nor False.
    RuntimeError
        For a backend or ISA that is known but not available here; the message lists what is.

    Notes
    -----
    Settings belong to the context (``contextvars``): an asyncio task inherits them, a new thread starts from those of
    `set_config`. So does a worker of a pool that is started inside the block: hand it ``get_config()``, or the context
    itself (``pool.submit(contextvars.copy_context().run, function)``). Where ``sys.flags.thread_inherit_context`` is
    set, as on a free-threaded Python 3.14, a thread that is started inside the block inherits them. Environment
    variables are read once, at the first call.

    A limit that a program puts on the OpenMP runtime (``threadpoolctl.threadpool_limits``, ``omp_set_num_threads``)
    counts as well, for the native backend in the thread that it is put in. It can't reach the Numba backend, whose
    threads are Python's.

    Examples
    --------
    >>> with crossentropy.config(threads=1, backend="reference"):
    ...     crossentropy.cross_entropy([[50.0, 0.0]], [0])
    np.float64(1.9287498479639178e-22)
    """

    def __init__(
        self,
        *,
        backend: str | ModuleType | None = None,
        threads: int | None = None,
        isa: str | None = None,
        check: bool | None = None,
        keep_memory: bool | None = None,
    ) -> None:
        given = _checked(
            {"backend": backend, "threads": threads, "isa": isa, "check": check, "keep_memory": keep_memory}
        )
        self._given = {name: value for name, value in given.items() if value is not None}

    def __enter__(self) -> config:
        _settings.enter(self._given)
        return self

    def __exit__(self, *exception: object) -> None:
        _settings.leave()


def set_config(
    *,
    backend: str | ModuleType | EllipsisType | None = ...,
    threads: int | EllipsisType | None = ...,
    isa: str | EllipsisType | None = ...,
    check: bool | EllipsisType | None = ...,
    keep_memory: bool | EllipsisType | None = ...,
) -> None:
    """Settings for the process: for every thread, where no `config` says otherwise.

    Parameters
    ----------
    backend, threads, isa, check, keep_memory : optional
        As those of `config`, over the environment variables. What is left out stays as it is; None takes a setting off
        again, so that the environment's is in force, or the machine's choice.

    Raises
    ------
    ValueError, RuntimeError
        As for `config`; nothing is set then.

    Notes
    -----
    It holds from the next call on, also in threads that are there already; ``keep_memory=False`` lets go of what is
    kept, too. A child of fork inherits it; a process that is started afresh (``spawn``) does not, as it would an
    environment variable.

    Examples
    --------
    >>> crossentropy.set_config(threads=1)  # each worker of a pool is one thread
    >>> crossentropy.get_config()["threads"]
    1
    >>> crossentropy.set_config(threads=None)  # as many as there are
    """
    given = {"backend": backend, "threads": threads, "isa": isa, "check": check, "keep_memory": keep_memory}
    _settings.set_for_process(_checked({name: value for name, value in given.items() if value is not ...}))
    if keep_memory is False:
        _memory.empty_cache()


def get_config() -> dict[str, Any]:
    """The settings in force here: those of `config`, over those of `set_config`, over the environment's.

    Returns
    -------
    dict
        ``backend``, ``threads``, ``isa``, ``check`` and ``keep_memory``, as `config` takes them; None where nothing is
        asked for (the best available then, and whatever `config` says of the last two). ``threads`` is a number always;
        a call takes no more than the process has CPUs.

    Raises
    ------
    ValueError
        For a CROSSENTROPY_NUM_THREADS that is no number of threads, or a CROSSENTROPY_KEEP_MEMORY other than 0 and 1.

    Examples
    --------
    >>> settings = crossentropy.get_config()
    >>> def work(rows):  # in another thread
    ...     with crossentropy.config(**settings):
    ...         return crossentropy.logsumexp(rows)
    """
    return _settings.in_force()._asdict()
