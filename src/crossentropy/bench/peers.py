"""Other libraries on the benchmarks' cases, each by what its users would write; imports are not timed."""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import numpy as np

from .graphs import onnxruntime, onnxruntime_lacks, tensorflow
from .prepared import Prepared, array_alone, compiled, loss_alone, nothing
from .suite import BEYOND


class Peer(NamedTuple):
    """A library, or a way to use it."""

    needs: tuple[str, ...]  # modules
    prepare: Callable[..., Prepared]  # of a bench.Problem and a number of threads (None where it takes none)
    lacks: Callable[..., str] = lambda case: ""  # why it does not serve a bench.Case
    takes_threads: bool = False
    compiles: bool = False  # at its first call
    options: bool = False  # whether it is timed with those of bench.OPTIONS
    beyond: bool = False  # and on bench.BEYOND


def why_not(peer: Peer, case) -> str:
    """Why a peer takes no part, in words; empty where it does."""
    missing = [name for name in peer.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if case is not None and case.option and not peer.options:
        return f"timed without {case.option}"
    if case is not None and case.op in BEYOND and not peer.beyond:
        return "PyTorch is what that is timed beside"
    return peer.lacks(case)


def no_in_place(case) -> str:
    """Most have no such thing."""
    return "nothing in place" if case.op == "loss + gradient in place" else ""


# ---------------------------------------------------------------------- PyTorch


class _TorchThreads:
    """A `with` block that may be entered again."""

    def __init__(self, threads):
        self.threads = threads

    def __enter__(self):
        import torch

        self.before = torch.get_num_threads()
        torch.set_num_threads(self.threads)

    def __exit__(self, *exception):
        import torch

        torch.set_num_threads(self.before)


def _tensor(a):
    import torch

    return (
        torch.from_numpy(a.view(np.uint16)).view(torch.bfloat16) if a.dtype.name == "bfloat16" else torch.from_numpy(a)
    )


def _to_numpy(tensor):
    return tensor.detach().float().numpy() if tensor.element_size() == 2 else tensor.detach().numpy()


def _torch(p, threads, compiled=False, ours=False):
    import torch
    import torch.nn.functional as F

    if ours:
        from .. import torch as F
    z, t, axis = _tensor(p.x), _tensor(p.targets), p.case.axis
    if p.case.op in BEYOND:
        return _torch_beyond(p.case.op, z, t, axis, threads)
    if is_array := p.case.op in ("log-softmax", "softmax"):
        of_rows = F.log_softmax if p.case.op == "log-softmax" else F.softmax
        function = lambda z, t: of_rows(z, axis)  # noqa: E731
    else:
        options = dict(p.options)
        if "class_weight" in options:
            options["weight"] = _tensor(options.pop("class_weight"))
        function = lambda z, t: F.cross_entropy(z, t, **options)  # noqa: E731 -- its class axis is 1, of 2 or 4
    if compiled:
        # Shapes as they are: those that were compiled before must not make it general.
        function = torch.compile(function, dynamic=False)
    arrays = array_alone if is_array else loss_alone
    settings, close = _TorchThreads(threads), torch.compiler.reset if compiled else nothing
    if is_array or p.case.op == "loss":

        def forward():
            with torch.no_grad():
                return function(z, t)

        return Prepared(forward, lambda found: arrays(_to_numpy(found)), settings, close=close)
    z.requires_grad_()

    def both():
        loss = function(z, t)
        return loss, *torch.autograd.grad(loss, z)

    return Prepared(both, lambda found: tuple(map(_to_numpy, found)), settings, close=close)


def _torch_beyond(op, z, t, axis, threads):
    """What its users write where it has no function of that name."""
    import torch
    import torch.nn.functional as F

    rows = z.numel() // z.shape[axis]

    def statistics():
        with torch.no_grad():
            log_p = F.log_softmax(z, axis)
            p, at = log_p.exp(), t.unsqueeze(axis)
            of_target = log_p.gather(axis, at)
            rank = (z > z.gather(axis, at)).sum(axis)
            return -of_target.mean(), -(p * log_p).sum(axis).mean(), p.max(axis), rank

    def distilled():
        log_p, log_q = F.log_softmax(z, axis), F.log_softmax(t, axis)
        loss = F.kl_div(log_p, log_q, reduction="sum", log_target=True) / rows
        return loss, *torch.autograd.grad(loss, z)

    def hessian():
        with torch.no_grad():
            log_p = F.log_softmax(z, axis)
            p, at = log_p.exp(), t.unsqueeze(axis)
            grad = p.scatter_add(axis, at, p.new_full(at.shape, -1)) / rows
            return -log_p.gather(axis, at).mean(), grad, p * (1 - p) / rows

    def of_statistics(found):
        loss, entropy, most, rank = found
        rank = rank.double()
        return float(loss + entropy + most.values.mean()) + float(rank.mean() / rank.max().clamp(min=1)), None

    if op == "distillation":
        z.requires_grad_()
        return Prepared(distilled, lambda found: tuple(map(_to_numpy, found)), _TorchThreads(threads))
    if op == "row statistics":
        return Prepared(statistics, of_statistics, _TorchThreads(threads))
    return Prepared(hessian, lambda found: (float(found[0]), _to_numpy(found[2])), _TorchThreads(threads))


def drop_in(p, threads) -> Prepared:
    """crossentropy.torch in PyTorch's place; it takes no more threads than that has."""
    return _torch(p, threads, ours=True)


@functools.cache
def _start_compiler():
    """What the very first compilation in a process costs, which is a large part of a minute, is not that of a case."""
    import torch

    torch.compile(lambda a: a + 1)(torch.zeros(1))


def _torch_compile(p, threads):
    _start_compiler()
    # Without the results of earlier runs, which it keeps on disk.
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": cache}):
        return compiled(_torch(p, threads, compiled=True))


# ---------------------------------------------------------------------- JAX


def _jax(p, threads):
    import jax
    import optax

    jax.config.update("jax_enable_x64", p.case.dtype == "float64")  # as its users have it
    z, t, axis = jax.numpy.asarray(p.x), jax.numpy.asarray(p.targets), p.case.axis
    if p.case.op == "probability targets":
        loss = lambda z, t: optax.losses.softmax_cross_entropy(z, t, axis).mean()  # noqa: E731
    else:
        loss = lambda z, t: optax.losses.softmax_cross_entropy_with_integer_labels(z, t, axis).mean()  # noqa: E731
    if p.case.op == "loss":
        function, arrays = jax.jit(loss), loss_alone
    elif p.case.op in ("log-softmax", "softmax"):
        of_rows = jax.nn.log_softmax if p.case.op == "log-softmax" else jax.nn.softmax
        function, arrays = jax.jit(lambda z, t: of_rows(z, axis)), lambda found: (None, np.asarray(found))
    else:
        function, arrays = jax.jit(jax.value_and_grad(loss)), lambda found: (found[0], np.asarray(found[1]))
    return compiled(Prepared(lambda: jax.block_until_ready(function(z, t)), arrays, close=jax.clear_caches))


# ---------------------------------------------------------------------- scipy, scikit-learn, the reference


def _scipy(p, threads):
    from scipy.special import log_softmax, softmax

    x, axis = p.x, p.case.axis
    if p.case.op in ("log-softmax", "softmax"):
        of_rows = log_softmax if p.case.op == "log-softmax" else softmax
        return Prepared(lambda: of_rows(x, axis), array_alone)
    y = np.expand_dims(p.targets, axis)
    return Prepared(lambda: -np.take_along_axis(log_softmax(x, axis), y, axis).mean(), loss_alone)


def _scipy_lacks(case) -> str:
    if case.dtype not in ("float32", "float64"):
        return "no 16-bit types"
    return "" if case.op in ("loss", "log-softmax", "softmax") else "no gradient"


SKLEARN_CLASSES = 1000


def _sklearn(p, threads):
    from sklearn._loss.loss import HalfMultinomialLoss

    loss, x = HalfMultinomialLoss(p.case.classes), p.x
    y, weight = p.targets.astype(x.dtype), np.full(len(x), 1 / len(x), x.dtype)  # so that sums are means
    rows = np.empty(len(x), x.dtype)
    if p.case.op == "loss":
        return Prepared(lambda: loss.loss(y, x, weight, rows, n_threads=threads).sum(), loss_alone)
    out = p.out

    def both():
        found, grad = loss.loss_gradient(y, x, weight, rows, out, n_threads=threads)
        return found.sum(), grad

    return Prepared(both, tuple)


def _sklearn_lacks(case) -> str:
    if case.op not in ("loss", "loss + gradient") or case.dtype not in ("float32", "float64"):
        return "loss and gradient on index targets alone, in float32 and float64"
    if case.axis != -1:
        return "the classes last"
    return f"over {SKLEARN_CLASSES} classes" if case.classes > SKLEARN_CLASSES else ""


REFERENCE_ELEMENTS = 10_000


def _reference(p, threads):
    from .. import config, cross_entropy, cross_entropy_and_grad

    settings = config(backend="reference")
    if p.case.op == "loss":
        return Prepared(lambda: cross_entropy(p.x, p.targets, axis=p.case.axis), loss_alone, settings)
    return Prepared(lambda: cross_entropy_and_grad(p.x, p.targets, axis=p.case.axis), tuple, settings)


def _reference_lacks(case) -> str:
    if case.op not in ("loss", "loss + gradient"):
        return "timed for the loss and its gradient"
    return f"takes ages over {REFERENCE_ELEMENTS} elements" if np.prod(case.shape) > REFERENCE_ELEMENTS else ""


PEERS = {
    "torch": Peer(("torch",), _torch, no_in_place, takes_threads=True, options=True, beyond=True),
    "torch.compile": Peer(("torch",), _torch_compile, no_in_place, takes_threads=True, compiles=True, options=True),
    # The threads of these are fixed when they start: all of them.
    "JAX": Peer(("jax", "optax"), _jax, no_in_place, compiles=True),
    "TensorFlow": Peer(("tensorflow",), tensorflow, no_in_place, compiles=True),
    "onnxruntime": Peer(("onnx", "onnxruntime"), onnxruntime, onnxruntime_lacks, options=True),
    "scipy": Peer(("scipy",), _scipy, _scipy_lacks),
    "scikit-learn": Peer(("sklearn",), _sklearn, _sklearn_lacks, takes_threads=True),
    "reference": Peer((), _reference, _reference_lacks),
}
