"""crossentropy.torch's losses of hidden states: values, differentiation, dtypes, tracing, training, misuse."""

import copy
import itertools
import pickle
import sys

import numpy as np
import pytest
from subprocesses import run

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

import torch.nn.functional as F  # noqa: E402
from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from crossentropy import _memory  # noqa: E402
from crossentropy.torch import (  # noqa: E402
    LinearCrossEntropyLoss,
    cache,
    linear_calls,
    linear_cross_entropy,
    linear_eager,
    linear_log_probs,
    linear_ops,
    products,
)
from crossentropy.torch.bridge import NO_WEIGHTS, PLAIN, Weights  # noqa: E402
from crossentropy.torch.linear_bridge import Layer  # noqa: E402

# PyTorch's own: when its transforms or its compiler are loaded, and in compiled backwards.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:`torch.jit:FutureWarning",  # the same from 2.15 on
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)

N, H, V = 13, 5, 7
REDUCTIONS = ["mean", "sum", "none"]


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def problem(*rows, dtype=torch.float64, classes=V):
    """(input, linear_weight, linear_bias) that require grad, classes one of which is ignored, probabilities."""
    rows = rows or (N,)
    parameters = [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in ((*rows, H), (classes, H), (classes,))]
    t = torch.randint(classes, rows)
    t.view(-1)[2] = -100
    q = torch.softmax(torch.randn((*rows, classes), dtype=torch.float64), -1).to(dtype)
    return *[p.requires_grad_() for p in parameters], t, q


def composed(x, w, t, linear_bias=None, **options):
    """What PyTorch makes of it, for any number of axes of rows."""
    z = F.linear(x, w, linear_bias)
    rows, probabilities = z.shape[:-1], t.shape == z.shape
    loss = F.cross_entropy(z.reshape(-1, len(w)), t.reshape(-1, len(w)) if probabilities else t.reshape(-1), **options)
    return loss.reshape(rows) if options.get("reduction") == "none" else loss


def gradients(loss, parameters, arriving=None, **options):
    arriving = torch.rand(loss.shape, dtype=torch.float64).to(loss.dtype) + 0.5 if arriving is None else arriving
    return torch.autograd.grad(loss, parameters, arriving, **options)


def same(one, other, **limits):
    """Values, and the gradients of the same that arrives."""
    (a, parameters), (b, others) = one, other
    torch.testing.assert_close(a, b, **limits)
    g = torch.rand(a.shape, dtype=torch.float64).to(a.dtype) + 0.5
    for x, y in zip(gradients(a, parameters, g), gradients(b, others, g), strict=True):
        torch.testing.assert_close(x, y, **limits)


@pytest.fixture
def counted(monkeypatch):
    """The products of each kind that have been made of tensors of float32 and float64."""
    counts = dict.fromkeys(("logits", "hidden", "weight"), 0)
    originals = {name: getattr(products, name) for name in counts}
    for name in counts:

        def product(*args, name=name, real=originals[name]):
            counts[name] += 1
            return real(*args)

        monkeypatch.setattr(products, name, product)
    return counts


# ---------------------------------------------------------------------- values and gradients


OPTIONS = list(itertools.product(REDUCTIONS, [False, True], [False, True], [False, True], [0.0, 0.1], [0.0, 0.1]))


@pytest.mark.parametrize("rows", [None, 4])
def test_values_and_gradients_are_those_of_all_logits(rows):
    x, w, b, t, q = problem()
    for reduction, probabilities, biased, weighted, label_smoothing, z_loss in OPTIONS:
        target = q if probabilities else t
        weight = torch.rand(V, dtype=torch.float64) if weighted else None
        options = {"weight": weight, "reduction": reduction, "label_smoothing": label_smoothing}
        bias = b if biased else None
        found = linear_cross_entropy(x, w, target, linear_bias=bias, rows=rows, z_loss=z_loss, **options)
        wanted = composed(x, w, target, linear_bias=bias, **options)
        if z_loss:
            squares = torch.where(t != -100, F.linear(x, w, bias).logsumexp(1) ** 2, 0)
            squares = F.linear(x, w, bias).logsumexp(1) ** 2 if probabilities else squares
            count = N if probabilities else (t != -100).sum() if weight is None else weight[t[t != -100]].sum()
            wanted = wanted + z_loss * {"none": squares, "sum": squares.sum(), "mean": squares.sum() / count}[reduction]
        parameters = [x, w, b] if biased else [x, w]
        same((found, parameters), (wanted, parameters))


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_any_number_of_axes(shape, reduction):
    x, w, b, t, q = problem(*shape) if len(shape) > 1 else problem(3)
    if len(shape) < 2:
        x, t, q = (a.detach()[: len(shape)] if shape else a.detach()[0] for a in (x, t, q))
        x.requires_grad_()
    for target in (t, q):
        found = linear_cross_entropy(x, w, target, linear_bias=b, reduction=reduction)
        wanted = composed(x, w, target, linear_bias=b, reduction=reduction)
        same((found, [x, w, b]), (wanted, [x, w, b]))
    if not shape:
        assert linear_cross_entropy(x, w, t[None], reduction=reduction).shape == ()


