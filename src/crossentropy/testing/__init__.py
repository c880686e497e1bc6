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
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .. import autograd, cross_entropy, cross_entropy_and_grad, cross_entropy_grad, reference
from .edge_cases import EDGE_CASES, both
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

# ---------------------------------------------------------------------- layouts of memory


def _reversed_strides(x):
    every = (slice(None, None, -1),) * x.ndim
    return x[every].copy()[every]


def _every_other(x):
    wide = np.repeat(x, 2, axis=-1)
    wide[..., 1::2] = np.array(np.nan).astype(x.dtype) if x.dtype.kind not in "iu" else 99
    return wide[..., ::2]


def _misaligned(x):
    view = np.ndarray(x.shape, x.dtype, buffer=np.empty(x.nbytes + 1, np.uint8)[1:].data)
    view[...] = x
    return view


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


# Each gives an array equal to its argument, which lies otherwise.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": np.copy,
    "Fortran order": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(np.moveaxis(x, -1, 0)).transpose(*range(1, x.ndim), 0),
    "negative strides": _reversed_strides,
    "every other element": _every_other,
    "misaligned": _misaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": _read_only,
}


def has_layout(dtype, layout) -> bool:
    """Whether there is such an array: ml_dtypes has no byte-swapped bfloat16."""
    return (np.dtype(dtype).name, layout) != ("bfloat16", "byte-swapped")


# ---------------------------------------------------------------------- every option crossed


class OptionSet(NamedTuple):
    """One choice of every option."""

    targets: str  # 'index' or 'probability'
    class_weight: bool
    sample_weight: bool  # with a 0 among them
    ignored: bool
    label_smoothing: float
    z_loss: float
    reduction: str  # 'normalizer' is 'mean' with one

    def __str__(self):
        flags = [name for name in ("class_weight", "sample_weight", "ignored") if getattr(self, name)]
        return "-".join([self.targets, *flags, f"{self.label_smoothing:g}", f"{self.z_loss:g}", self.reduction])


OPTION_SETS = [
    OptionSet(*chosen)
    for chosen in itertools.product(
        ("index", "probability"),
        (False, True),
        (False, True),
        (False, True),
        (0.0, 0.1, 1.0),
        (0.0, 0.01),
        ("none", "sum", "mean", "normalizer"),
    )
    if not (chosen[0] == "probability" and chosen[3])  # refused
]


class Problem(NamedTuple):
    """A call and what it must give."""

    x: np.ndarray
    targets: np.ndarray
    options: dict
    grad_output: float | np.ndarray
    loss: np.ndarray
    grad: np.ndarray
    unit: np.ndarray  # the largest term of each entry of the gradient, in whose ulp it is judged


@functools.cache
def problem(options: OptionSet, dtype: np.dtype) -> Problem:
    """The same logits, targets and weights in every run."""
    rng = np.random.default_rng(20190601)
    n, classes, chosen = 6, 37, options
    x = (rng.standard_normal((n, classes)) * 2).astype(dtype)
    w = rng.uniform(0, 2, classes) * (rng.random(classes) > 0.2) if chosen.class_weight else None
    v = np.array([1.0, 0.0, 2.5, 0.3, 1.0, 0.7]) if chosen.sample_weight else None
    weights = np.ones(n) if v is None else v.copy()
    keywords = {"class_weight": w, "sample_weight": v}
    if chosen.targets == "index":
        targets = rng.integers(0, classes, n)
        if w is not None:
            w[targets] += 0.5  # the mean over no row is an edge case of its own
        if chosen.ignored:
            targets[3] = keywords["ignore_index"] = -100
            weights[3] = 0
        each = np.where(targets < 0, 0, targets).tolist()
    else:
        targets = rng.dirichlet(np.ones(classes), n) * (rng.random((n, classes)) > 0.3)
        targets = targets.astype(np.float64 if dtype == np.float64 else np.float32)
        each = targets.astype(np.float64).tolist()
    rows = [reference.Row(v, None if w is None else w.tolist(), chosen.label_smoothing, chosen.z_loss) for v in weights]
    losses, grads, units = exact(x, each, rows)
    keywords |= {"label_smoothing": chosen.label_smoothing, "z_loss": chosen.z_loss, "reduction": chosen.reduction}
    by, g = 1.0, 1.5
    if chosen.reduction == "none":
        g = rng.uniform(0.5, 2, n)
    elif chosen.reduction == "mean":
        by = reference.divisor(each, list(weights), rows[0].class_weight)
    elif chosen.reduction == "normalizer":
        by = 7.25
        keywords |= {"reduction": "mean", "normalizer": by}
    factor = (g[:, None] if chosen.reduction == "none" else g) / by
    loss = losses if chosen.reduction == "none" else losses.sum() / by
    return Problem(x, targets, keywords, g, loss, grads * factor, units * factor)


def check_options(options: OptionSet, dtype: np.dtype, layouts=tuple(LAYOUTS)) -> None:
    """One choice of every option: loss, gradient, the saved pair and the form in place, in each of some layouts."""
    p = problem(options, dtype)
    loss, grad = cross_entropy_and_grad(p.x, p.targets, grad_output=p.grad_output, **p.options)
    within(loss, p.loss, dtype, "loss")
    within(grad, p.grad, dtype, "grad", unit_at=p.unit)
    same(cross_entropy(p.x, p.targets, **p.options), loss)
    same(cross_entropy_grad(p.x, p.targets, grad_output=p.grad_output, **p.options), grad)
    again, saved = autograd.forward(p.x, p.targets, **p.options)
    same(again, loss)
    same(autograd.backward(saved, p.grad_output), grad)
    kept = autograd.restored(*autograd.numbers_of(saved), p.x, p.targets, **p.options)
    same(autograd.backward(kept, p.grad_output), grad)
    for name in layouts:
        if not has_layout(dtype, name):
            continue
        layout = LAYOUTS[name]
        x = layout(p.x)
        targets = layout(p.targets) if p.targets.ndim == 2 else p.targets
        got = cross_entropy_and_grad(x, targets, grad_output=p.grad_output, **p.options)
        same(got.loss, loss)
        same(got.grad, grad)
        same(x.astype(dtype), p.x)
        if not x.flags.writeable:
            continue
        cross_entropy_and_grad(x, targets, grad_output=p.grad_output, out=x, **p.options)
        same(x.astype(dtype), grad)


# ---------------------------------------------------------------------- all of it


def conformance() -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check with its name: edge cases and option sets in each dtype, properties on some logits of each.

    Yields
    ------
    name : str
    check : callable
        Raises AssertionError where the backend in force (``crossentropy.config``) does not conform.
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
