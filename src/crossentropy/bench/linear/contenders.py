"""Who computes linear losses: this package, the products alone, and the peers; each by what its users would write."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..peers import _tensor as tensor
from ..peers import _to_numpy as to_numpy
from ..suite import IGNORED
from .cases import GRADIENTS, HALF, Case, Problem


class Ready(NamedTuple):
    """A call that is ready to be timed."""

    call: Callable[[], Any]
    arrays: Callable[[Any], tuple[Any, dict]] | None  # its result as (loss, gradients by name), in NumPy
    given: tuple[np.ndarray, ...] = ()  # what it writes to, new otherwise: a part of its memory


class Contender(NamedTuple):
    """Somebody who computes a case."""

    needs: tuple[str, ...]  # modules
    prepare: Callable[[Problem, int], Ready]  # with a number of threads
    lacks: Callable[[Case], str] = lambda case: ""  # why not a case
    compiles: bool = False  # at its first call
    is_peer: bool = True


def why_not(contender: Contender, case: Case) -> str:
    """Why somebody takes no part, in words; empty where he does."""
    missing = [name for name in contender.needs if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed" if missing else contender.lacks(case)


# ---------------------------------------------------------------------- this package


def _ours(p: Problem, threads: int, given: bool = True, every_row: bool = False) -> Ready:
    from ... import linear_cross_entropy, linear_cross_entropy_and_grad

    targets, options = p.targets, p.ignores
    if every_row:
        targets, options = np.where(targets >= 0, targets, 0), {}
    if p.case.op != GRADIENTS:
        arrays = None if every_row else lambda loss: (loss, {})
        return Ready(lambda: linear_cross_entropy(p.hidden, p.weight, targets, **options), arrays)
    out = {name: np.zeros_like(getattr(p, name)) for name in ("hidden", "weight")} if given else None

    def call():
        return linear_cross_entropy_and_grad(p.hidden, p.weight, targets, **options, out=out)

    arrays = None if every_row else lambda found: (found.loss, {"hidden": found.hidden, "weight": found.weight})
    return Ready(call, arrays, tuple((out or {}).values()))


# ---------------------------------------------------------------------- the products alone


def _numpy_products(p: Problem, threads: int) -> Ready:
    """Of the rows that count, into arrays that are there; the gradient on the logits is what is in their place."""
    x, w = p.hidden[: p.case.rows], p.weight
    z = np.zeros((len(x), len(w)), x.dtype)
    if p.case.op != GRADIENTS:
        return Ready(lambda: np.matmul(x, w.T, out=z), None, (z,))
    on_hidden, on_weight = np.zeros_like(x), np.zeros_like(w)

    def call():
        np.matmul(x, w.T, out=z)
        np.matmul(z, w, out=on_hidden)
        np.matmul(z.T, x, out=on_weight)

    return Ready(call, None, (z, on_hidden, on_weight))


def _torch_products(p: Problem, threads: int) -> Ready:
    import torch

    torch.set_num_threads(threads)
    x, w = tensor(p.hidden[: p.case.rows]), tensor(p.weight)
    made = [np.zeros((len(x), len(w)), p.hidden.dtype), np.zeros(x.shape, p.hidden.dtype), np.zeros_like(p.weight)]
    z, on_hidden, on_weight = map(tensor, made)
    if p.case.op != GRADIENTS:
        return Ready(lambda: torch.mm(x, w.T, out=z), None, (made[0],))

    def call():
        torch.mm(x, w.T, out=z)
        torch.mm(z, w, out=on_hidden)
        torch.mm(z.T, x, out=on_weight)

    return Ready(call, None, tuple(made))


# ---------------------------------------------------------------------- PyTorch


def _differentiated(p: Problem, threads: int, loss: Callable) -> Ready:
    """A loss of tensors with its backward, where gradients are wanted."""
    import torch

    torch.set_num_threads(threads)
    x, w, y = map(tensor, (p.hidden, p.weight, p.targets))
    if p.case.op != GRADIENTS:

        def forward():
            with torch.no_grad():
                return loss(x, w, y)

        return Ready(forward, lambda found: (float(found), {}))
    x.requires_grad_()
    w.requires_grad_()

    def both():
        found = loss(x, w, y)
        return found, *torch.autograd.grad(found, (x, w))

    def arrays(result):
        found, on_hidden, on_weight = result
        # A gradient is looked at by its rows: the whole in float32 would be memory that the contender did not take.
        return float(found), {"hidden": _Rows(on_hidden), "weight": _Rows(on_weight)}

    return Ready(both, arrays)


class _Rows:
    """A tensor of which a few rows become an array of NumPy's."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __getitem__(self, rows):
        return to_numpy(self.tensor[rows])