def test_any_layout():
    x, w, b, t, _ = problem(3, 4)
    for parameters in (
        [torch.stack([p.detach()] * 2, -1)[..., 0].requires_grad_() for p in (x, w, b)],
        [x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_(), w.detach().t().contiguous().t(), b],
        [torch._neg_view(-p.detach()).requires_grad_() for p in (x, w, b)],
    ):
        parameters = [p.requires_grad_() for p in parameters]
        found = linear_cross_entropy(*parameters[:2], t, linear_bias=parameters[2], rows=5)
        same((found, parameters), (composed(x, w, t, linear_bias=b), [x, w, b]))
    expanded = x.detach()[:1, :1].expand(3, 4, H).requires_grad_()
    same((linear_cross_entropy(expanded, w, t), [expanded, w]), (composed(expanded, w, t), [expanded, w]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16])
def test_targets_of_any_integer_dtype(dtype):
    x, w, _, t, _ = problem()
    t = t.clamp(min=0)
    assert torch.equal(linear_cross_entropy(x, w, t.to(dtype)), linear_cross_entropy(x, w, t))
    assert torch.equal(linear_log_probs(x, w, t.to(dtype)).log_prob, linear_log_probs(x, w, t).log_prob)


def test_class_weights_below_0_are_pytorchs():
    x, w, _, t, _ = problem()
    weight = torch.randn(V, dtype=torch.float64)
    for reduction in REDUCTIONS:
        options = {"weight": weight, "reduction": reduction}
        same((linear_cross_entropy(x, w, t, **options), [x, w]), (composed(x, w, t, **options), [x, w]))
    with pytest.raises(ValueError, match="class_weight must be finite"):
        linear_cross_entropy(x, w, t, weight=weight.abs().index_fill(0, torch.tensor([1]), float("nan")))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_shift_is_slicing(reduction):
    x, w, b, t, q = problem(3, 4)
    for target in (t, t.clamp(min=0).to(torch.uint8), q):
        found = linear_cross_entropy(x, w, target, linear_bias=b, reduction=reduction, shift=True)
        sliced = target[:, 1:].long() if target is not q else q[:, 1:]
        wanted = composed(x[:, :-1], w, sliced, linear_bias=b, reduction=reduction)
        same((found, [x, w, b]), (wanted, [x, w, b]))
    found = linear_cross_entropy(x[0], w, t[0].clamp(min=0), ignore_index=3, shift=True)
    torch.testing.assert_close(found, composed(x[0, :-1], w, t[0, 1:].clamp(min=0), ignore_index=3))
    assert linear_cross_entropy(x[:, :0], w, t[:, :0], reduction="sum", shift=True) == 0
    assert linear_cross_entropy(x[:, :0], w, q[:, :0], reduction="sum", shift=True) == 0


def test_shift_leaves_the_hidden_states_where_they_are():
    x, w, _, t, _ = problem(3, 4)
    layer, _, _, lacks_last = linear_calls.shifted(Layer(x, w, None), t, NO_WEIGHTS, None)
    assert layer.input is x
    assert lacks_last


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("way", ["at once", "in halves", "operator"])
def test_gradcheck_and_gradgradcheck(way, reduction, monkeypatch):
    x, w, b, t, q = problem(4)
    if way == "in halves":
        monkeypatch.setattr(linear_eager.private, "has_hooks_on_saved_tensors", lambda: True)
    if way == "operator":
        monkeypatch.setattr(linear_calls, "is_traced", lambda *call: True)
    for target in (t, q):

        def loss(x, w, b, target=target):
            return linear_cross_entropy(
                x, w, target, linear_bias=b, reduction=reduction, label_smoothing=0.1, z_loss=0.1
            )

        assert gradcheck(loss, (x, w, b))
        assert gradgradcheck(loss, (x, w, b))

    def of_classes(x, w, b):
        return linear_log_probs(x, w, t, linear_bias=b, ignore_index=-100)

    assert gradcheck(of_classes, (x, w, b))
    assert gradgradcheck(of_classes, (x, w, b))


def test_confident_rows_keep_their_gradient():
    """A loss of 1e-22, of which PyTorch's is 0, and so is its gradient."""
    x, w = torch.tensor([[50.0]], requires_grad=True), torch.tensor([[1.0], [0.0]], requires_grad=True)
    loss = linear_cross_entropy(x, w, torch.tensor([0]))
    assert loss.item() == pytest.approx(np.exp(-50), rel=1e-5)
    on_x, on_w = torch.autograd.grad(loss, (x, w))
    assert on_x.item() == pytest.approx(-np.exp(-50), rel=1e-5)
    assert on_w.flatten().tolist() == pytest.approx([-50 * np.exp(-50), 50 * np.exp(-50)], rel=1e-5)


# ---------------------------------------------------------------------- which gradients, and what arrives


