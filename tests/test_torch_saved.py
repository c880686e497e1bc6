"""What a forward of crossentropy.torch has kept may be changed before its backward: PyTorch's gradient, or an error."""

import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

import torch.nn.functional as F  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import crossentropy  # noqa: E402
from crossentropy import native  # noqa: E402
from crossentropy.torch import bridge, cache, cross_entropy, kept  # noqa: E402

LARGE = 2, cache.LARGE // 8  # whose gradient lies in memory of cache.empty_like, float32 or float64


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def softmax_in_place(z):
    """As metrics have it: on a CPU there is no copy."""
    p = z.detach().cpu().float().numpy() if z.dtype == torch.float32 else bridge.array(z)
    p[...] = np.exp(p - p.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)


SEEN = {  # by autograd
    "div_": lambda z: z.div_(2),
    "clamp_": lambda z: z.clamp_(-1, 1),
    "masked_fill_": lambda z: z.masked_fill_(z > 0, -torch.inf),
    "set by index": lambda z: z.__setitem__(0, 7.0),
}
UNSEEN = {
    "softmax of a NumPy array": softmax_in_place,
    "data": lambda z: z.data.mul_(0.5),
    "the last rows alone": lambda z: z.data[-1].clamp_(max=0),
    "NaN": lambda z: z.data.fill_(torch.nan),
    "one number more": lambda z: z.data.add_(1),
}


def weight_gradient(function, change, rows, classes, dtype=torch.float32, factor=1.0, **options):
    """Of a linear layer whose outputs are changed between the loss and its backward."""
    torch.manual_seed(1)
    layer = torch.nn.Linear(16, classes, dtype=dtype)
    h, t = torch.randn(rows, 16, dtype=dtype), torch.randint(classes, (rows,))
    t[1] = -100
    z = layer(h).mul(3)
    loss = function(z, t, **options)
    with torch.no_grad():
        change(z)
    (loss.mean() * factor).backward()
    return layer.weight.grad


# ---------------------------------------------------------------------- float32 and float64, mean and sum


@pytest.mark.parametrize("change", (SEEN | UNSEEN).values(), ids=(SEEN | UNSEEN).keys())
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_is_pytorchs_whatever_is_done_to_the_logits(dtype, reduction, change):
    for factor in (1.0, 0.25):
        given = {"dtype": dtype, "factor": factor, "reduction": reduction}
        found = weight_gradient(cross_entropy, change, 12, 10, **given)
        torch.testing.assert_close(found, weight_gradient(F.cross_entropy, change, 12, 10, **given))
        assert torch.equal(found, weight_gradient(cross_entropy, lambda z: None, 12, 10, **given))


@pytest.mark.parametrize("change", [softmax_in_place, SEEN["div_"]], ids=["softmax of a NumPy array", "div_"])
def test_of_1024_rows_and_1000_classes(change):
    """The report: the weights' gradient off by 10 %."""
    found, wanted = (weight_gradient(f, change, 1024, 1000) for f in (cross_entropy, F.cross_entropy))
    assert (found - wanted).norm() <= 5e-7 * wanted.norm()


def test_options_and_layouts():
    for shape in ((6, 5), (3, 5, 4), (5,)):
        for options in ({"label_smoothing": 0.2}, {"z_loss": 0.1}, {"weight": torch.rand(5)}):
            x = torch.randn(shape, requires_grad=True)
            t = torch.randint(5, (*shape[:1], *shape[2:]) if len(shape) > 1 else ())
            for target in (t, torch.softmax(torch.randn(shape), -1)):
                z = x * 1
                loss = cross_entropy(z, target, **options)
                (wanted,) = torch.autograd.grad(loss, x, retain_graph=True)
                with torch.no_grad():
                    z.fill_(3)
                assert torch.equal(torch.autograd.grad(loss, x)[0], wanted)


@pytest.mark.parametrize("shape", [(4, 6), LARGE], ids=["small", "large"])
@pytest.mark.parametrize("factor", [1, 3])
def test_gradients_of_a_graph_that_is_kept_share_nothing(shape, factor):
    x, t = torch.randn(shape, requires_grad=True), torch.randint(shape[1], shape[:1])
    loss = cross_entropy(x, t) * factor
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    wanted = first.clone()
    first.zero_()
    loss.backward(retain_graph=True)
    assert torch.equal(x.grad, wanted)
    x.grad.zero_()  # which AccumulateGrad may have taken as it is
    loss.backward(retain_graph=True)
    loss.backward()
    assert torch.equal(x.grad, 2 * wanted)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("shape", [(4, 6), LARGE], ids=["small", "large"])
def test_gradients_of_two_losses_add_up(shape):
    x, t = torch.randn(shape, requires_grad=True), torch.randint(shape[1], shape[:1])
    (cross_entropy(x, t) + 2 * cross_entropy(x, t)).backward()
    torch.testing.assert_close(x.grad, 3 * torch.autograd.grad(cross_entropy(x, t), x)[0])
    wanted = 2 * x.grad
    (3 * cross_entropy(x, t)).backward()
    torch.testing.assert_close(x.grad, wanted)


