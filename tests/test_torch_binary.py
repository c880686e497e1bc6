"""crossentropy.torch's losses of one logit: PyTorch's function, torchvision's formula, differentiation."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra torch")
from torch.nn import functional as F  # noqa: E402

from crossentropy.torch import binary as module  # noqa: E402
from crossentropy.torch import binary_cross_entropy_with_logits, sigmoid_focal_loss  # noqa: E402

TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def data(dtype, shape=(6, 5)):
    generator = torch.Generator().manual_seed(1)
    z = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3).to(dtype).requires_grad_()
    return z, torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def both(function, theirs, z, t, **options):
    """Loss and gradient are of the kind of PyTorch's, and what it computes in float64; what arrives is not 1."""
    wide = {name: a.double() if isinstance(a, torch.Tensor) else a for name, a in options.items()}
    kind = theirs(z, t, **options)
    exact = z.detach().double().requires_grad_()
    found = []
    for f, x, target, given in ((function, z, t, options), (theirs, exact, t.double(), wide)):
        loss = f(x, target, **given)
        arriving = torch.linspace(0.5, 2, loss.numel(), dtype=z.dtype).reshape(loss.shape).to(loss.dtype)
        found.append((loss.detach(), *torch.autograd.grad(loss, x, arriving)))
    (loss, grad), (their_loss, their_grad) = found
    assert (loss.dtype, loss.shape, grad.dtype) == (kind.dtype, kind.shape, z.dtype)
    rtol = TOLERANCE[z.dtype]
    torch.testing.assert_close(loss.double(), their_loss, rtol=rtol, atol=0)
    torch.testing.assert_close(grad.double(), their_grad, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_as_pytorch_s(dtype, reduction, monkeypatch):
    z, t = data(dtype)
    w, r = torch.rand(5).to(dtype), torch.rand(6, 1).to(dtype) + 0.5
    theirs = F.binary_cross_entropy_with_logits
    for options in ({}, {"weight": w}, {"pos_weight": w}, {"weight": r, "pos_weight": w}):
        both(binary_cross_entropy_with_logits, theirs, z, t, reduction=reduction, **options)
    both(binary_cross_entropy_with_logits, theirs, z, (t > 0.5).to(dtype), reduction=reduction)
    turned = z.detach().t().requires_grad_()
    both(binary_cross_entropy_with_logits, theirs, turned, t.t(), reduction=reduction)
    monkeypatch.setattr(F, "binary_cross_entropy_with_logits", None)  # none of these is handed over
    binary_cross_entropy_with_logits(z, t, w, reduction=reduction, pos_weight=r).sum().backward()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 1.5), (0.5, 0)])
def test_focal_as_torchvision_s(dtype, alpha, gamma):
    z, t = data(dtype)
    for reduction in ("none", "mean", "sum"):
        if dtype.itemsize > 2:
            both(sigmoid_focal_loss, module.composed_focal, z, t, alpha=alpha, gamma=gamma, reduction=reduction)
        wide = z.detach().double().requires_grad_()
        want = module.composed_focal(wide, t.double(), alpha, gamma, reduction)
        torch.testing.assert_close(
            sigmoid_focal_loss(z, t, alpha, gamma, reduction).double(), want, rtol=TOLERANCE[dtype], atol=1e-6
        )
    with pytest.raises(ValueError, match="reduction must be one of"):
        sigmoid_focal_loss(z, t, reduction="max")


def test_derivatives_of_every_order():
    z, t = data(torch.float64, (4,))
    w = torch.tensor([0.5, 2.0, 1.0, 0.25], dtype=torch.float64)
    for f in (
        lambda z: binary_cross_entropy_with_logits(z, t, w, pos_weight=w),
        lambda z: binary_cross_entropy_with_logits(z, t, reduction="none"),
        lambda z: sigmoid_focal_loss(z, t),
    ):
        assert torch.autograd.gradcheck(f, z)
        assert torch.autograd.gradgradcheck(f, z)


def test_a_graph_that_is_kept_and_tensors_that_change():
    z, t = data(torch.float32)
    loss = binary_cross_entropy_with_logits(z, t)
    first = torch.autograd.grad(loss, z, retain_graph=True)[0].clone()
    loss.backward(retain_graph=True)
    z.grad.zero_()
    assert torch.equal(torch.autograd.grad(loss, z)[0], first)
    changed = z.detach().clone().requires_grad_()
    held = changed * 1
    loss = binary_cross_entropy_with_logits(held, t, reduction="none").sum()
    held.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
def test_what_is_handed_to_pytorch():
    z, t = data(torch.float32)
    soft = t.clone().requires_grad_()
    for f in (binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits):
        f(z, soft).backward()
    assert soft.grad is not None
    cases = [((z, t.double()), {}), ((z, t), {"weight": torch.full((5,), torch.inf)})]
    cases += [((z, t), {"reduce": False}), ((z[:0], t[:0]), {})]
    for args, options in cases:
        want = F.binary_cross_entropy_with_logits(*args, **options)
        torch.testing.assert_close(binary_cross_entropy_with_logits(*args, **options), want, equal_nan=True)
    wide = {"weight": torch.ones(2, 6, 5)}
    for args, options in (((z, t[0]), {}), ((z, t), wide), ((z, t), {"reduction": "max"}), ((z, t > 0.5), {})):
        errors = []
        for f in (binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits):
            with pytest.raises((RuntimeError, ValueError)) as error:
                f(*args, **options)
            errors.append((type(error.value), str(error.value)))
        assert errors[0] == errors[1]
    per_sample = torch.func.vmap(torch.func.grad(binary_cross_entropy_with_logits))(z.detach(), t)
    torch.testing.assert_close(per_sample, (torch.sigmoid(z.detach()) - t) / 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want = F.binary_cross_entropy_with_logits(z.bfloat16(), t.bfloat16())
        found = binary_cross_entropy_with_logits(z.bfloat16(), t.bfloat16())
    torch.testing.assert_close(found, want)


def test_digits_that_pytorch_loses():
    """A small loss and an infinite logit that the target agrees with."""
    z = torch.tensor([50.0, -60.0, torch.inf])
    loss = binary_cross_entropy_with_logits(z, torch.tensor([1.0, 0.0, 1.0]), reduction="none")
    np.testing.assert_allclose(loss.numpy(), [np.exp(-50.0), np.exp(-60.0), 0.0], rtol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_on_a_device(dtype, reduction, monkeypatch):
    """What the CPU gives, and nothing of it is handed over."""
    z, t = data(dtype)
    w = torch.rand(5).to(dtype)
    bce = functools.partial(binary_cross_entropy_with_logits, reduction=reduction)
    focal = functools.partial(sigmoid_focal_loss, reduction=reduction)
    for function, options in ((bce, {}), (bce, {"pos_weight": w}), (focal, {"gamma": 1.5})):
        found = []
        for place in ("cpu", "cuda"):
            x = z.detach().to(place).requires_grad_()
            given = {name: a.to(place) if isinstance(a, torch.Tensor) else a for name, a in options.items()}
            loss = function(x, t.to(place), **given)
            (grad,) = torch.autograd.grad(loss.sum() * 2, x)
            assert loss.device.type == grad.device.type == place
            found.append((loss.cpu(), grad.cpu()))
        for here, there in zip(*found, strict=True):
            torch.testing.assert_close(there, here, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    monkeypatch.setattr(F, "binary_cross_entropy_with_logits", None)
    bce(z.detach().cuda().requires_grad_(), t.cuda(), w.cuda()).sum().backward()