def test_a_tied_embedding_gets_both_gradients():
    tokens, t = torch.randint(V, (N,)), torch.randint(V, (N,))
    table = torch.randn(V, H, dtype=torch.float64, requires_grad=True)
    for reduction, create_graph in itertools.product(["mean", "none"], [False, True]):
        found, wanted = (
            torch.autograd.grad(f(F.embedding(tokens, table).tanh(), table, t, reduction=reduction).sum(), table, **how)
            for f, how in ((linear_cross_entropy, {"create_graph": create_graph}), (composed, {}))
        )
        torch.testing.assert_close(found, wanted)


def test_products_are_those_of_the_gradients_that_are_needed(counted):
    x, w, b, t, _ = problem()

    def products_of(*parameters, reduction="mean"):
        counted.update(dict.fromkeys(counted, 0))
        call = [p if any(p is q for q in parameters) else p.detach() for p in (x, w, b)]
        loss = linear_cross_entropy(*call[:2], t, linear_bias=call[2], reduction=reduction).sum()
        if parameters:
            torch.autograd.grad(loss, parameters)
        return tuple(counted.values())

    assert products_of() == (1, 0, 0)
    assert products_of(x, w, b) == (1, 1, 1)
    assert products_of(x) == (1, 1, 0)  # a frozen head
    assert products_of(w) == (1, 0, 1)  # a frozen backbone
    assert products_of(b) == (1, 0, 0)
    assert products_of(x, w, reduction="none") == (2, 1, 1)
    with torch.no_grad():
        assert products_of(reduction="sum") == (1, 0, 0)
        counted.update(dict.fromkeys(counted, 0))
        assert not linear_cross_entropy(x, w, t).requires_grad
    assert tuple(counted.values()) == (1, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_graph_that_is_kept_gives_the_same_again(dtype):
    x, w, b, t, _ = problem(dtype=dtype)
    for reduction, factor in itertools.product(["mean", "none"], [1, 3]):
        loss = linear_cross_entropy(x, w, t, linear_bias=b, reduction=reduction)
        g = torch.full_like(loss, factor)
        first = gradients(loss, (x, w, b), g, retain_graph=True)
        copies = [grad.clone() for grad in first]
        for grad in first:
            grad.zero_()  # a gradient is the caller's own
        for again in (gradients(loss, (x, w, b), g, retain_graph=True), gradients(loss, (x, w, b), g)):
            assert all(map(torch.equal, again, copies))
        with pytest.raises(RuntimeError, match="second time"):
            gradients(loss, (x, w, b), g)


@pytest.mark.parametrize("arriving", [float("inf"), float("nan")])
def test_nothing_arrives_at_an_ignored_row(arriving):
    x, w, b, t, _ = problem()
    on_x, _, _ = gradients(linear_cross_entropy(x, w, t, linear_bias=b), (x, w, b), torch.tensor(arriving).double())
    assert torch.equal((on_x == 0).all(1), t == -100)
    nothing = linear_cross_entropy(x, w, torch.full_like(t, -100), linear_bias=b)
    assert all((grad == 0).all() for grad in gradients(nothing, (x, w, b), torch.tensor(arriving).double()))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_ignored_row_may_hold_nan(reduction):
    x, w, b, t, _ = problem()
    with torch.no_grad():
        wanted = linear_cross_entropy(x, w, t, linear_bias=b, reduction=reduction)
        x[t == -100] = float("nan")
    loss = linear_cross_entropy(x, w, t, linear_bias=b, reduction=reduction)
    assert torch.equal(loss, wanted)
    grads = gradients(loss, (x, w, b))
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert (grads[0][t == -100] == 0).all()
    found = linear_log_probs(x, w, t, linear_bias=b, ignore_index=-100)
    assert found.log_prob[t == -100] == found.entropy[t == -100] == 0
    assert all(torch.isfinite(grad).all() for grad in gradients(found.log_prob + found.entropy, (x, w, b)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_in_which_no_row_counts_stays_connected(dtype, reduction):
    x, w, b, t, _ = problem(dtype=dtype)
    for hidden, target in ((x, torch.full_like(t, -100)), (x[:0], t[:0]), (x.detach()[:0], t[:0])):
        loss = linear_cross_entropy(hidden, w, target, linear_bias=b, reduction=reduction)
        assert loss.requires_grad
        assert loss.shape == target.shape if reduction == "none" else torch.isnan(loss) == (reduction == "mean")
        grads = torch.autograd.grad(loss.sum(), (w, b))
        assert [g.dtype for g in grads] == [dtype, dtype]
        assert all((g == 0).all() for g in grads)


def test_a_change_of_the_parameters_after_the_forward():
    """As by an optimizer that steps in the backward: gradients that are there are right, others say so."""
    x, w, _, t, _ = problem()
    wanted = gradients(composed(x, w, t), (x, w), torch.tensor(2.0).double())
    loss, by_row = linear_cross_entropy(x, w, t), linear_cross_entropy(x, w, t, reduction="none")
    with torch.no_grad():
        w.mul_(2)
    for a, b in zip(gradients(loss, (x, w), torch.tensor(2.0).double()), wanted, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        by_row.sum().backward()


# ---------------------------------------------------------------------- dtypes


def far(found, exact):
    """The largest distance of a row from what is right, in units of the largest row's norm."""
    found, exact = (a.double().reshape(-1, a.shape[-1]) for a in (found, exact))
    return ((found - exact).norm(dim=1).max() / exact.norm(dim=1).max()).item()


LIMITS = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}


@pytest.mark.parametrize("factor", [1.0, 0.3])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_losses_are_float32_and_gradients_of_the_parameters_dtype(dtype, reduction, factor):
    x, w, b, t, _ = problem(50, dtype=dtype)
    wide = [p.detach().double().requires_grad_() for p in (x, w, b)]
    loss = linear_cross_entropy(x, w, t, linear_bias=b, reduction=reduction, rows=16)
    exact = composed(*wide[:2], t, linear_bias=wide[2], reduction=reduction)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=2e-6)
    grads = gradients(loss, (x, w, b), torch.full_like(loss, factor))
    assert [g.dtype for g in grads] == [dtype] * 3
    for found, right in zip(grads, gradients(exact, wide, torch.full_like(exact, factor)), strict=True):
        assert far(found, right) < LIMITS[dtype]


def test_float16_gradients_are_scaled_before_they_are_rounded():
    """By the factor of a loss scaler: what is below float16's range without it is not with it."""
    x, w, _, t, _ = problem(dtype=torch.float16)
    wide = [p.detach().double().requires_grad_() for p in (x, w)]
    small, factor = 1e-8, 2.0**24
    found = gradients(linear_cross_entropy(x, w, t) * small, (x, w), torch.tensor(factor))
    exact = gradients(composed(*wide, t) * small, wide, torch.tensor(factor).double())
    for grad, right in zip(found, exact, strict=True):
        assert far(grad, right) < LIMITS[torch.float16]
    x, w = (p.detach().mul(2.0**-12).requires_grad_() for p in (x, w))  # whose own gradients are as small
    wide = [p.detach().double().requires_grad_() for p in (x, w)]
    found = gradients(linear_cross_entropy(x, w, t), (x, w), torch.tensor(2.0**12))
    exact = gradients(composed(*wide, t), wide, torch.tensor(2.0**12).double())
    for grad, right in zip(found, exact, strict=True):
        assert far(grad, right) < LIMITS[torch.float16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parameters", ["both float32", "hidden of 16 bits"])
def test_autocast_is_that_of_a_linear_layer(parameters, dtype):
    x, w, b, t, _ = problem(50, dtype=torch.float32)
    if parameters != "both float32":
        x = x.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype):
        loss = linear_cross_entropy(x, w, t, linear_bias=b)
        found = linear_log_probs(x, w, t.clamp(min=0), linear_bias=b)
        with pytest.raises(RuntimeError, match="must have the dtype of input"):
            linear_cross_entropy(x, w.double(), t)
    rounded = [p.detach().to(dtype).double().requires_grad_() for p in (x, w)]
    wide = b.detach().double().requires_grad_()
    exact = composed(*rounded, t, linear_bias=wide)
    assert loss.dtype is found.log_prob.dtype is found.entropy.dtype is torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=2e-6, atol=2e-6)
    grads = torch.autograd.grad(loss, (x, w, b))
    for grad, p, right in zip(grads, (x, w, b), torch.autograd.grad(exact, (*rounded, wide)), strict=True):
        assert grad.dtype is p.dtype
        # One of float32 is not rounded to 16 bits itself; but for bfloat16 a product may take that on the logits so.
        assert far(grad, right) < LIMITS[p.dtype if dtype is torch.float16 else dtype]


def test_autocast_leaves_float64_alone():
    x, w, _, t, _ = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, w, t)
    assert loss.dtype is torch.float64
    torch.testing.assert_close(loss, composed(x, w, t))


