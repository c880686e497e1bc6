"""Every option crossed with every other: the choices, a call with each, and what it must give."""

from __future__ import annotations

import collections
import functools
from typing import NamedTuple

import numpy as np

from .. import autograd, cross_entropy, cross_entropy_and_grad, cross_entropy_grad, reference
from .._options import ARRAYS, NEED_INDEX, OPTIONS, TRANSFORMS
from .._options import NUMERIC as _NUMERIC_NAMES
from .covering import covering
from .layouts import LAYOUTS, has_layout
from .ulps import exact, same, within

# Each option and the values that are crossed. Those of NUMERIC, which the table of options has, are handed on under
# their names, to the call as to `reference.Row`; the others say how `problem` makes its arrays.
TARGETS = ("index", "probability")
FLAGS = (*ARRAYS, "where", "ignored")  # given or not; sample weights have a 0 among them
NUMERIC = {name: (OPTIONS[name].default, *OPTIONS[name].samples) for name in _NUMERIC_NAMES}
REDUCTIONS = ("none", "sum", "mean", "normalizer")  # 'normalizer' is 'mean' with one
TOGETHER = 3  # of these any values meet: with each option more their full product would double


class OptionSet(collections.namedtuple("OptionSet", ["targets", *FLAGS, *NUMERIC, "reduction"])):
    """One choice of every option."""

    __slots__ = ()

    @property
    def numeric(self) -> dict[str, float]:
        """The numeric options by name."""
        return {name: getattr(self, name) for name in NUMERIC}

    def __str__(self):
        flags = [name for name in FLAGS if getattr(self, name)]
        return "-".join([self.targets, *flags, *(f"{value:g}" for value in self.numeric.values()), self.reduction])


FACTORS = {"targets": TARGETS, **dict.fromkeys(FLAGS, (False, True)), **NUMERIC, "reduction": REDUCTIONS}


def refused(chosen) -> bool:
    """Whether targets are probabilities in some of a choice, with an option that needs index targets."""
    needs_index = {"ignored" if name == "ignore_index" else name for name in NEED_INDEX}
    return chosen.get("targets") == "probability" and any(
        chosen.get(name, FACTORS[name][0]) != FACTORS[name][0] for name in needs_index
    )


OPTION_SETS = [OptionSet(**chosen) for chosen in covering(FACTORS, TOGETHER, refused)]


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
    """The same logits, targets and weights in every run.

    Examples
    --------
    >>> p = crossentropy.testing.problem(crossentropy.testing.OPTION_SETS[0], np.dtype(np.float32))
    >>> p.x.shape, "label_smoothing" in p.options
    ((6, 37), True)
    """
    rng = np.random.default_rng(20190601)
    n, classes, chosen = 6, 37, options
    x = (rng.standard_normal((n, classes)) * 2).astype(dtype)
    w = rng.uniform(0, 2, classes) * (rng.random(classes) > 0.2) if chosen.class_weight else None
    v = np.array([1.0, 0.0, 2.5, 0.3, 1.0, 0.7]) if chosen.sample_weight else None
    weights = np.ones(n) if v is None else v.copy()
    keywords = {"class_weight": w, "sample_weight": v}
    if chosen.where:
        keywords["where"] = np.arange(n) != 4
        weights[4] = 0
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
    b = None
    if chosen.class_prior:
        b = keywords["class_prior"] = rng.standard_normal(classes)
        if chosen.targets == "index" and not chosen.label_smoothing:
            b[np.setdiff1d(np.arange(classes), targets)[:2]] = -np.inf
    arrays = {"class_weight": w, "class_prior": b}
    lists = {name: None if a is None else a.tolist() for name, a in arrays.items()}
    rows = [reference.Row(v, **lists, **chosen.numeric) for v in weights]
    losses, grads, units = exact(x, each, rows)
    keywords |= {**chosen.numeric, "reduction": chosen.reduction}
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


def of_transformed(options: OptionSet, dtype: np.dtype) -> int:
    """By what limits are multiplied: float64 logits and a focal factor are rounded once more where they transform."""
    changed = options.class_prior or any(
        getattr(options, name) != OPTIONS[name].default for name in (*TRANSFORMS, "focal")
    )
    return 4 if changed and dtype == np.float64 else 1


def check_options(options: OptionSet, dtype: np.dtype, layouts=tuple(LAYOUTS)) -> None:
    """One choice of every option: loss, gradient, the saved pair and the form in place, in each of some layouts.

    Examples
    --------
    >>> with crossentropy.config(backend="reference"):
    ...     crossentropy.testing.check_options(crossentropy.testing.OPTION_SETS[0], np.dtype(np.float32))
    """
    p = problem(options, dtype)
    loss, grad = cross_entropy_and_grad(p.x, p.targets, grad_output=p.grad_output, **p.options)
    times = of_transformed(options, dtype)
    within(loss, p.loss, dtype, "loss", times=times)
    within(grad, p.grad, dtype, "grad", unit_at=p.unit, times=times)
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
