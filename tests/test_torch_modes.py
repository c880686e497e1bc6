"""crossentropy.torch under a dispatch mode, as counters of operations are: loss, gradient, second derivative."""

import contextlib
import itertools

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import torch.nn.functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import crossentropy.torch as ours  # noqa: E402

N, C, H = 4, 5, 3
MODES = list(itertools.product((False, True), repeat=3))  # whether it is on: forward, backward, double backward
BEYOND = (
    *({"z_loss": 0.1}, {"focal": 2.0}, {"softcap": 5.0}, {"margin": 0.3}, {"logit_scale": 1.5}),
    *({"class_prior": torch.linspace(-1, 1, C)}, {"sample_weight": torch.arange(N) / 2}),
)


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


Z, TEACHER, HIDDEN, WEIGHT, BIAS = numbers(N, C), numbers(N, C) / 2, numbers(N, H), numbers(C, H), numbers(C)
Y, INDEX, Q = torch.tensor([0, 2, -100, 4]), torch.tensor([0, 2, 3, 4]), torch.softmax(numbers(N, C) / 3, 1)


def cases():
    """(name, what is differentiated, ours, PyTorch's or None)."""
    for reduction in ("mean", "sum", "none"):
        by = {"reduction": reduction}
        own = {"weight": Q[0]}, {"label_smoothing": 0.1}
        for options, (kind, t) in itertools.product(({}, *own), (("classes", Y), ("probabilities", Q))):
            call = [lambda z, f=f, t=t, o=options | by: f(z, t, **o) for f in (ours.cross_entropy, F.cross_entropy)]
            yield f"cross_entropy, {reduction}, {list(options)}, {kind}", Z, *call
        for options in BEYOND:
            yield (
                f"cross_entropy, {reduction}, {list(options)}",
                Z,
                lambda z, o=options | by: ours.cross_entropy(z, Y, **o),
                None,
            )
        both = ours.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits
        yield f"binary, {reduction}", Z, *(lambda z, f=f, by=by: f(z, Q, **by) for f in both)
        yield f"focal, {reduction}", Z, lambda z, by=by: ours.sigmoid_focal_loss(z, Q, **by), None
        for kind in ("forward", "reverse", "js"):
            yield f"{kind}, {reduction}", Z, lambda z, o=by | {"kind": kind}: ours.distillation(z, TEACHER, **o), None
        for n, given in enumerate((HIDDEN, WEIGHT, BIAS)):
            layer = lambda v, n=n: [v if i == n else t for i, t in enumerate((HIDDEN, WEIGHT, BIAS))]  # noqa: E731

            def linear(v, layer=layer, by=by):
                hidden, weight, bias = layer(v)
                return ours.linear_cross_entropy(hidden, weight, Y, linear_bias=bias, **by)

            yield (
                f"linear, {reduction}, {n}",
                given,
                linear,
                lambda v, layer=layer, by=by: F.cross_entropy(F.linear(*layer(v)), Y, **by),
            )
    yield "log_softmax", Z, lambda z: ours.log_softmax(z, 1), lambda z: F.log_softmax(z, 1)
    yield (
        "log_probs",
        Z,
        lambda z: ours.token_log_probs(z, INDEX),
        lambda z: -F.cross_entropy(z, INDEX, reduction="none"),
    )
    yield "entropy", Z, ours.entropy, lambda z: torch.distributions.Categorical(logits=z).entropy()
    yield "log_probs_and_entropy", Z, lambda z: torch.stack(ours.token_log_probs_and_entropy(z, INDEX)), None
    yield "linear_log_probs", HIDDEN, lambda h: torch.stack(ours.linear_log_probs(h, WEIGHT, INDEX)), None


def found(of, given, where):
    """Loss, gradient, and the second derivatives, on the logits and on what arrives at the loss."""
    forward, backward, twice = (FlopCounterMode(display=False) if on else contextlib.nullcontext() for on in where)
    z = given.clone().requires_grad_()
    with forward:
        loss = of(z)
    arriving = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape).requires_grad_()
    with backward:
        (grad,) = torch.autograd.grad(loss, z, arriving, create_graph=True)
    with twice:
        second = torch.autograd.grad((grad * torch.linspace(-1, 1, grad.numel()).view(grad.shape)).sum(), (z, arriving))
    return loss, grad, *second


FUNCTIONS = sorted({name.partition(",")[0] for name, *_ in cases()})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_under_a_dispatch_mode(function):
    for name, given, mine, pytorchs in cases():
        if name.partition(",")[0] != function:
            continue
        want = found(pytorchs or mine, given, MODES[0])
        for where in MODES if pytorchs else MODES[1:]:
            got = found(mine, given, where)
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
