"""Who computes a case: this package with each ISA and number of threads, Numba, the drop-in for PyTorch, its peers.

And the roof: the stream that moves the same memory and does nothing else.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .. import (
    backends,
    config,
    cross_entropy,
    cross_entropy_and_grad,
    cross_entropy_grad_hess,
    distillation,
    log_softmax,
    native,
    row_statistics,
    softmax,
)
from . import peers as _peers
from .prepared import Prepared, array_alone, loss_alone, result_of
from .results import sampled
from .suite import OPS, ROOF_PASSES, Case, Problem, dtype_named


class Implementation(NamedTuple):
    """Somebody who computes a case, with settings; ``prepare`` gives what is timed (Prepared) for a problem."""

    name: str
    prepare: Callable[[Problem], Prepared]
    threads: int | None = None  # None: it decides itself
    isa: str | None = None
    compiles: bool = False

    def __str__(self):
        settings = [self.isa, f"threads {self.threads}" if self.threads else None]
        return ", ".join([self.name, *filter(None, settings)])


OURS = "crossentropy"
ALLOCATING = "crossentropy, no out"
NUMBA = "crossentropy, Numba"
DROP_IN = "crossentropy.torch"  # forward and backward by PyTorch's autograd, each time with a new gradient
OWN = (OURS, ALLOCATING, NUMBA, DROP_IN)


def _ours(isa, threads, name=OURS):
    def prepare(p):
        x, y, out = p.x, p.targets, None if name == ALLOCATING else p.out
        options = {"axis": p.case.axis, **p.options}
        settings = config(backend="numba" if name == NUMBA else "native", isa=isa, threads=threads)
        if p.case.op == "loss":
            return Prepared(lambda: cross_entropy(x, y, **options), loss_alone, settings)
        if p.case.op in ("log-softmax", "softmax"):
            function = log_softmax if p.case.op == "log-softmax" else softmax
            return Prepared(lambda: function(x, p.case.axis, out=out), array_alone, settings)
        if p.case.op == "row statistics":
            return Prepared(lambda: row_statistics(x, y, **options), _of_statistics, settings)
        if p.case.op == "distillation":
            return Prepared(lambda: distillation(x, y, **options, out=out), tuple, settings)
        if p.case.op == "diagonal Hessian":
            hess = None if out is None else out.copy()
            call = lambda: cross_entropy_grad_hess(x, y, **options, out=out, hess_out=hess)  # noqa: E731
            return Prepared(call, lambda found: (found.loss, found.hess), settings)
        if p.case.op == "loss + gradient in place":
            call = lambda: cross_entropy_and_grad(out, y, **options, out=out)  # noqa: E731
            return Prepared(call, tuple, settings, restore=lambda: np.copyto(out, x))
        return Prepared(lambda: cross_entropy_and_grad(x, y, **options, out=out), tuple, settings)

    return Implementation(name, prepare, threads, isa)


def _of_statistics(found):
    """One number of all: right where each of them is."""
    sums = (np.mean(of_rows, dtype=float) for of_rows in (found.loss, found.entropy, found.max_prob))
    return sum(sums) + np.mean(found.rank, dtype=float) / max(1, found.rank.max()), None


def thread_counts() -> list[int]:
    """1 and all."""
    return sorted({1, native.current_threads()})


def implementations(case: Case, peers: bool = True) -> tuple[list[Implementation], list[str]]:
    """Who computes the case here; and for everyone who does not, a line that says why."""
    found = [_ours(isa, threads) for isa in native.SUPPORTED_ISAS for threads in thread_counts()]
    if OPS[case.op].roof not in ("read", "scale"):  # for the peers, which make a new array at each call
        found.append(_ours(native.SUPPORTED_ISAS[0], thread_counts()[-1], ALLOCATING))
    left_out = []
    numba = next(each for each in backends() if each.name == "numba")
    if numba.available:
        found += [_ours(None, threads, NUMBA) for threads in thread_counts()]
    else:
        left_out.append(f"{NUMBA}: {numba.reason}")
    if case.op == "loss + gradient" and importlib.util.find_spec("torch"):
        for threads in thread_counts():
            prepare = lambda p, threads=threads: _peers.drop_in(p, threads)  # noqa: E731
            found.append(Implementation(DROP_IN, prepare, threads, native.SUPPORTED_ISAS[0]))
    for name, peer in _peers.PEERS.items() if peers else ():
        reason = _peers.why_not(peer, case)
        if reason:
            left_out.append(f"{name}: {reason}")
            continue
        for threads in thread_counts() if peer.takes_threads else [None]:
            prepare = lambda p, peer=peer, threads=threads: peer.prepare(p, threads)  # noqa: E731
            found.append(Implementation(name, prepare, threads, compiles=peer.compiles))
    return found, left_out


def roof(p: Problem, threads: int) -> Prepared:
    """The stream that moves the problem's memory as the operation must, on the same buffers."""

    def flat(a):
        of = a.reshape(-1).view(np.uint8)
        return of[: of.size - of.size % (4 * native.STREAM_ROW)].view(np.float32)

    kind = OPS[p.case.op].roof
    arrays = {"read": {"x": p.x}, "copy": {"x": p.x, "out": p.out}, "scale": {"x": p.out}}
    arrays["combine"] = {"x": p.x, "q": p.targets, "out": p.out}
    given = {name: flat(a) for name, a in arrays[kind].items()}
    settings = config(backend="native", isa=native.SUPPORTED_ISAS[0], threads=threads)
    return Prepared(lambda: native.stream(kind, **given), None, settings)


def roof_bytes(case: Case) -> int:
    """What that stream moves: a remainder below one of its rows is left out."""
    size = case.elements * dtype_named(case.dtype).itemsize
    return ROOF_PASSES[OPS[case.op].roof] * (size - size % (4 * native.STREAM_ROW))


def expected_of(p: Problem) -> tuple:
    """What everyone must compute, as `sampled` has it."""
    return sampled(p.case, *result_of(_ours(native.SUPPORTED_ISAS[0], thread_counts()[-1]).prepare(p)))