@pytest.mark.parametrize("shape", [(4, 6), LARGE], ids=["small", "large"])
@pytest.mark.parametrize("factor", [1, 3])
def test_no_second_gradient_is_made(shape, factor):
    """What arrives is multiplied where the gradient lies, which the leaf then takes, and nothing else holds."""
    x, t = torch.randn(shape, requires_grad=True), torch.randint(shape[1], shape[:1])
    loss = cross_entropy(x, t)
    node, address = loss.grad_fn, loss.grad_fn.grad.data_ptr()
    (loss * factor).backward()
    assert x.grad.data_ptr() == address
    assert node.grad is None


@pytest.mark.parametrize("arriving", [float("inf"), float("nan")])
def test_what_overflowed_after_a_change(arriving):
    x, t = torch.randn(4, 6, requires_grad=True), torch.tensor([0, -100, 2, 3])
    z = x * 1
    loss = cross_entropy(z, t) * arriving
    with torch.no_grad():
        z.div_(2)
    loss.backward()
    assert torch.equal(x.grad[1], torch.zeros(6))
    assert not x.grad[[0, 2, 3]].isfinite().any()


@pytest.mark.parametrize("changed", ["target", "weight"])
def test_targets_and_weights_that_were_changed_are_an_error_as_in_pytorch(changed):
    for function in (F.cross_entropy, cross_entropy):
        x, given = torch.randn(4, 6, requires_grad=True), {"target": torch.arange(4), "weight": torch.rand(6)}
        loss = function(x, **given)
        given[changed].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1)], ids=["short", "long"])
def test_a_graph_that_is_gone_and_one_that_is_kept(shape):
    """Nothing goes through save_for_backward, whose errors these are."""
    x, t = torch.randn(shape, requires_grad=True), torch.zeros(shape[:1] + shape[2:], dtype=torch.int64)
    z = x * 1
    loss = cross_entropy(z, t)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, x, torch.tensor(2.0), create_graph=True)
    assert torch.equal(twice, 2 * first)
    (second,) = torch.autograd.grad(twice.square().sum(), x, retain_graph=True)
    (wanted,) = torch.autograd.grad(F.cross_entropy(x, t), x, torch.tensor(2.0), create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(wanted.square().sum(), x)[0])
    loss.backward()
    for keeps in (False, True):
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, x, retain_graph=keeps, create_graph=keeps)
    gone = weakref.ref(z)
    del z, twice
    assert gone() is None  # the loss holds its logits no longer than its backward needs them


# ---------------------------------------------------------------------- double backwards need the logits


def test_a_double_backward_of_logits_that_were_changed():
    x, t = torch.randn(9, 6, dtype=torch.float64, requires_grad=True), torch.randint(6, (9,))
    z = x * 1
    loss = cross_entropy(z, t)
    with torch.no_grad():
        z.div_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("probabilities", [False, True])