# ---------------------------------------------------------------------- log-probabilities


def test_log_probs_and_entropies():
    x, w, b, t, _ = problem(3, 4)
    t = t.clamp(min=0)
    log_p = F.log_softmax(F.linear(x, w, b), -1)
    wanted = log_p.gather(-1, t[..., None])[..., 0], -(log_p.exp() * log_p).sum(-1)
    found = linear_log_probs(x, w, t, linear_bias=b, rows=5)
    for a, c in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, c)
    g = torch.randn(3, 4, dtype=torch.float64)
    for pick in (lambda two: two[0] * g, lambda two: two[1] * g, lambda two: two[0] * g - 0.1 * two[1]):
        ours = torch.autograd.grad(pick(linear_log_probs(x, w, t, linear_bias=b, rows=5)).sum(), (x, w, b))
        for a, c in zip(ours, torch.autograd.grad(pick(wanted).sum(), (x, w, b), retain_graph=True), strict=True):
            torch.testing.assert_close(a, c)
    with torch.no_grad():
        alone = linear_log_probs(x, w, t, linear_bias=b, rows=5)
    assert all(map(torch.equal, alone, found))


def test_log_probs_of_nothing():
    x, w, b, t, _ = problem()
    found = linear_log_probs(x[:0], w, t[:0], linear_bias=b)
    assert found.log_prob.shape == found.entropy.shape == (0,)
    assert all((g == 0).all() for g in torch.autograd.grad(found.entropy.sum(), (w, b)))
    minus_infinity = torch.zeros(V, dtype=torch.float64)
    minus_infinity[1] = -torch.inf
    one = linear_log_probs(x[:1], w, torch.zeros(1, dtype=torch.int64), linear_bias=minus_infinity)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(one.entropy.sum(), (x, w)))


