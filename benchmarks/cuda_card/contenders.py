"""Who computes a case: this package, PyTorch eager and compiled, a kernel in Triton; and whether it is right."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timing import nothing

import crossentropy
from crossentropy.bench import disagreement

OURS, EAGER, COMPILED, TRITON = "crossentropy", "torch", "torch.compile", "Triton, as Liger"


class Arrays(NamedTuple):
    """A case's, on the device."""

    x: torch.Tensor  # (rows, classes) logits
    targets: torch.Tensor  # (rows,) classes
    q: torch.Tensor | None  # (rows, classes) probabilities of x's dtype
    out: torch.Tensor  # (rows, classes) where gradients go; the logits, where they are replaced


class Contender(NamedTuple):
    call: Callable  # () -> (loss, gradient or None)
    restore: Callable = nothing  # before each call


def arrays(logits, device) -> Arrays:
    """The same numbers in every process; q only where it is asked for (`probabilities`)."""
    torch.manual_seed(logits.classes)
    x = torch.randn(logits.rows, logits.classes, dtype=getattr(torch, logits.dtype), device=device)
    return Arrays(x, torch.randint(logits.classes, (logits.rows,), device=device), None, torch.empty_like(x))


def probabilities(a: Arrays) -> Arrays:
    """With probability targets, which a row at a time sum to 1 as nearly as their dtype allows."""
    q = torch.empty_like(a.x)
    torch.softmax(a.x.roll(1, 0), 1, out=q)
    return a._replace(q=q)


def _given(tensor):
    """As our functions take it: a tensor of the device as it is, one of the host by its memory."""
    return tensor if tensor.is_cuda else tensor.numpy()


def ours(op, a):
    x, out = _given(a.x), _given(a.out)
    t = _given(a.q if op == "probability targets" else a.targets)
    if op == "loss":
        return Contender(lambda: (crossentropy.cross_entropy(x, t), None))
    if op == "loss + gradient in place":
        return Contender(lambda: crossentropy.cross_entropy_and_grad(out, t, out=out), lambda: a.out.copy_(a.x))
    return Contender(lambda: crossentropy.cross_entropy_and_grad(x, t, out=out))


# A function each: what torch.compile has made of one counts against a limit of the function's.


def _loss(z, t):
    return F.cross_entropy(z, t)


def _loss_of_both(z, t):
    return F.cross_entropy(z, t)


def _loss_of_probabilities(z, q):
    return F.cross_entropy(z, q)


_FUNCTIONS = {"loss": _loss, "loss + gradient": _loss_of_both, "probability targets": _loss_of_probabilities}


@functools.cache
def _compiled(op):
    for name in ("recompile_limit", "cache_size_limit"):  # of shapes that a function is compiled for
        if hasattr(torch._dynamo.config, name):
            setattr(torch._dynamo.config, name, 64)
    return torch.compile(_FUNCTIONS[op], dynamic=False)


def pytorch(op, a, compiled):
    if op not in _FUNCTIONS:
        return None
    function, t = _compiled(op) if compiled else _FUNCTIONS[op], a.q if op == "probability targets" else a.targets
    if op == "loss":

        def forward():
            with torch.no_grad():
                return function(a.x, t), None

        return Contender(forward)

    def both():
        z = a.x.detach().requires_grad_()
        loss = function(z, t)
        return loss, torch.autograd.grad(loss, z)[0]

    return Contender(both)


def triton(op, a):
    if op != "loss + gradient in place" or not a.x.is_cuda:
        return None
    import liger_like

    return Contender(lambda: (liger_like.cross_entropy_in_place(a.out, a.targets), a.out), lambda: a.out.copy_(a.x))


MAKERS = {
    OURS: ours,
    EAGER: functools.partial(pytorch, compiled=False),
    TRITON: triton,
    COMPILED: functools.partial(pytorch, compiled=True),
}


# ---------------------------------------------------------------------- results

ENDS = 16  # rows at each end, whose gradients are looked at


def expected(op, a):
    """The mean loss, and the first and last rows of the gradient, in float64; the loss in pieces of the logits."""
    rows, classes = a.x.shape
    step, total = max(1, (1 << 26) // classes), 0.0
    for i in range(0, rows, step):
        z = a.x[i : i + step].double()
        t = a.q[i : i + step].double() if op == "probability targets" else a.targets[i : i + step]
        total += F.cross_entropy(z, t, reduction="sum").item()
    ends = torch.cat([torch.arange(ENDS), torch.arange(rows - ENDS, rows)]).to(a.x.device)
    grad = a.x[ends].double().softmax(1)
    if op == "probability targets":
        grad -= a.q[ends].double()
    else:
        grad[torch.arange(2 * ENDS, device=grad.device), a.targets[ends]] -= 1
    return total / rows, grad / rows


def wrong(op, a, found, right, strict) -> str:
    """What is wrong with (loss, gradient), as loosely as arithmetic in the logits' type allows; empty where nothing is.

    Others may be ten times as far off: PyTorch rounds log-softmax to bfloat16 before it is exponentiated.
    """
    (loss, grad), (right_loss, right_grad) = found, right
    loss, ends, right_ends = float(torch.as_tensor(loss).detach()), [], []
    if grad is not None:
        grad = torch.as_tensor(grad)
        ends, right_ends = [torch.cat([grad[:ENDS], grad[-ENDS:]]).double()], [right_grad]
    least, slack = 1e-6 / len(a.x), 1 if strict else 10
    return disagreement((loss, ends), (right_loss, right_ends), a.x.element_size(), least, slack)