def test_a_double_backward_of_logits_that_were_changed_unseen(probabilities, reduction):
    x = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    t = torch.softmax(torch.randn(9, 6).double(), 1) if probabilities else torch.randint(6, (9,))
    z = x * 1
    (g,) = torch.autograd.grad(cross_entropy(z, t, reduction=reduction).sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(F.cross_entropy(x, t, reduction=reduction).sum(), x, create_graph=True)
    torch.testing.assert_close(*(torch.autograd.grad(a.square().sum(), x, retain_graph=True)[0] for a in (g, wanted)))
    z.data.mul_(0.5)
    with pytest.raises(RuntimeError, match="unseen by autograd"):
        g.square().sum().backward()


# ---------------------------------------------------------------------- losses that keep their logits

KEEP = [(torch.float32, "none"), (torch.float64, "none")]
KEEP += [(dtype, reduction) for dtype in (torch.bfloat16, torch.float16) for reduction in ("mean", "sum", "none")]


@pytest.mark.parametrize("change", UNSEEN.values(), ids=UNSEEN.keys())
@pytest.mark.parametrize(("dtype", "reduction"), KEEP)
def test_a_change_that_autograd_cannot_see_is_an_error(dtype, reduction, change):
    for rows in (3, 30):
        with pytest.raises(RuntimeError, match=r"unseen by autograd .*logits\.detach\(\)\.clone\(\)"):
            weight_gradient(cross_entropy, change, rows, 10, dtype=dtype, reduction=reduction)
    # Class axis 1 of several.
    z, t = torch.randn(3, 40, 2, 3, dtype=dtype, requires_grad=True) * 1, torch.randint(40, (3, 2, 3))
    loss = cross_entropy(z, t, torch.rand(40), reduction=reduction).sum()
    change(z)
    with pytest.raises(RuntimeError, match="unseen by autograd"):
        loss.backward()


@pytest.mark.parametrize("change", SEEN.values(), ids=SEEN.keys())
@pytest.mark.parametrize(("dtype", "reduction"), KEEP)
def test_a_change_that_autograd_sees_is_its_error(dtype, reduction, change):
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        weight_gradient(cross_entropy, change, 12, 10, dtype=dtype, reduction=reduction)


def test_in_place_of_float16():
    """Whose backward reads the logits before it overwrites them."""
    z, t = torch.randn(9, 6, dtype=torch.float16, requires_grad=True) * 1, torch.randint(6, (9,))
    loss = cross_entropy(z, t, inplace=True)
    UNSEEN["data"](z)
    with pytest.raises(RuntimeError, match="unseen by autograd"):
        loss.backward()


CONFIGS = [{"backend": "native", "isa": isa} for isa in native.SUPPORTED_ISAS]
CONFIGS += [{"backend": b.name} for b in crossentropy.backends() if b.available and b.name == "numba"]
PAIRS = [(before, after) for before in CONFIGS for after in CONFIGS]
PAIRS += [({"backend": "reference"},) * 2]  # which keeps no statistics


@pytest.mark.parametrize(("before", "after"), PAIRS, ids=str)
def test_no_alarm_without_a_change(before, after):
    """Whatever the rows hold, however they lie, whoever computed the loss."""
    rng = np.random.default_rng(0)
    for shape in ((7,), (9, 1), (20, 7), (9, 130), (3, 70, 2, 3)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            x = torch.from_numpy(rng.standard_normal(shape) * 10).to(dtype)
            rows = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
            t = torch.from_numpy(np.asarray(rng.integers(shape[len(shape) > 1], size=rows)))
            if rows:
                t.view(-1)[0], t.view(-1)[3], t.view(-1)[-1] = -100, 10**4, -100
                x[0], x[1], x[2], x[-1] = torch.nan, -torch.inf, torch.inf, torch.nan
            q = torch.from_numpy(rng.random(shape)).to(dtype)
            q[: len(q) // 2] = 0
            w = torch.from_numpy(rng.integers(2, size=shape[len(shape) > 1]).astype(float))
            for z in (x, x.mT.contiguous().mT if x.dim() > 1 else x, torch.stack([x, x], -1)[..., 0]):
                for target, options in ((t, {}), (t, {"label_smoothing": 0.1}), (q, {"z_loss": 0.1}), (q, {})):
                    z = z.detach().requires_grad_()
                    with crossentropy.config(check=False, **before):
                        loss = cross_entropy(z, target, w.to(dtype), reduction="none", **options).sum()
                    with crossentropy.config(check=False, **after):
                        loss.backward()


def test_few_rows_are_read_again(monkeypatch):
    seen = []
    backend = crossentropy._backends.registry.current()
    forward = backend.forward
    monkeypatch.setattr(backend, "forward", lambda x, *rest: seen.append(x.shape) or forward(x, *rest))
    for rows in (0, 1, 5, 1000):
        x = torch.randn(rows, 6, requires_grad=True)
        loss = cross_entropy(x, torch.zeros(rows, dtype=torch.int64), reduction="none").sum()
        seen.clear()
        loss.backward()
        assert seen == ([(min(rows, kept.ROWS), 6)] if rows else [])
    spread = kept._spread(1000)
    assert (spread[0], spread[-1]) == (0, 999)


# ---------------------------------------------------------------------- hooks on what is saved


def test_a_checkpoint_keeps_no_gradient():
    """Nor does offloading: what goes through their hooks is the logits."""
    x, t = torch.randn(5, 6, requires_grad=True), torch.randint(6, (5,))
    loss = checkpoint(lambda z: cross_entropy(z * 1, t), x, use_reentrant=False)
    assert not hasattr(loss.grad_fn, "grad")
    assert torch.equal(torch.autograd.grad(loss, x)[0], torch.autograd.grad(cross_entropy(x, t), x)[0])
    with torch.autograd.graph.save_on_cpu():
        loss = cross_entropy(x, t)
    x.data.mul_(0.5)  # that saves no copy of what is on the CPU
    with pytest.raises(RuntimeError, match="unseen by autograd"):
        loss.backward()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_gradient_that_is_a_parameter(reduction):
    """It may arrive as one, which is a tensor like others: all that holds for these holds for it."""
    x, t = torch.randn(3, 5, requires_grad=True), torch.tensor([0, 4, -100])
    two = torch.nn.Parameter(torch.tensor(2.0))
    by_us, by_torch = (
        torch.autograd.grad(f(x, t, reduction=reduction), x, two, create_graph=True)[0]
        for f in (cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(by_us, by_torch)
    c = torch.randn(3, 5)
    (ours,), (theirs,) = (torch.autograd.grad((g * c).sum(), x) for g in (by_us, by_torch))
    torch.testing.assert_close(ours, theirs)
    loss = cross_entropy(x, t, reduction=reduction)
    torch.autograd.grad(loss, x, torch.nn.Parameter(torch.tensor(torch.inf)), retain_graph=True)
    (g,) = torch.autograd.grad(loss, x, torch.nn.Parameter(torch.tensor(torch.inf)))
    assert (g[2] == 0).all()
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x, two)