# ---------------------------------------------------------------------- tracing


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_in_one_graph(backend):
    def function(x, w, b, t, reduction):
        found = linear_log_probs(x, w, t, linear_bias=b, ignore_index=-100)
        loss = linear_cross_entropy(x * 2, w, t, linear_bias=b, reduction=reduction, z_loss=0.1)
        return 3 * loss.sum() + (found.log_prob + found.entropy).sum()

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for reduction, rows in itertools.product(["mean", "none"], [5, 9]):  # the second a size that is not known
        x, w, b, t, _ = problem(rows, dtype=torch.float32)
        values = [f(x, w, b, t, reduction) for f in (compiled, function)]
        torch.testing.assert_close(*values)
        for found in zip(*[torch.autograd.grad(value, (x, w, b)) for value in values], strict=True):
            torch.testing.assert_close(*found)
    torch.compiler.reset()


def test_a_module_compiled_with_everything():
    torch.compiler.reset()
    weight = torch.rand(V)
    options = [{"reduction": "sum"}, {"label_smoothing": 0.1, "weight": weight}, {"shift": True, "rows": 2}]
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options.append({"options": torch.nn.LinearCrossEntropyOptions(batch_chunk_size=3)})
    for each in options:
        model = LinearCrossEntropyLoss(H, V, bias=True, **each)

        def step(x, t, model=model):
            with torch.autocast("cpu", torch.bfloat16):
                return model(x, t)

        compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
        for rows in (4, 6):
            x, t = torch.randn(2, rows, H), torch.randint(V, (2, rows))
            values = [f(x, t) for f in (compiled, step)]
            torch.testing.assert_close(*values)
            for found in zip(*[torch.autograd.grad(v, model.parameters()) for v in values], strict=True):
                torch.testing.assert_close(*found)
        torch.compiler.reset()


def test_exported():
    model, rows = LinearCrossEntropyLoss(H, V, z_loss=0.1), torch.export.Dim("rows", min=2)
    x, t = torch.randn(4, H), torch.randint(V, (4,))
    exported = torch.export.export(model, (x, t), dynamic_shapes={"input": {0: rows}, "target": {0: rows}})
    assert "crossentropy.linear_cross_entropy" in str(exported.graph)
    x, t = torch.randn(9, H), torch.randint(V, (9,))
    torch.testing.assert_close(exported.module()(x, t), model(x, t))
    with pytest.warns(torch.jit.TracerWarning):  # that the checks are of this shape
        traced = torch.jit.trace(model, (x, t))
    assert "crossentropy::linear_cross_entropy" in str(traced.graph)
    torch.testing.assert_close(traced(x, t), model(x, t))


def test_operators_are_what_pytorch_wants_of_them():
    x, w, b, t, q = problem(4, dtype=torch.float32)
    weight, smooth = torch.rand(V), PLAIN._replace(label_smoothing=0.1, z_loss=0.1)
    all_of_them, summed = Weights(weight, weight, torch.rand(4)), smooth._replace(reduction="sum")
    ignored = smooth._replace(ignore_index=2, reduction="none")
    calls = [
        (x, w, b, t, *NO_WEIGHTS, *PLAIN, None, torch.float32, True, True, True),
        (x, w, None, q, *all_of_them, *summed, 2, torch.float32, True, True, False),
        (x, w, None, t, *NO_WEIGHTS, *PLAIN, None, torch.bfloat16, True, True, False),
        (x, w, b, t.clamp(min=2), *Weights(weight), *ignored, None, torch.float32, False, False, False),
    ]
    for call in calls:
        torch.library.opcheck(linear_ops.cross_entropy, call)
        loss = linear_ops.cross_entropy(*call)[0].detach()
        given = [a.detach() if isinstance(a, torch.Tensor) else a for a in call[:-3]]
        torch.library.opcheck(linear_ops.cross_entropy_backward, (torch.rand_like(loss), *given, True, True, False))
    call = x, w, b, t, -100, None, torch.float32
    torch.library.opcheck(linear_ops.log_probs, call)
    given = torch.rand(4), torch.rand(4), *(p.detach() for p in (x, w, b)), *call[3:]
    torch.library.opcheck(linear_ops.log_probs_backward, (*given, True, False, True))


def test_several_gradients_at_once_and_hessians():
    x, w, b, t, _ = problem()
    for reduction in ("mean", "none"):
        loss = linear_cross_entropy(x, w, t, linear_bias=b, reduction=reduction)
        g = torch.rand(3, *loss.shape, dtype=torch.float64)
        found = torch.autograd.grad(loss, (x, w, b), g, is_grads_batched=True, retain_graph=True)
        for k in range(3):
            for a, c in zip(found, gradients(loss, (x, w, b), g[k], retain_graph=True), strict=True):
                torch.testing.assert_close(a[k], c)
    hessian = torch.autograd.functional.hessian(lambda w: linear_cross_entropy(x, w, t), w.detach(), vectorize=True)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(lambda w: composed(x, w, t), w.detach()))


