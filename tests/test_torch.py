"""crossentropy.torch: where it is not PyTorch, differentiation, tracing, memory. (Samples: test_torch_samples.py)"""

import copy
import os
import pickle
import sys
import weakref

import numpy as np
import pytest
from subprocesses import run

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

import torch.nn.functional as F  # noqa: E402
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import crossentropy  # noqa: E402
from crossentropy import _memory, native, reference  # noqa: E402
from crossentropy._settings import once  # noqa: E402
from crossentropy.testing import largest_error  # noqa: E402
from crossentropy.torch import (  # noqa: E402
    CrossEntropyLoss,
    bridge,
    cache,
    cross_entropy,
    eager,
    empty_cache,
    kept_logits,
    log_softmax,
    ops,
    private,
    short,
)
from crossentropy.torch.bridge import NO_WEIGHTS, PLAIN, Weights  # noqa: E402

# PyTorch's own: when its transforms or its compiler are loaded, and in compiled backwards.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:`torch.jit:FutureWarning",  # the same from 2.15 on
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def problem(*shape, dtype=torch.float32):
    """Logits that require grad, class targets one of which is ignored, probabilities, weights."""
    classes, rows = shape[1], (shape[0], *shape[2:])
    x = torch.randn(shape, dtype=torch.float64).mul(3).to(dtype)
    t = torch.randint(classes, rows)
    t.view(-1)[0] = -100
    q = torch.softmax(torch.randn(shape, dtype=torch.float64), 1).to(dtype)
    return x.requires_grad_(), t, q, torch.rand(classes, dtype=torch.float64).to(dtype)


def in_halves(monkeypatch):
    """Losses that keep their logits, as those of 16 bits do."""
    monkeypatch.setattr(short, "cross_entropy", lambda *call: None)
    monkeypatch.setattr(eager, "is_at_once", lambda *call: False)


def gradient(function, x, *rest, **options):
    loss = function(x, *rest, **options)
    return torch.autograd.grad(loss.sum(), x)[0]


# ---------------------------------------------------------------------- where it is not what PyTorch does


def test_confident_rows_keep_their_loss():
    x = torch.tensor([[50.0, 0.0]], requires_grad=True)
    assert F.cross_entropy(x, torch.tensor([0])) == 0
    loss = cross_entropy(x, torch.tensor([0]))
    assert loss.item() == pytest.approx(np.exp(-50), rel=1e-6)
    assert torch.autograd.grad(loss, x)[0][0, 0].item() == pytest.approx(-np.exp(-50), rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_an_ignored_row_of_nan_has_gradient_0(label_smoothing):
    x, t, _, _ = problem(4, 6)
    with torch.no_grad():
        x[0] = torch.nan
    found = gradient(cross_entropy, x, t, label_smoothing=label_smoothing)
    assert torch.equal(found[0], torch.zeros(6))
    assert found[1:].isfinite().all()


def test_a_mean_over_no_row_is_nan_with_gradient_0():
    x, _, _, _ = problem(3, 6)
    t = torch.full((3,), -100)
    assert cross_entropy(x, t).isnan()
    assert F.cross_entropy(x, t).isnan()
    assert torch.equal(gradient(cross_entropy, x, t), torch.zeros(3, 6))
    nothing = torch.zeros(0, 6, requires_grad=True)
    assert cross_entropy(nothing, t[:0]).isnan()
    assert gradient(cross_entropy, nothing, t[:0]).shape == (0, 6)


@pytest.mark.parametrize("epsilon", [float("nan"), -0.1])
def test_smoothing_that_pytorch_lets_through_is_refused(epsilon):
    x, t, _, _ = problem(3, 6)
    F.cross_entropy(x, t, label_smoothing=epsilon)
    with pytest.raises(RuntimeError, match="label_smoothing must be in"):
        cross_entropy(x, t, label_smoothing=epsilon)


@pytest.mark.parametrize("w", [float("nan"), float("inf")])
def test_weights_that_pytorch_lets_through_are_refused(w):
    x, t, _, weight = problem(3, 6)
    weight[2] = w
    F.cross_entropy(x, t, weight)
    with pytest.raises(ValueError, match=r"class_weight\[2\] = "):
        cross_entropy(x, t, weight)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_below_0_are_pytorchs(dtype, reduction):
    x, t, q, weight = problem(9, 6, dtype=dtype)
    weight[2], weight[3] = -0.5, -0.0
    for target in (t, q):
        for inplace in (False, True):
            options = {"reduction": reduction, "label_smoothing": 0.1}
            wanted = F.cross_entropy(x, target, weight, **options)
            found = cross_entropy(x * 1, target, weight, inplace=inplace, **options)
            assert torch.equal(found, wanted)
            assert torch.equal(*(torch.autograd.grad(a.sum(), x)[0] for a in (found, wanted)))
    with torch.no_grad():
        assert torch.equal(cross_entropy(x, t.int(), weight.double()), F.cross_entropy(x, t, weight))
    plain = cross_entropy(x, t, weight, reduction="sum", z_loss=0.1)
    torch.testing.assert_close(plain, cross_entropy(x.detach(), t, weight, reduction="sum", z_loss=0.1))


def test_weights_below_0_of_a_traced_call_are_refused():
    """Only when it runs do they have values."""
    x, t, _, weight = problem(9, 6)
    weight[2] = -0.5
    compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match=r"class_weight\[2\] = "):
        compiled(x, t, weight)
    torch.compiler.reset()


