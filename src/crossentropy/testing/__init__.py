"""The conformance suite: what every backend must do, by name, through the public functions alone.

    >>> import my_backend  # a module with the functions that `crossentropy._backends.contract.Backend` lists
    >>> for name, check in crossentropy.testing.conformance():
    ...     with crossentropy.config(backend=my_backend):
    ...         check()  # raises AssertionError

``EDGE_CASES`` are the rows of the design's table, ``OPTION_SETS`` every option crossed with every other, ``LAYOUTS``
the ways in which an array may lie in memory, ``PROPERTIES`` what must hold of any logits. Results are judged in units
of the last place against ``crossentropy.reference``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from .edge_cases import EDGE_CASES, both
from .layouts import LAYOUTS, has_layout
from .options import OPTION_SETS, check_options, problem
from .options import OptionSet as OptionSet
from .options import Problem as Problem
from .properties import PROPERTIES
from .ulps import LIMITS, dtypes, exact, largest_error, result_dtype, same, within

__all__ = [
    "EDGE_CASES",
    "LAYOUTS",
    "LIMITS",
    "OPTION_SETS",
    "PROPERTIES",
    "both",
    "check_options",
    "conformance",
    "dtypes",
    "exact",
    "has_layout",
    "largest_error",
    "problem",
    "result_dtype",
    "same",
    "within",
]


def conformance() -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check with its name: edge cases and option sets in each dtype, properties on some logits of each.

    Yields
    ------
    name : str
    check : callable
        Raises AssertionError where the backend in force (``crossentropy.config``) does not conform.

    Examples
    --------
    >>> checks = dict(crossentropy.testing.conformance())
    >>> with crossentropy.config(backend="reference"):  # or a module of your own
    ...     checks["several class axes, in any layout, float64"]()
    """
    for kind, dtype in dtypes().items():
        for name, case in EDGE_CASES.items():
            yield f"{name}, {kind}", functools.partial(case, dtype)
        for options in OPTION_SETS:
            yield f"{options}, {kind}", functools.partial(check_options, options, dtype)
        for name, holds in PROPERTIES.items():
            for classes in (1, 5, 70, 600):
                x = (np.random.default_rng(classes).standard_normal((5, classes)) * 3).astype(dtype)
                yield f"{name}, {classes} classes, {kind}", functools.partial(holds, x, np.arange(5) % classes)