def test_forward_mode_and_transforms_are_pytorchs():
    x, w, _, t, q = problem()
    found = torch.func.grad(lambda w: linear_cross_entropy(x.detach(), w, t))(w.detach())
    torch.testing.assert_close(found, torch.autograd.grad(composed(x, w, t), w)[0])
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), torch.ones_like(x))
        call = dual, w.detach(), t.clamp(min=0)
        for found, wanted in (
            (linear_cross_entropy(*call), composed(*call)),
            (linear_log_probs(*call).log_prob, -composed(*call, reduction="none")),
        ):
            torch.testing.assert_close(*[forward_ad.unpack_dual(value).tangent for value in (found, wanted)])
    q.requires_grad_()
    torch.testing.assert_close(
        gradients(linear_cross_entropy(x, w, q), (x, q), torch.tensor(1.0).double()),
        gradients(composed(x, w, q), (x, q), torch.tensor(1.0).double()),
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_backward_of_an_eager_forward_is_compiled(reduction):
    x, w, b, t, _ = problem(dtype=torch.float32)

    def step():
        loss = linear_cross_entropy(x, w, t, linear_bias=b, reduction=reduction).sum()
        torch.autograd.backward(2 * loss + linear_log_probs(x, w, t.clamp(min=0)).entropy.sum())
        found = [p.grad for p in (x, w, b)]
        x.grad = w.grad = b.grad = None
        return found

    wanted = step()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
        for found in zip(step(), wanted, strict=True):
            torch.testing.assert_close(*found)
    torch.compiler.reset()


def test_shapes_alone():
    model = LinearCrossEntropyLoss(H, V, device="meta")
    loss = model(torch.empty(4, H, device="meta"), torch.empty(4, dtype=torch.int64, device="meta"))
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")


# ---------------------------------------------------------------------- the rest of training


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_activation_checkpointing(reduction, use_reentrant):
    x, w, b, t, _ = problem()

    def loss(x):
        return linear_cross_entropy(x * 2, w, t, linear_bias=b, reduction=reduction).sum()

    wanted = torch.autograd.grad(loss(x), (x, w, b))
    checkpoint(loss, x, use_reentrant=use_reentrant).backward()
    for p, g in zip((x, w, b), wanted, strict=True):
        torch.testing.assert_close(p.grad, g)


def test_under_hooks_on_saved_tensors_no_gradient_is_kept():
    x, w, b, t, _ = problem()
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda a: packed.append(a.shape) or a, lambda a: a):
        loss = linear_cross_entropy(x, w, t, linear_bias=b)
    assert packed == [x.shape, w.shape, b.shape, t.shape]
    same((loss, [x, w, b]), (composed(x, w, t, b), [x, w, b]))


DISTRIBUTED = """
    import os, torch, warnings
    warnings.simplefilter("ignore")
    from crossentropy.torch import LinearCrossEntropyLoss
    torch.set_num_threads(1)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.body = torch.nn.Embedding(11, 6), torch.nn.Linear(6, 6)
            self.loss = LinearCrossEntropyLoss(6, 11, bias=True, reduction="sum")
            self.loss.linear.weight = self.embedding.weight

        def forward(self, tokens, target):
            return self.loss(self.body(self.embedding(tokens)), target)

    def worker(rank):
        torch.distributed.init_process_group("gloo", init_method="file://{meet}", rank=rank, world_size=2)
        torch.manual_seed(0)
        model, plain = Model(), Model()
        plain.load_state_dict(model.state_dict())
        tokens, target = torch.randint(11, (8,)), torch.randint(11, (8,))
        mine = {mine}
        {wrap}
        wrapped(tokens[mine], target[mine]).backward()
        z = plain.loss.linear(plain.body(plain.embedding(tokens)))
        (torch.nn.functional.cross_entropy(z, target, reduction="sum") / 2).backward()
        for p, q in zip(model.parameters(), plain.parameters()):
            torch.testing.assert_close(p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad, q.grad)
        torch.distributed.destroy_process_group()

    pid = os.fork()
    worker(0 if pid else 1)
    if not pid:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""
WRAPS = {
    "ddp": "wrapped = torch.nn.parallel.DistributedDataParallel(model)",
    "fsdp": "from torch.distributed.fsdp import fully_shard; "
    "wrapped = fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh('cpu', (2,)))",
}
SHARES = {"halves": "slice(rank, None, 2)", "one has nothing": "slice(0, 8 * (1 - rank))"}


@pytest.mark.parametrize("mine", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_distributed_training_of_a_tied_embedding(wrap, mine, tmp_path):
    """Two processes: the gradients are those of all rows, also where one of them has none."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available() or sys.platform == "win32":
        pytest.skip("needs gloo and fork")
    run(DISTRIBUTED.format(meet=tmp_path / "meet", mine=mine, wrap=wrap))