def _drop_in(p: Problem, threads: int) -> Ready:
    from ...torch import linear_cross_entropy

    return _differentiated(p, threads, lambda x, w, y: linear_cross_entropy(x, w, y, ignore_index=IGNORED))


def _linear_then_loss(p: Problem, threads: int, float32: bool = False, compiled: bool = False) -> Ready:
    import torch
    import torch.nn.functional as F

    def loss(x, w, y):
        z = F.linear(x, w)
        return F.cross_entropy(z.float() if float32 else z, y, ignore_index=IGNORED)

    return _differentiated(p, threads, torch.compile(loss, dynamic=False) if compiled else loss)


def _fused(p: Problem, threads: int, **chunking) -> Ready:
    """PyTorch's own, which fuses where it is given options, and is the line above otherwise."""
    import torch.nn.functional as F
    from torch.nn import LinearCrossEntropyOptions

    options = LinearCrossEntropyOptions(**chunking)

    def loss(x, w, y):
        return F.linear_cross_entropy(x, w, y, options=options, **p.ignores)

    return _differentiated(p, threads, loss)


def _fused_lacks(case: Case) -> str:
    import torch.nn

    return "" if hasattr(torch.nn, "LinearCrossEntropyOptions") else "from PyTorch 2.13 on"


# ---------------------------------------------------------------------- JAX


def _jax(p: Problem, threads: int) -> Ready:
    import jax
    import jax.numpy as jnp

    x, w, y = jnp.asarray(p.hidden), jnp.asarray(p.weight), jnp.asarray(p.targets.astype(np.int32))

    def loss(x, w, y):
        z = jnp.dot(x, w.T, preferred_element_type=jnp.float32)
        return (jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, y[:, None], 1)[:, 0]).mean()

    if p.case.op != GRADIENTS:
        alone = jax.jit(loss)
        return Ready(lambda: jax.block_until_ready(alone(x, w, y)), lambda found: (float(found), {}))
    both = jax.jit(jax.value_and_grad(loss, (0, 1)))

    def arrays(result):
        found, (on_hidden, on_weight) = result
        return float(found), {"hidden": on_hidden, "weight": on_weight}

    return Ready(lambda: jax.block_until_ready(both(x, w, y)), arrays)


# ---------------------------------------------------------------------- all of them


def _only(**allowed) -> Callable[[Case], str]:
    """Takes cases whose fields are of these values."""

    def lacks(case):
        wrong = [name for name, values in allowed.items() if getattr(case, name) not in values]
        return f"not timed with this {wrong[0]} at {case}" if wrong else ""

    return lacks


def _with(prepare: Callable, **settings) -> Callable[[Problem, int], Ready]:
    return lambda p, threads: prepare(p, threads, **settings)


OURS, ALLOCATING, DROP_IN = "crossentropy", "crossentropy, no out", "crossentropy.torch"
EVERY_ROW = "crossentropy, every row"
FLOORS = ("products, NumPy", "products, torch")
OWN = (OURS, ALLOCATING, EVERY_ROW, DROP_IN)

CONTENDERS = {
    OURS: Contender((), _ours, is_peer=False),
    ALLOCATING: Contender((), _with(_ours, given=False), _only(op=[GRADIENTS]), is_peer=False),
    EVERY_ROW: Contender((), _with(_ours, every_row=True), _only(option=[HALF]), is_peer=False),
    FLOORS[0]: Contender((), _numpy_products, _only(dtype=["float32", "float64"]), is_peer=False),
    DROP_IN: Contender(("torch",), _drop_in),
    FLOORS[1]: Contender(("torch",), _torch_products),
    "torch": Contender(("torch",), _linear_then_loss),
    "torch, logits.float()": Contender(("torch",), _with(_linear_then_loss, float32=True), _only(dtype=["bfloat16"])),
    "torch.compile": Contender(("torch",), _with(_linear_then_loss, float32=True, compiled=True), compiles=True),
    "torch, fused": Contender(("torch",), _fused, _fused_lacks),
    "torch, fused, 512 rows": Contender(("torch",), _with(_fused, batch_chunk_size=512), _fused_lacks),
    "JAX": Contender(("jax",), _jax, _only(option=[""]), compiles=True),
}


def chosen(case: Case, peers: bool = True) -> tuple[list[str], list[str]]:
    """The names of who computes the case here; and for everyone who does not, a line that says why."""
    names, left_out = [], []
    for name, contender in CONTENDERS.items():
        if peers or not contender.is_peer:
            reason = why_not(contender, case)
            if not reason:
                names.append(name)
            elif contender.is_peer:
                left_out.append(f"{name}: {reason}")
    return names, left_out