def test_probability_0_at_a_logit_of_minus_infinity_counts_nothing():
    x = torch.tensor([[-torch.inf, 0.0, 1.0]], requires_grad=True)
    q = torch.tensor([[0.0, 0.5, 0.5]])
    assert F.cross_entropy(x, q).isnan()
    loss = cross_entropy(x, q)
    assert loss.item() == pytest.approx(np.log1p(np.e) - 0.5)
    assert torch.autograd.grad(loss, x)[0][0, 0] == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint64])
def test_targets_of_any_integer_dtype(dtype):
    x, t, _, _ = problem(5, 6)
    t = t.clamp(min=0)
    assert torch.equal(cross_entropy(x, t.to(dtype)), cross_entropy(x, t))
    assert torch.equal(gradient(cross_entropy, x, t.to(dtype)), gradient(cross_entropy, x, t))


def test_weights_of_another_floating_dtype():
    x, t, _, weight = problem(5, 6)
    with pytest.raises(RuntimeError):
        F.cross_entropy(x, t, weight.double())
    assert torch.equal(cross_entropy(x, t, weight.double()), cross_entropy(x, t, weight))


def test_a_bad_z_loss_is_refused():
    x, t, _, _ = problem(5, 6)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="z_loss must be finite and not negative"):
            cross_entropy(x, t, z_loss=bad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_z_loss(reduction):
    """Also where PyTorch's own function computes the rest: the transforms of torch.func."""
    x, t, q, weight = problem(5, 6, 2, dtype=torch.float64)
    for target, w in ((t, None), (t, weight), (q, None), (q, weight)):
        z = 0.1 * torch.logsumexp(x, 1) ** 2
        counts = torch.ones_like(z, dtype=torch.bool) if target is q else target != -100
        z = torch.where(counts, z, 0)
        by = counts.sum() if w is None or target is q else w[target.clamp(min=0)][counts].sum()
        plain = F.cross_entropy(x, target, w, reduction=reduction)
        expected = plain + {"mean": z.sum() / by, "sum": z.sum(), "none": z}[reduction]
        options = {"weight": w, "reduction": reduction, "z_loss": 0.1}
        torch.testing.assert_close(cross_entropy(x, target, **options), expected)
        _, found = torch.func.vjp(lambda x, target=target, options=options: cross_entropy(x, target, **options), x)
        (found,) = found(torch.ones_like(expected))
        torch.testing.assert_close(found, gradient(cross_entropy, x, target, **options))


# ---------------------------------------------------------------------- dtypes and layouts of results


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_result_dtypes_are_pytorchs(dtype, autocast):
    x, t, q, weight = problem(4, 6, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for target in (t, q, q.float(), q.double()):
            for w in (None, weight):
                theirs, ours = F.cross_entropy(x, target, w), cross_entropy(x, target, w)
                assert ours.dtype == theirs.dtype
                torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=0)
                assert torch.autograd.grad(ours, x)[0].dtype == dtype
        assert log_softmax(x, 1).dtype == F.log_softmax(x, 1).dtype
        assert log_softmax(x, 1, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_in_any_layout(dtype):
    """No copy is made: the results are those of a contiguous array, to the bit."""
    x, t, _, _ = problem(4, 6, 3, 5, dtype=dtype)
    wanted, wanted_gradient = cross_entropy(x, t, reduction="none"), gradient(cross_entropy, x, t)
    within = torch.zeros(4, 7, 3, 5, dtype=dtype)[:, 1:]
    for other in (x.detach().clone(memory_format=torch.channels_last), within.copy_(x.detach())):
        other.requires_grad_()
        assert torch.equal(cross_entropy(other, t.mT.contiguous().mT, reduction="none"), wanted)
        found = gradient(cross_entropy, other, t)
        assert found.stride() == torch.empty_like(other).stride()
        assert torch.equal(found, wanted_gradient)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_view_that_is_negated_when_it_is_read(inplace):
    z, t = torch.randn(4, 6, dtype=torch.complex64, requires_grad=True), torch.arange(4)
    x = (z * 1).conj().imag
    assert x.is_neg()
    wanted = torch.autograd.grad(cross_entropy(x.clone(), t), z, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(cross_entropy(x, t, inplace=inplace), z)[0], wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expanded_logits(dtype):
    """Which have no place of their own for a gradient."""
    row, t = torch.randn(1, 6, dtype=dtype, requires_grad=True), torch.arange(4)
    for inplace in (False, True):
        (found,) = torch.autograd.grad(cross_entropy(row.expand(4, 6), t, inplace=inplace), row)
        (wanted,) = torch.autograd.grad(F.cross_entropy(row.double().expand(4, 6), t), row)
        torch.testing.assert_close(found, wanted, rtol=0, atol=4 * torch.finfo(dtype).eps)  # PyTorch's sum of four rows


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_alone(dtype):
    x, t = torch.zeros(4, 6, dtype=dtype, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    loss = cross_entropy(x.requires_grad_(), t, reduction="none")
    assert (loss.device.type, loss.shape, loss.dtype) == ("meta", (4,), dtype)
    assert torch.autograd.grad(loss.sum(), x)[0].shape == x.shape


# ---------------------------------------------------------------------- differentiation

CALLS = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"weight": True, "label_smoothing": 0.2},
    {"weight": True, "reduction": "none", "z_loss": 0.3},
    {"label_smoothing": 0.1, "z_loss": 0.3},
]


@pytest.mark.parametrize("way", ["at once", "in halves", "operator"])
@pytest.mark.parametrize("options", CALLS, ids=str)
def test_gradcheck_and_gradgradcheck(options, way, monkeypatch):
    if way == "in halves":
        in_halves(monkeypatch)
    elif way == "operator":
        monkeypatch.setattr(private, "is_traced", lambda *tensors: True)
        monkeypatch.setattr(short, "cross_entropy", lambda *call: None)
    for shape in ((4, 6), (3, 5, 2)):
        x, t, q, weight = problem(*shape, dtype=torch.float64)
        given = options | {"weight": weight} if "weight" in options else options
        for target in (t, q):
            function = lambda x, target=target, given=given: cross_entropy(x, target, **given)  # noqa: E731
            assert gradcheck(function, x)
            assert gradgradcheck(function, x)
    assert gradcheck(lambda x: log_softmax(x, 1), x)
    assert gradgradcheck(lambda x: log_softmax(x, 1), x)


def test_rows_that_do_not_count_have_no_second_derivative():
    x, t, _, _ = problem(4, 6, dtype=torch.float64)
    with torch.no_grad():
        x[0] = torch.nan
    (g,) = torch.autograd.grad(cross_entropy(x, t), x, create_graph=True)
    (h,) = torch.autograd.grad((g**2).sum(), x)
    assert torch.equal(h[0], torch.zeros(6, dtype=torch.float64))
    assert (h[1:] != 0).all()
    (g,) = torch.autograd.grad(cross_entropy(x[:1], t[:1]), x, create_graph=True)
    (h,) = torch.autograd.grad((g**2).sum(), x)
    assert torch.equal(h, torch.zeros(4, 6, dtype=torch.float64))


@pytest.fixture
def _in_halves(monkeypatch):
    in_halves(monkeypatch)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_backward_gives_the_same(reduction, at_once, monkeypatch):
    if not at_once:
        in_halves(monkeypatch)
    x, t, _, _ = problem(5, 7)
    loss = cross_entropy(x, t, reduction=reduction).sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    loss.backward(retain_graph=True)
    assert torch.equal(x.grad, first)
    loss.backward()
    assert torch.equal(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_what_arrives_may_have_any_strides():
    x, t, _, _ = problem(4, 6, 3)
    loss = cross_entropy(x, t, reduction="none")
    g = torch.randn(3, 4)
    for arriving in (g.T, torch.tensor(2.0).expand(4, 3), torch.randn(4, 6)[:, ::2], g[:, :1].T.expand(4, 3)):
        found = torch.autograd.grad(loss, x, arriving, retain_graph=True)[0]
        assert torch.equal(found, torch.autograd.grad(loss, x, arriving.contiguous(), retain_graph=True)[0])
        expected = torch.autograd.grad(F.cross_entropy(x, t, reduction="none"), x, arriving)[0]
        torch.testing.assert_close(found, expected)
    p = log_softmax(x, 1)
    arriving = torch.randn(4, 1, 3).expand(4, 6, 3)
    found = torch.autograd.grad(p, x, arriving)[0]
    torch.testing.assert_close(found, torch.autograd.grad(F.log_softmax(x, 1), x, arriving)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_short_way_gives_what_the_long_way_gives(dtype, monkeypatch):
    t, found = torch.tensor([0, 9, 4, 4]), {True: [], False: []}
    wide = torch.randn(4, 20, dtype=dtype)
    short_way = short.cross_entropy
    for is_short, results in found.items():
        if not is_short:
            monkeypatch.setattr(short, "cross_entropy", lambda *call: None)
        for x in (wide[:, :10].contiguous(), wide[:, ::2], wide.reshape(20, 4)[:10].T):
            for ignore_index in (-100, 4, 77):
                assert short_way(x, t, ignore_index) is not None
                z = x.clone().requires_grad_()
                loss = cross_entropy(z, t, ignore_index=ignore_index)
                results += [loss, *torch.autograd.grad(loss, z), cross_entropy(x, t, ignore_index=ignore_index)]
    for one, other in zip(*found.values(), strict=True):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype == dtype


def test_the_short_way_writes_to_no_other_device_and_keeps_no_loss():
    x, t = torch.randn(4, 10, requires_grad=True), torch.tensor([0, 9, 4, 4])
    with torch.device("meta"):  # of new tensors: an address there is none
        loss = cross_entropy(x, t)
        plain = cross_entropy(x.detach(), t)
    assert loss.is_cpu
    assert torch.equal(loss, plain)
    torch.testing.assert_close(loss, F.cross_entropy(x, t))
    gone = weakref.ref(loss.grad_fn)
    loss.backward()
    del loss
    assert gone() is None  # with no garbage collector: nothing refers to itself


def test_the_short_way_heeds_the_settings_of_each_call():
    x, t, asked = torch.randn(4, 10), torch.tensor([0, 9, 4, 4]), []
    wanted = cross_entropy(x, t)

    def isa():
        asked.append(native.current_isa())
        return asked[-1]

    for name in native.SUPPORTED_ISAS:
        with crossentropy.config(isa=name):
            assert once(isa) == once(isa) == name
            torch.testing.assert_close(cross_entropy(x, t), wanted)
    assert asked == list(native.SUPPORTED_ISAS)
    try:
        once(isa)
        crossentropy.set_config(isa="base")
        assert once(isa) == "base"
    finally:
        crossentropy.set_config(isa=None)
    assert once(isa) == native.SUPPORTED_ISAS[0]
    with crossentropy.config(backend="reference"):
        torch.testing.assert_close(cross_entropy(x, t), wanted)
    assert torch.equal(cross_entropy(x, t), wanted)


def test_a_tensor_that_a_transform_left_behind():
    t, left = torch.tensor([0, 9, 4, 4]), []
    z = torch.randn(4, 10, requires_grad=True)
    torch.func.grad(lambda x: left.append(x) or x.sum())(z)
    assert left[0] is not z
    assert torch.equal(cross_entropy(left[0], t), cross_entropy(z, t))
    (grad,) = torch.autograd.grad(cross_entropy(left[0], t), z)
    assert torch.equal(grad, torch.autograd.grad(cross_entropy(z, t), z)[0])
    assert torch.equal(cross_entropy(z, private.unwrapped(t)), cross_entropy(z, t))


def test_what_the_short_way_leaves_to_the_long_one():
    short_way = short.cross_entropy
    x, t = torch.randn(4, 10), torch.tensor([0, 9, 4, 4])
    others = [(x, t[:3]), (x, t.float()), (x[0], t[0]), (x.bfloat16(), t), (x.long(), t), (x[:0], t[:0]), (x, x)]
    others += [(torch._neg_view(x), t), (x.to("meta"), t), (x.to_sparse(), t), (x[:, :0], t), (None, t), (x, None)]
    for call in others:
        assert short_way(*call, -100) is None
    assert short_way(x, t, 2.0) is short_way(x, t, 2**64) is None
    with pytest.raises(IndexError):  # as PyTorch has it
        cross_entropy(x, torch.tensor([0, 10, 4, 4]))


@pytest.mark.usefixtures("_in_halves")
def test_logits_changed_in_between_are_noticed():
    x, t, _, _ = problem(3, 20)
    z = x * 1
    loss = cross_entropy(z, t)
    z += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


CHANGES = {
    "nothing": lambda z, dim: None,
    "div_": lambda z, dim: z.div_(2),
    "masked_fill_ of one": lambda z, dim: z.masked_fill_(z == z.max(), -9.0),
    "a view": lambda z, dim: z[0].add_(1),
    "numpy": lambda z, dim: np.copyto(z.detach().numpy(), 0.5),
    "numpy, in place": lambda z, dim: np.exp(z.detach().numpy(), out=z.detach().numpy()),
    "numpy, one class": lambda z, dim: z.detach().numpy().swapaxes(0, dim)[1].fill(-np.inf),
    "data": lambda z, dim: z.data.mul_(-1),
}


@pytest.mark.parametrize("copied_below", [0, kept_logits.COPIED_BELOW])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_logits_may_change_after_log_softmax(change, dim, copied_below, monkeypatch):
    monkeypatch.setattr(kept_logits, "COPIED_BELOW", copied_below)
    x = torch.randn(40, 50, 3, requires_grad=True)
    z, expected = x * 1, F.log_softmax(x, dim)
    value = log_softmax(z, dim)
    CHANGES[change](z, dim)
    g = torch.randn_like(x)
    (want,) = torch.autograd.grad(expected, x, g)
    (got,) = torch.autograd.grad(value, x, g, retain_graph=True)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.autograd.grad(value, x, g)[0], got)


@pytest.mark.parametrize("copied_below", [0, kept_logits.COPIED_BELOW])
def test_log_softmax_keeps_its_logits_no_longer_than_needed(copied_below, monkeypatch):
    monkeypatch.setattr(kept_logits, "COPIED_BELOW", copied_below)
    x = torch.randn(64, 50, requires_grad=True)
    value = log_softmax(x * 1, 1)
    value.sum().backward(retain_graph=True)
    assert value.grad_fn.kept is not None
    first, x.grad = x.grad, None
    value.sum().backward()
    assert torch.equal(x.grad, first)
    assert value.grad_fn.kept is None
    with pytest.raises(RuntimeError, match="second time"):
        value.sum().backward()
    with torch.autograd.graph.save_on_cpu():
        value = log_softmax(x * 1, 1)
    assert value.grad_fn.kept is None
    x.grad = None
    value.sum().backward()
    torch.testing.assert_close(x.grad, first, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("way", ["kept", "copied", "operator"])
def test_gradient_of_log_softmax_where_a_class_leads(way, kind, monkeypatch):
    """As near to the truth as anywhere else: PyTorch's own is lost to cancellation in the leader."""
    monkeypatch.setattr(kept_logits, "COPIED_BELOW", 0 if way == "kept" else 2**15)
    if way == "operator":
        monkeypatch.setattr(private, "is_traced", lambda *tensors: True)
    dtype = getattr(torch, kind)
    gaps = torch.tensor([0.5, 2.0, 5.0, 10.0, 16.0 if kind == "float16" else 20.0])
    x = torch.randn(5, 40) / 8
    x[:, 3] = x.amax(1) + gaps
    x = x.to(dtype).requires_grad_()
    for c in (3, 7):
        g = torch.zeros_like(x)
        g[:, c] = -1
        (got,) = torch.autograd.grad(log_softmax(x, 1), x, g)
        for row, z, arriving in zip(got.double().tolist(), x.tolist(), g.tolist(), strict=True):
            want, terms = (f(arriving, z) for f in (reference.log_softmax_backward, reference.log_softmax_terms))
            limit = 0.51 if x.itemsize == 2 else 4.5 if kind == "float32" else 8.5
            assert largest_error([row], [want], kind, np.array([terms])) <= limit


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_gradient_of_log_softmax_from_its_result(kind):
    """Where the logits are gone: the leader's entry still has no difference in it."""
    x = (torch.randn(6, 40) / 8).to(getattr(torch, kind))
    x[:, 3] = torch.tensor([0.5, 1.0, 2.0, 5.0, 9.0, 12.0])
    g = torch.zeros_like(x)
    g[:, 3] = -1
    log_p = log_softmax(x, 1)
    got = bridge.log_softmax_backward(g, log_p, bridge.restored_log_softmax(*kept_logits.as_logits(log_p, 1), 1))
    p = torch.log_softmax(x.double(), 1).exp()
    p[:, 3] = p[:, 3] - p.sum(1)
    torch.testing.assert_close(got.double(), p, rtol=2e-6 if kind == "float32" else 0.05, atol=0)
    uniform = torch.zeros(2, 2, dtype=x.dtype)
    log_p = log_softmax(uniform, 1)
    saved = bridge.restored_log_softmax(*kept_logits.as_logits(log_p, 1), 1)
    got = bridge.log_softmax_backward(torch.eye(2, dtype=x.dtype), log_p, saved)
    torch.testing.assert_close(got, torch.tensor([[0.5, -0.5], [-0.5, 0.5]], dtype=x.dtype))


@pytest.mark.parametrize("options", [{}, {"dtype": torch.float64}])
def test_log_softmax_compiled_with_logits_that_change(options):
    def function(x):
        z = x * 1
        value = log_softmax(z, 1, **options)
        z.div_(2)
        return (value * torch.arange(7)).sum() + z.sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, _, _, _ = problem(5, 7)
    torch.testing.assert_close(gradient(compiled, x), gradient(function, x))
    torch.compiler.reset()


@pytest.mark.parametrize("arriving", [float("inf"), float("nan")])
@pytest.mark.parametrize("at_once", [False, True])
def test_nothing_arrives_at_an_ignored_row(at_once, arriving, monkeypatch):
    """Not even what overflowed."""
    if not at_once:
        in_halves(monkeypatch)
    x, t, _, _ = problem(4, 6)
    (cross_entropy(x, t) * arriving).backward()
    assert torch.equal(x.grad[0], torch.zeros(6))
    assert not x.grad[1:].isfinite().any()


def test_a_target_that_is_no_class_is_nan_in_its_row():
    x, t, _, _ = problem(4, 6, dtype=torch.float64)
    t[1] = 6
    with pytest.raises(IndexError, match=r"targets\[1\] = 6 is not in \[0, 6\)"):
        cross_entropy(x, t)
    with crossentropy.config(check=False):
        loss = cross_entropy(x, t, reduction="none")
        (g,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), x)
    for a in (loss, g[:, 0], h[:, 0]):
        assert a.isnan().tolist() == [False, True, False, False]


def test_gradients_on_targets_and_weights_are_pytorchs():
    x, _, q, weight = problem(4, 6, dtype=torch.float64)
    q.requires_grad_()
    weight.requires_grad_()
    theirs = torch.autograd.grad(F.cross_entropy(x, q, weight), (x, q, weight))
    for a, b in zip(torch.autograd.grad(cross_entropy(x, q, weight), (x, q, weight)), theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_forward_mode_and_transforms():
    x, t, _, _ = problem(4, 6, dtype=torch.float64)
    x = x.detach()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        assert forward_ad.unpack_dual(cross_entropy(dual, t)).tangent == pytest.approx(0, abs=1e-12)
        assert forward_ad.unpack_dual(log_softmax(dual, 1)).tangent.abs().max() < 1e-12
    of_rows = torch.func.vmap(torch.func.grad(lambda z, y: cross_entropy(z, y)))(x[1:], t[1:])
    torch.testing.assert_close(of_rows / 3, gradient(cross_entropy, x.requires_grad_(), t)[1:])


# ---------------------------------------------------------------------- in place


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", CALLS, ids=str)
def test_in_place(options, dtype):
    """The gradient is that of the other way, and lies where the logits were."""
    x, t, q, weight = problem(5, 6, 3, dtype=dtype)
    given = options | {"weight": weight} if "weight" in options else options
    for target in (t, q):
        for factor in (1, 0.5):  # a power of two, so that rounding before or after it is the same
            z = x * 1
            loss = cross_entropy(z, target, inplace=True, **given).sum() * factor
            (found,) = torch.autograd.grad(loss, z)
            assert found.data_ptr() == z.data_ptr()
            wanted = cross_entropy(x, target, **given).sum() * factor
            assert torch.equal(loss, wanted)
            (wanted,) = torch.autograd.grad(wanted, x)
            tiny = torch.finfo(dtype).smallest_normal
            torch.testing.assert_close(found, wanted, rtol=0, atol=tiny if factor != 1 else 0)


def test_in_place_is_told_to_autograd():
    x, t, _, _ = problem(5, 6)
    with pytest.raises(RuntimeError, match="leaf"):
        cross_entropy(x, t, inplace=True)
    z = torch.exp(x)  # whose backward needs its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        cross_entropy(z, t, inplace=True).backward()
    before = x.detach().clone()
    with torch.no_grad():
        cross_entropy(x, t, inplace=True)
    assert torch.equal(x, before)
    z = x * 1
    loss = cross_entropy(z, t, inplace=True)
    loss.backward(retain_graph=True)
    loss.backward()  # what arrived was 1: the gradient is still there
    torch.testing.assert_close(x.grad, 2 * gradient(cross_entropy, x, t))
    z = x * 1
    loss = cross_entropy(z, t, inplace=True) * 3
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    z = x * 1
    (g,) = torch.autograd.grad(cross_entropy(z, t, inplace=True), z, create_graph=True)
    with pytest.raises(RuntimeError, match="can't be differentiated again"):
        g.sum().backward()
    hidden, weight = torch.randn(5, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    t = torch.tensor([0, 5, 1, 2, 3])
    for reduction in ("mean", "none"):  # what is differentiated holds the gradient beside what may be
        loss = cross_entropy(hidden @ weight.T, t, inplace=True, reduction=reduction).sum()
        (g,) = torch.autograd.grad(loss, weight, create_graph=True)
        with pytest.raises(RuntimeError, match="can't be differentiated again"):
            torch.autograd.grad((g**2).sum(), (hidden, weight))


def test_in_place_gradients_of_float16_are_scaled_before_they_are_rounded():
    """1e-4 / 4096 is below float16's least number; with a loss scaler's factor it is not."""
    z = torch.zeros(4096, 10, dtype=torch.float16, requires_grad=True)
    z = z * 1
    z.retain_grad()
    (cross_entropy(z, torch.zeros(4096, dtype=torch.int64), inplace=True) * 2.0**14).backward()
    assert z.grad[0, 1].item() == pytest.approx(0.1 * 2**14 / 4096, rel=1e-3)


# ---------------------------------------------------------------------- tracing


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_in_one_graph(backend):
    loss = CrossEntropyLoss(torch.rand(7), label_smoothing=0.1, z_loss=0.01)

    def function(x, t):
        return loss(x * 2, t) + log_softmax(x, 1).logsumexp(1).sum()

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for rows in (5, 9):  # the second time with a size that is not known
        x, t, _, _ = problem(rows, 7)
        torch.testing.assert_close(compiled(x, t), function(x, t))
        torch.testing.assert_close(gradient(compiled, x, t), gradient(function, x, t))
    torch.compiler.reset()


def test_compiled_with_every_option():
    for options in CALLS:
        x, t, q, weight = problem(5, 7, 2, dtype=torch.bfloat16)
        given = options | {"weight": weight} if "weight" in options else options
        for target in (t, q):
            compiled = torch.compile(cross_entropy, fullgraph=True, backend="aot_eager")
            torch.compiler.reset()  # each is a compilation of its own, of which it allows few
            assert torch.equal(compiled(x, target, **given), cross_entropy(x, target, **given))
            assert torch.equal(gradient(compiled, x, target, **given), gradient(cross_entropy, x, target, **given))
    with pytest.raises(RuntimeError):
        torch.compile(cross_entropy, backend="aot_eager")(x, t[:3])
    torch.compiler.reset()


class Model(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.layer, self.loss = torch.nn.Linear(5, 7), CrossEntropyLoss(**options)

    def forward(self, x, t):
        return self.loss(self.layer(x), t)


def test_exported():
    model, rows = Model(label_smoothing=0.1), torch.export.Dim("rows", min=2)
    x, t = torch.randn(4, 5), torch.randint(7, (4,))
    exported = torch.export.export(model, (x, t), dynamic_shapes={"x": {0: rows}, "t": {0: rows}})
    assert "crossentropy.cross_entropy" in str(exported.graph)
    x, t = torch.randn(9, 5), torch.randint(7, (9,))
    assert torch.equal(exported.module()(x, t), model(x, t))


def test_operators_are_what_pytorch_wants_of_them():
    x, t, q, weight = problem(4, 6)
    spatial, spatial_t, _, _ = problem(2, 5, 3, 2, dtype=torch.bfloat16)
    smooth = PLAIN._replace(label_smoothing=0.1, z_loss=0.1)
    calls = [
        (x, t, NO_WEIGHTS, PLAIN),
        (x, t.clamp(min=2), Weights(weight), smooth._replace(ignore_index=2, reduction="none")),
        (x, q, Weights(weight), smooth._replace(reduction="sum")),
        (x, t, Weights(weight, weight, torch.rand(4)), smooth._replace(normalizer=3.0, softcap=5.0, focal=1.0)),
        (spatial, spatial_t, NO_WEIGHTS, PLAIN),
    ]
    for input, target, weights, options in calls:
        call = input, target, *weights, *options
        torch.library.opcheck(ops.cross_entropy, call)
        loss, *numbers = (a.detach() for a in ops.cross_entropy(*call))
        torch.library.opcheck(ops.cross_entropy_backward, (torch.randn_like(loss).requires_grad_(), *numbers, *call))
    torch.library.opcheck(ops.log_softmax, (x, 1))
    _, statistics = ops.log_softmax(x.detach(), 1)
    torch.library.opcheck(ops.log_softmax_backward, (torch.randn_like(x).requires_grad_(), x, statistics, 1))


def test_seen_by_tracers():
    """Operators, not the numbers of the day."""
    x, t, _, _ = problem(4, 6)
    assert "crossentropy.cross_entropy" in make_fx(lambda x, t: cross_entropy(x, t))(x.detach(), t).code
    with pytest.warns(torch.jit.TracerWarning):  # that the checks are of this shape
        traced = torch.jit.trace(lambda x: log_softmax(x, 1), x.detach())
    assert "crossentropy::log_softmax" in str(traced.graph)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("at_once", [False, True])
def test_the_backward_of_an_eager_forward_is_compiled(at_once, inplace, monkeypatch):
    if not at_once:
        in_halves(monkeypatch)
    x, t, _, _ = problem(4, 6)

    def step():
        torch.autograd.backward(cross_entropy(x * 1, t, inplace=inplace) * 2 + log_softmax(x, 1).exp().sum())
        found, x.grad = x.grad, None
        return found

    wanted = step()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        torch.testing.assert_close(step(), wanted)
    torch.compiler.reset()


def test_tensors_that_hold_others_are_left_to_pytorch():
    from torch.testing._internal.two_tensor import TwoTensor

    x, t, _, _ = problem(4, 6)
    both = TwoTensor(x.detach(), 2 * x.detach())
    found = cross_entropy(both, TwoTensor(t, t))
    assert torch.equal(found.a, F.cross_entropy(both.a, t))
    assert torch.equal(found.b, F.cross_entropy(both.b, t))
    assert torch.equal(log_softmax(both, 1).b, F.log_softmax(both.b, 1))


def test_what_pytorch_has_no_public_name_for():
    x, t, _, _ = problem(4, 6)
    assert not private.are_transforms_active()
    assert not private.is_forward_mode()
    assert not private.has_hooks_on_saved_tensors()
    with torch.autograd.graph.save_on_cpu():
        assert private.has_hooks_on_saved_tensors()
    assert not private.is_wrapper(x)
    assert not private.is_traced(x, t, None)
    assert not private.is_onnx_export()
    assert private.unwrapped(x) is x

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    assert torch.equal(torch.autograd.grad(private.applier(Twice)(x).sum(), x)[0], torch.full_like(x, 2))
    assert not private.has_hooks_on_saved_tensors()
    with torch.autograd.graph.saved_tensors_hooks(lambda a: a, lambda a: a):
        assert private.has_hooks_on_saved_tensors()
    assert not private.needs_operator(x)
    seen = []
    x.register_hook(lambda g: seen.append(private.keeps_graph()))
    loss = (x * 1).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert seen == [True, False]
    torch.func.vmap(lambda x: seen.append(private.are_transforms_active()) or x)(x)
    with forward_ad.dual_level():
        assert private.is_forward_mode()
    make_fx(lambda x: seen.append(private.is_traced(x)) or x)(x)
    torch.jit.trace(lambda x: seen.append(private.is_traced(x)) or x * 1, x, check_trace=False)
    assert seen[2:] == [True] * 3


# ---------------------------------------------------------------------- the rest of training


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(use_reentrant, at_once, monkeypatch):
    if not at_once:
        in_halves(monkeypatch)
    x, t, _, _ = problem(3, 20)
    loss = checkpoint(lambda z: cross_entropy(z * 2, t), x, use_reentrant=use_reentrant)
    found = torch.autograd.grad(loss, x)[0] if not use_reentrant else (loss.backward(), x.grad)[1]
    assert torch.equal(found, gradient(lambda z: cross_entropy(z * 2, t), x))


@pytest.mark.usefixtures("_in_halves")
def test_saved_tensors_go_through_hooks():
    """So that what is kept can be moved away: checkpointing, offloading."""
    x, t, _, _ = problem(3, 20)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda a: packed.append(a.shape) or a, lambda a: a):
        loss = cross_entropy(x, t)
    assert sorted(packed) == sorted([(3, 20), (3,), (3, 3), ()])  # logits, targets, statistics, divisor
    loss.backward()


def test_distributed_data_parallel(tmp_path):
    """Two processes, each with half of the rows: the gradient is that of all."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    code = f"""
    import os, sys, torch
    from crossentropy.torch import CrossEntropyLoss
    torch.set_num_threads(1)
    def worker(rank):
        torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/meet", rank=rank, world_size=2)
        torch.manual_seed(0)
        layer = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(5, 7))
        x, t = torch.randn(8, 5), torch.randint(7, (8,))
        CrossEntropyLoss()(layer(x[rank::2]), t[rank::2]).backward()
        found = layer.module.weight.grad.clone()
        layer.module.weight.grad = None
        torch.nn.functional.cross_entropy(layer.module(x), t).backward()
        torch.testing.assert_close(found, layer.module.weight.grad)
        torch.distributed.destroy_process_group()
    pid = os.fork()
    worker(0 if pid else 1)
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    run(code.replace("import os, sys, torch", "import os, torch, warnings\n    warnings.simplefilter('ignore')"))


def test_after_a_fork():
    """PyTorch's own functions hang there, once there were threads: all but ours come before."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    run("""
    import os, torch, warnings
    warnings.simplefilter("ignore")
    from crossentropy.torch import cross_entropy
    x, t = torch.zeros(64, 40000, requires_grad=True), torch.zeros(64, dtype=torch.int64)
    def step():
        return torch.autograd.grad(cross_entropy(x, t), x)[0][0, 1].item()
    wanted = step()
    pid = os.fork()
    if not pid:
        os._exit(0 if step() == wanted else 1)
    assert os.waitpid(pid, 0)[1] == 0
    """)


def test_the_module_is_a_module():
    loss = CrossEntropyLoss(torch.rand(6), ignore_index=3, reduction="sum", label_smoothing=0.1, z_loss=0.2)
    assert isinstance(loss, torch.nn.CrossEntropyLoss)
    x, t, _, _ = problem(4, 6)
    t[0] = 3
    wanted = loss(x, t)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(x, t), wanted)
    assert list(loss.state_dict()) == list(torch.nn.CrossEntropyLoss(torch.rand(6)).state_dict())
    assert torch.equal(
        loss.double()(x.double(), t), cross_entropy(x.double(), t, loss.weight, None, 3, None, "sum", 0.1, z_loss=0.2)
    )


def test_subclasses_are_asked():
    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return function.__module__, function.__name__

    x = torch.zeros(2, 3).as_subclass(Loud)
    assert cross_entropy(x, torch.zeros(2, dtype=torch.int64)) == ("crossentropy.torch", "cross_entropy")
    assert log_softmax(x, 1) == ("crossentropy.torch", "log_softmax")


# ---------------------------------------------------------------------- memory and threads


def test_no_more_threads_than_pytorch_takes():
    x = torch.zeros(2, bridge.SERIAL_BELOW)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        with bridge.on_torchs_threads(x):
            assert native.current_threads() == 1
        torch.set_num_threads(1000)
        with crossentropy.config(threads=1), bridge.on_torchs_threads(x):
            assert native.current_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not _memory.CAN_KEEP, reason="this system cannot take memory back lazily")
def test_memory_is_kept_when_its_last_tensor_is_gone(monkeypatch):
    monkeypatch.setattr(_memory, "_pool", _memory._Pool())
    x = torch.empty(cache.LARGE // 4, dtype=torch.float32)
    with crossentropy.config(keep_memory=True):
        a = cache.empty_like(x)
        address, view, seen = a.data_ptr(), a[3:], a.numpy()
        for holder in ("a", "view"):
            assert not _memory._pool.kept, holder
            if holder == "a":
                del a
            else:
                del view
        assert not _memory._pool.kept
        del seen
        assert len(_memory._pool.kept) == 1
        b, c = cache.empty_like(x), cache.empty_like(x)
        assert b.data_ptr() == address != c.data_ptr()
        assert b.shape == c.shape == x.shape
        with pytest.raises(RuntimeError, match="not resizable"):
            b.resize_(2 * len(x))
        del b, c
        assert _memory._pool.kept
        assert empty_cache is crossentropy.empty_cache
        empty_cache()
        assert not _memory._pool.kept
        transposed = cache.empty_like(torch.empty(8, len(x) // 8).T)
        assert transposed.stride() == (1, len(x) // 8)
        logits = torch.zeros(1024, cache.LARGE // 4096, requires_grad=True)
        cross_entropy(logits, torch.zeros(1024, dtype=torch.int64)).backward()  # a gradient of 4 MB
        before = _memory._pool.in_use
        logits.grad = None
        assert before - _memory._pool.in_use == cache.LARGE
        with crossentropy.config(keep_memory=False):
            assert cache.empty_like(x).resize_(2 * len(x)).numel() == 2 * len(x)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_memory_but_the_gradients():
    """At most 1 % more than the gradient, forward and backward: each thread keeps two rows of exponentials."""
    run("""
    import re, torch
    from pathlib import Path
    from crossentropy.torch import cross_entropy
    def memory(name):
        return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    def step(x, t):
        return torch.autograd.grad(cross_entropy(x, t), x)[0]
    rows, classes = 1024, 128256
    x, t = torch.randn(rows, classes, requires_grad=True), torch.randint(classes, (rows,))
    step(x[:1], t[:1])
    step(x[:8, :8000], t[:8] % 8000)  # with threads
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    g = step(x, t)
    extra, size = memory("VmHWM") - before, 4 * rows * classes
    assert size * 0.9 < extra <= size * 1.01, extra / size
    """)


def test_without_pytorch():
    out = run("""
    import sys
    sys.modules["torch"] = None
    try:
        import crossentropy.torch
    except ModuleNotFoundError as error:
        print(error)
    """)
    assert "pip install 'crossentropy[torch]'" in out


# ---------------------------------------------------------------------- on a device


def second(x, *rest, **options):
    """The derivative of the sum of the gradient's squares."""
    (g,) = torch.autograd.grad(cross_entropy(x, *rest, **options).sum(), x, create_graph=True)
    return torch.autograd.grad(g.square().sum(), x)[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", CALLS, ids=str)
def test_on_a_gpu(options, dtype):
    x, t, q, weight = problem(5, 300, dtype=dtype)
    given = options | {"weight": weight} if "weight" in options else options
    there = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in given.items()}
    for target in (t, q):
        with torch.cuda.stream(torch.cuda.Stream()):
            z = x.detach().cuda().requires_grad_()
            loss = cross_entropy(z, target.cuda(), **there)
            found = gradient(cross_entropy, z, target.cuda(), **there)
            twice = second(z, target.cuda(), **there)
            torch.cuda.current_stream().synchronize()
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
        torch.testing.assert_close(loss.cpu(), cross_entropy(x, target, **given), rtol=tolerance, atol=0)
        torch.testing.assert_close(found.cpu(), gradient(cross_entropy, x, target, **given), rtol=tolerance, atol=1e-6)
        torch.testing.assert_close(twice.cpu(), second(x, target, **given), rtol=10 * tolerance, atol=1e-6)