def test_the_module_is_a_module():
    options = {"bias": True, "reduction": "sum", "ignore_index": 3, "label_smoothing": 0.1, "z_loss": 0.2, "rows": 4}
    loss = LinearCrossEntropyLoss(H, V, weight=torch.rand(V), **options)
    x, t = torch.randn(N, H), torch.randint(V, (N,))
    wanted = loss(x, t)
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(other(x, t), wanted)
    assert list(loss.state_dict()) == ["weight", "linear.weight", "linear.bias"]
    assert "z_loss=0.2" in repr(loss)
    theirs = getattr(torch.nn, "LinearCrossEntropyLoss", None)
    assert theirs is None or isinstance(loss, theirs)
    found = loss.double()(x.double(), t)
    named = {name: value for name, value in options.items() if name != "bias"}
    layer = loss.linear
    assert torch.equal(
        found, linear_cross_entropy(x.double(), layer.weight, t, linear_bias=layer.bias, weight=loss.weight, **named)
    )


def test_several_targets_for_each_row():
    """A weight (C, d1, ..., H), as PyTorch's has it."""
    x, _, _, _, _ = problem(dtype=torch.float32)
    loss = LinearCrossEntropyLoss(H, V, out_features=(3, 2), bias=True, label_smoothing=0.1)
    parameters = [x, *loss.parameters()]
    z = F.linear(*parameters).reshape(N, V, 3, 2)
    t = torch.randint(V, (N, 3, 2))
    for target in (t, torch.softmax(torch.randn(N, V, 3, 2), 1)):
        wanted = F.cross_entropy(z, target, label_smoothing=0.1)
        torch.testing.assert_close(loss(x, target), wanted)
        found = gradients(loss(x, target), parameters, torch.tensor(1.0))
        right = gradients(wanted, parameters, torch.tensor(1.0), retain_graph=True)
        for pair in zip(found, right, strict=True):
            torch.testing.assert_close(*pair)


def test_pytorchs_options_are_taken():
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        pytest.skip("this PyTorch has none")
    x, w, _, t, _ = problem()
    make = torch.nn.LinearCrossEntropyOptions
    for options in (make(), make(batch_chunk_size=3), make(chunking_method="aspect_ratio:2", acc_policy="compact")):
        torch.testing.assert_close(linear_cross_entropy(x, w, t, options=options), composed(x, w, t))
    assert (
        linear_calls.rows_of(make(batch_chunk_size=3), None) == linear_calls.rows_of(make(batch_chunk_size=3), 3) == 3
    )
    with pytest.raises(
        ValueError, match="rows must be the batch_chunk_size of options, 3, where both are given, got 4"
    ):
        linear_cross_entropy(x, w, t, options=make(batch_chunk_size=3), rows=4)


def test_subclasses_are_asked():
    class Loud(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return function.__module__, function.__name__

    x, t = torch.zeros(2, 3).as_subclass(Loud), torch.zeros(2, dtype=torch.int64)
    for function in (linear_cross_entropy, linear_log_probs):
        assert function(x, torch.zeros(4, 3), t) == ("crossentropy.torch.linear", function.__name__)


X, W, T = torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64)
MISUSE = [
    ((X[0, 0], W, T), {}, RuntimeError, r"input must have shape \(..., H\), got a scalar"),
    ((X, W[0], T), {}, RuntimeError, r"linear_weight must have shape \(V, H\) .* 3, got \(3,\)"),
    ((X, W[:, :2], T), {}, RuntimeError, r"linear_weight must have shape \(V, H\) .* 3, got \(5, 2\)"),
    (
        (X, W.double(), T),
        {},
        RuntimeError,
        "linear_weight must have the dtype of input, torch.float32, got torch.float64",
    ),
    ((X, W, T), {"linear_bias": W[0]}, RuntimeError, r"linear_bias must have shape \(5,\), got \(3,\)"),
    ((X, W, T), {"linear_bias": T[:1].expand(5)}, RuntimeError, "linear_bias must be floating, got torch.int64"),
    ((X, W, T[:3]), {}, ValueError, r"target must have shape \(4,\), or \(4, 5\) for probabilities, got \(3,\)"),
    ((X, W, T[:, None]), {}, RuntimeError, r"target must have shape \(4,\), or \(4, 5\) .*, got \(4, 1\)"),
    ((X, W, T.float()), {}, RuntimeError, "target of classes must have an integer dtype, got torch.float32"),
    ((X, W, T[:, None].expand(4, 5)), {}, RuntimeError, "probabilities and must be floating, got torch.int64"),
    ((X, W, X @ W.T), {"ignore_index": 0}, RuntimeError, "ignore_index is for targets that are classes, got 0"),
    ((X, W, T), {"ignore_index": 0.5}, RuntimeError, "ignore_index must be an integer of 64 bits, got 0.5"),
    ((X, W, T), {"label_smoothing": 1.5}, RuntimeError, r"label_smoothing must be in \[0, 1\], got 1.5"),
    ((X, W, T), {"weight": X[0]}, RuntimeError, r"weight must be real of shape \(5,\), got torch.float32 \(3,\)"),
    ((X, W, T), {"reduction": "average"}, ValueError, "average is not a valid value for reduction"),
    ((X, W, T), {"z_loss": -1.0}, ValueError, "z_loss must be finite and not negative, got -1.0"),
    ((X, W, T), {"zloss": 1.0}, TypeError, "unexpected keyword argument 'zloss'; did you mean 'z_loss'?"),
    ((X, W, T), {"rows": 0}, ValueError, "rows must be at least 1, got 0"),
    ((X, W, T), {"rows": 1.5}, TypeError, "rows must be an integer, got 1.5"),
    ((X, W, T), {"options": {}}, TypeError, "options must be None or torch.nn.LinearCrossEntropyOptions, got {}"),
    ((X, W, T), {"shift": 1}, TypeError, "shift must be True or False, got 1"),
    ((X[0], W, T[0]), {"shift": True}, RuntimeError, r"shift=True needs input of shape \(..., T, H\)"),
    ((X, W, T + 5), {}, IndexError, r"targets\[0\] = 5 is not in \[0, 5\)"),
    ((X.tolist(), W, T), {}, TypeError, "input must be a tensor, got list"),
    ((X, W, None), {}, TypeError, "target must be a tensor, got NoneType"),
    ((X, W, T), {"weight": 3}, TypeError, "weight must be a tensor or None, got int"),
]


