"""What is measured, and how: cases, roofs, runner. ``crossentropy bench`` and ``benchmarks/`` run these very cases.

A figure is a median over rounds in which every implementation and the machine's own memory (``native.stream``) take
turns on the same buffers; it is given in bytes that must move over time, as a fraction of what that memory did in the
same rounds. The bytes are those of an ideal kernel, for everyone: what reads its logits three times shows it.

The files, each of which imports only those before it: ``suite.py``, ``results.py``, ``prepared.py``, ``graphs.py``,
``peers.py``, ``contenders.py``, ``environment.py``, ``runner.py``; and ``plots.py``, ``overview.py``, ``verdict.py``,
which show what was found. Names are imported when they are first used, because the first five serve where the native
backend is not built: for a GPU's results, and for plots.
"""

import importlib

_HOME = {
    "suite": (
        *("Case", "FEW", "INPUTS", "LARGE", "OPS", "OPTIONS", "Op", "Problem", "QUICK", "SEGMENTATION", "SHAPES"),
        *("VOCABULARY", "WITH_OPTIONS", "aligned", "cases", "dtype_named", "problem"),
    ),
    "results": (
        *("WrongResultError", "best", "by_case", "check", "described", "disagreement", "sampled", "six_digits"),
        "to_json",
    ),
    "contenders": (
        *("ALLOCATING", "DROP_IN", "Implementation", "NUMBA", "OURS", "OWN"),
        *("expected_of", "implementations", "roof", "roof_bytes", "thread_counts"),
    ),
    "environment": ("machine", "versions"),
    "runner": (
        *("FEWEST", "FEWEST_SLOW", "MOST", "PAUSE", "SHORTEST", "SLOW", "WARM_BELOW"),
        *("measure", "run", "timed"),
    ),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