@pytest.mark.parametrize(("args", "options", "error", "told"), MISUSE, ids=[case[3][:40] for case in MISUSE])
def test_misuse_is_told(args, options, error, told):
    with pytest.raises(error, match=told):
        linear_cross_entropy(*args, **options)


def test_misuse_of_log_probs_is_told():
    for index, error, told in (
        (T[:3], ValueError, r"index must have shape \(4,\), got \(3,\)"),
        (T.float(), RuntimeError, "index of classes must have an integer dtype"),
        (X @ W.T, RuntimeError, r"index must have shape \(4,\), got \(4, 5\)"),
        (T - 1, IndexError, r"targets\[0\] = -1 is not in \[0, 5\)"),
    ):
        with pytest.raises(error, match=told):
            linear_log_probs(X, W, index)


# ---------------------------------------------------------------------- memory


@pytest.mark.skipif(not _memory.CAN_KEEP, reason="this system cannot take memory back lazily")
def test_gradients_are_stolen_and_their_memory_is_kept(monkeypatch):
    """A step adds to what is in use the gradients alone; the next one has them in the same memory."""
    monkeypatch.setattr(_memory, "_pool", _memory._Pool())
    classes = cache.LARGE // 4 // H + 1
    x, w, _, t, _ = problem(dtype=torch.float32, classes=classes)
    places = set()
    for factor in (1, 1, 2, 2):
        (linear_cross_entropy(x, w, t) * factor).backward()
        assert _memory._pool.in_use >= w.nbytes
        assert _memory._pool.in_use < 1.1 * w.nbytes
        places.add(w.grad.data_ptr())
        w.grad = x.grad = None
    assert len(places) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "reduction"), [("float32", "mean"), ("bfloat16", "mean"), ("float32", "none")])
def test_memory_of_a_chunk_of_logits(dtype, reduction):
    """Over inputs and gradients: rows V 4 bytes and 16 MiB; for weights of 16 bits V H 4 more."""
    run(f"""
    import re, torch
    from pathlib import Path
    from crossentropy.torch import empty_cache, linear_cross_entropy
    torch.set_num_threads(2)
    def memory(name):
        return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    def step(x, w, t):
        loss = linear_cross_entropy(x, w, t, rows=128, reduction={reduction!r})
        return torch.autograd.grad(loss.sum(), (x, w))
    n, h, v = 1024, 256, 40000
    x, w = (torch.randn(s, h).mul(0.1).to(torch.{dtype}).requires_grad_() for s in (n, v))
    t = torch.randint(v, (n,))
    step(x, w, t)  # BLAS keeps buffers of its own from then on
    empty_cache()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    grads = step(x, w, t)
    extra = memory("VmHWM") - before - sum(g.nbytes for g in grads)
    allowed = 128 * v * 4 + 2**24 + (v * h * 4 if w.itemsize == 2 else 0)
    assert 0 < extra <= allowed, (extra / 2**20, allowed / 2**20)
    """)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_threads_than_pytorch_takes(dtype, monkeypatch):
    """However small the weight is, many rows make many logits."""
    from crossentropy import config, get_config
    from crossentropy.torch import linear_bridge

    seen = []
    for name in ("loss", "loss_and_gradients"):
        taken = getattr(linear_bridge.engine, name)
        monkeypatch.setattr(
            linear_bridge.engine, name, lambda *a, taken=taken: (seen.append(get_config()["threads"]), taken(*a))[1]
        )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    hidden, weight = torch.ones(1024, 8, dtype=dtype), torch.ones(103, 8, dtype=dtype)
    target = torch.zeros(1024, dtype=torch.int64)
    with config(threads=2):
        linear_cross_entropy(hidden, weight, target)
        linear_cross_entropy(hidden.requires_grad_(), weight, target)
        linear_cross_entropy(hidden[:1], weight, target[:1])
    assert seen == [1, 1, 2]  # few logits are done by one thread anyway
