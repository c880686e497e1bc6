"""The drop-in's options beyond PyTorch's: against the formula in PyTorch's operations, by each way that a call goes."""

import pickle

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

import torch.nn.functional as F  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

from crossentropy.torch import (  # noqa: E402
    CrossEntropyLoss,
    LinearCrossEntropyLoss,
    cross_entropy,
    eager,
    linear_cross_entropy,
    private,
    short,
)

# PyTorch's own: when its transforms or its compiler are loaded, and in compiled backwards.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning",
    "ignore:`torch.jit:FutureWarning",
    "ignore:The .grad attribute of a Tensor that is not a leaf",
)

N, C = 6, 5
V_N = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.5, 1.0], dtype=torch.float64)
WHERE = torch.tensor([True, True, True, False, True, True])
PRIOR = torch.tensor([0.5, -1.0, 0.0, 2.0, 0.25], dtype=torch.float64)
WEIGHT = torch.tensor([1.0, 0.5, 2.0, 1.5, 0.7], dtype=torch.float64)
CHOICES = {
    "scale": {"logit_scale": 0.7},
    "softcap": {"softcap": 3.0, "logit_scale": 2.0},
    "prior": {"class_prior": PRIOR},
    "margin": {"margin": 0.4, "weight": WEIGHT},
    "focal": {"focal": 2.0, "label_smoothing": 0.1},
    "rows": {"sample_weight": V_N, "weight": WEIGHT},
    "mask": {"where": WHERE, "z_loss": 0.1},
    "normalizer": {"normalizer": 7.5, "sample_weight": V_N, "where": WHERE},
    "all": {
        **{"logit_scale": 1.5, "softcap": 5.0, "class_prior": PRIOR, "margin": -0.3, "focal": 1.5, "z_loss": 0.02},
        **{"sample_weight": V_N, "where": WHERE, "weight": WEIGHT, "label_smoothing": 0.2},
    },
}


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def problem(dtype=torch.float64):
    """Logits, classes of which one is ignored, probabilities."""
    t = torch.randint(C, (N,))
    t[1] = -100
    x = torch.randn(N, C, dtype=torch.float64).mul(2).to(dtype)
    return x.requires_grad_(), t, torch.softmax(torch.randn(N, C, dtype=torch.float64), 1).to(dtype)


def by_hand(x, target, reduction="mean", **o):
    """The formula of docs/derivation.md, and of the reference."""
    z, index = x * o.get("logit_scale", 1.0), not target.is_floating_point()
    if cap := o.get("softcap"):
        z = cap * torch.tanh(z / cap)
    if (prior := o.get("class_prior")) is not None:
        z = z + prior.to(z.dtype)
    counts = (target != -100) if index else torch.ones(len(x), dtype=torch.bool)
    q = F.one_hot(torch.where(counts, target, 0), C).to(z.dtype) if index else target
    z = z - o.get("margin", 0.0) * q if index else z
    w = o["weight"].to(z.dtype) if "weight" in o else torch.ones(C, dtype=z.dtype)
    epsilon = o.get("label_smoothing", 0.0)
    log_p = torch.log_softmax(z, 1)
    rows = -(w * ((1 - epsilon) * q + epsilon / C) * log_p).sum(1)
    if index:
        rows = rows * (1 - (q * log_p.exp()).sum(1)) ** o.get("focal", 0.0)
    rows = rows + o.get("z_loss", 0.0) * torch.logsumexp(z, 1) ** 2
    v = counts * o.get("sample_weight", torch.ones(N)).to(z.dtype) * o.get("where", torch.ones(N, dtype=torch.bool))
    rows = v * rows
    if reduction != "mean":
        return rows.sum() if reduction == "sum" else rows
    return rows.sum() / o.get("normalizer", (v * ((q * w).sum(1) if index else 1)).sum())


def allowed(name, target):
    """The options of a choice that go with such a target."""
    return {k: v for k, v in CHOICES[name].items() if not (target.is_floating_point() and k in ("margin", "focal"))}


@pytest.mark.parametrize("way", ["at once", "in halves", "operator"])
@pytest.mark.parametrize("name", CHOICES)
def test_values_and_two_derivatives(name, way, monkeypatch):
    if way != "at once":
        monkeypatch.setattr(short, "cross_entropy", lambda *call: None)
    if way == "in halves":
        monkeypatch.setattr(eager, "is_at_once", lambda *call: False)
    elif way == "operator":
        monkeypatch.setattr(private, "is_traced", lambda *tensors: True)
    x, t, q = problem()
    for target in (t, q):
        o = allowed(name, target)
        for reduction in ("mean",) if "normalizer" in o else ("mean", "sum", "none"):
            loss, expected = (f(x, target, reduction=reduction, **o) for f in (cross_entropy, by_hand))
            torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
            g = torch.rand_like(loss)
            (got,), (want,) = (torch.autograd.grad(value, x, g) for value in (loss, expected))
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    if name == "all" or way == "at once":
        function = lambda x: cross_entropy(x, t, **allowed(name, t))  # noqa: E731
        assert gradcheck(function, x)
        assert gradgradcheck(function, x)


@pytest.mark.parametrize("name", CHOICES)
def test_calls_handed_to_pytorch(name):
    """By PyTorch's operations, as for a target that is differentiated, whose gradient is theirs."""
    x, t, q = problem()
    o = allowed(name, t)
    torch.testing.assert_close(
        torch.func.grad(lambda x: cross_entropy(x, t, **o))(x),
        torch.func.grad(lambda x: by_hand(x, t, **o))(x),
        rtol=1e-10,
        atol=1e-12,
    )
    q.requires_grad_()
    for target in [q]:
        got, want = (torch.autograd.grad(f(x, target, **allowed(name, q)), (x, q)) for f in (cross_entropy, by_hand))
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_weights_of_rows_and_a_prior_are_differentiated():
    x, t, _ = problem()
    v, b = V_N.clone().requires_grad_(), PRIOR.clone().requires_grad_()
    got, want = (
        torch.autograd.grad(f(x, t, sample_weight=v, class_prior=b), (x, v, b)) for f in (cross_entropy, by_hand)
    )
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inplace", [False, True])
def test_rows_that_do_not_count_may_hold_anything(dtype, inplace):
    x, t, _ = problem(dtype)
    with torch.no_grad():
        x[3], x[2] = torch.nan, torch.inf
    o = {"sample_weight": V_N.to(dtype), "where": WHERE}
    loss = cross_entropy(x * 1, t, **o, inplace=inplace)
    rows = [0, 4, 5]
    expected = by_hand(torch.where((V_N * WHERE)[:, None] > 0, x.detach(), 0).double(), t, **o)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-2 if dtype.itemsize == 2 else 1e-6, atol=0)
    (grad,) = torch.autograd.grad(loss, x)
    assert torch.equal(grad[[1, 2, 3]], torch.zeros(3, C, dtype=dtype))
    assert grad[rows].isfinite().all()


def test_kept_logits_are_checked_with_the_weights_of_their_rows():
    """A loss of each row keeps its logits; those of rows that weigh nothing may change."""
    x, t, _ = problem(torch.float32)
    z = x * 1
    loss = cross_entropy(z, t, sample_weight=V_N.float(), reduction="none")
    z.data[2] = 99.0
    loss.sum().backward()
    z = x * 1
    loss = cross_entropy(z, t, sample_weight=V_N.float(), reduction="none")
    z.data[0] += 1.0
    with pytest.raises(RuntimeError, match="were changed between forward and backward"):
        loss.sum().backward()


@pytest.mark.parametrize("kind", ["number", "tensor", "of a graph"])
def test_micro_batches_with_a_normalizer_are_the_whole_batch(kind):
    x, t, _ = problem(torch.float32)
    whole = cross_entropy(x, t, weight=WEIGHT.float())
    (expected,) = torch.autograd.grad(whole, x)
    count = WEIGHT.float()[t[t >= 0]].sum()
    by = count.item() if kind == "number" else count
    if kind == "of a graph":
        by = by.clone().requires_grad_()
    losses = [cross_entropy(x[part], t[part], weight=WEIGHT.float(), normalizer=by) for part in ([0, 1, 2], [3, 4, 5])]
    torch.testing.assert_close(sum(losses), whole)
    torch.testing.assert_close(torch.autograd.grad(sum(losses), x, retain_graph=True)[0], expected)
    if kind == "of a graph":
        torch.testing.assert_close(torch.autograd.grad(sum(losses), by)[0], -whole / count)


@pytest.mark.parametrize("probabilities", [False, True])
def test_hidden_states_take_them_too(probabilities):
    """Those of tokens go with the targets where these are shifted."""
    x, w = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 4, 3), (C, 3)))
    t, v = torch.randint(C, (2, 4)), torch.rand(2, 4, dtype=torch.float64)
    target = torch.softmax(torch.randn(2, 4, C, dtype=torch.float64), -1) if probabilities else t
    where = v > 0.3
    o = {"class_prior": PRIOR, "softcap": 4.0, "normalizer": torch.tensor(5.5)} | (
        {} if probabilities else {"margin": 0.2, "focal": 1.0}
    )
    got = linear_cross_entropy(x, w, target, sample_weight=v, where=where, shift=True, **o)
    rows = [a[:, 1:].reshape(6, *a.shape[2:]) for a in (target, v, where)]
    want = by_hand(F.linear(x[:, :-1].reshape(6, 3), w), rows[0], sample_weight=rows[1], where=rows[2], **o)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    for one, other in zip(torch.autograd.grad(got, (x, w)), torch.autograd.grad(want, (x, w)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_compiled_in_one_graph_with_a_tensor_for_a_divisor():
    x, t, _ = problem(torch.float32)
    o = {"sample_weight": V_N.float(), "class_prior": PRIOR.float(), "normalizer": torch.tensor(3.0), "softcap": 5.0}
    compiled = torch.compile(lambda x: cross_entropy(x, t, **o), backend="aot_eager", fullgraph=True)
    loss = compiled(x)
    torch.testing.assert_close(loss.double(), by_hand(x.double(), t, **o), rtol=1e-6, atol=0)
    (got,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(got, torch.autograd.grad(cross_entropy(x, t, **o), x)[0])


def test_modules_have_a_prior_and_take_what_is_of_a_call():
    x, t, _ = problem(torch.float32)
    loss = CrossEntropyLoss(class_prior=PRIOR.float(), softcap=5.0, focal=1.0)
    assert "class_prior" in loss.state_dict()
    of_call = {"sample_weight": V_N.float(), "where": WHERE, "normalizer": 4.0}
    expected = cross_entropy(x, t, class_prior=PRIOR.float(), softcap=5.0, focal=1.0, **of_call)
    for module in (loss, pickle.loads(pickle.dumps(loss)), torch.jit.script(loss)):
        torch.testing.assert_close(module(x, t, **of_call), expected)
    plain = CrossEntropyLoss()
    del plain._buffers["class_prior"]  # as pickled before there was one
    torch.testing.assert_close(pickle.loads(pickle.dumps(plain))(x, t), cross_entropy(x, t))
    head = LinearCrossEntropyLoss(3, C, class_prior=PRIOR.float(), logit_scale=2.0)
    hidden = torch.randn(N, 3)
    torch.testing.assert_close(
        head(hidden, t, sample_weight=V_N.float()),
        cross_entropy(head.linear(hidden), t, class_prior=PRIOR.float(), logit_scale=2.0, sample_weight=V_N.float()),
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"class_prior": torch.zeros(4)}, ValueError, r"class_prior must be floating of shape \(5,\), got .* \(4,\)"),
        ({"class_prior": [0.0] * 5}, TypeError, "class_prior must be a tensor or None, got list"),
        ({"sample_weight": torch.ones(5)}, ValueError, r"sample_weight must be real of the rows' shape, \(6,\)"),
        ({"where": torch.ones(6)}, TypeError, "where must be boolean, got torch.float32"),
        ({"where": torch.ones(5, dtype=torch.bool)}, ValueError, r"must be real of the rows' shape, \(6,\)"),
        ({"where": WHERE, "sample_weight": torch.ones(5)}, ValueError, "where and sample_weight must have the rows'"),
        ({"sample_weight": -torch.ones(6)}, ValueError, "sample_weight must be finite and not negative"),
        ({"normalizer": 0}, ValueError, "normalizer must be finite and positive, got 0"),
        ({"normalizer": torch.zeros(())}, ValueError, "normalizer must be finite and positive, got 0.0"),
        ({"normalizer": torch.ones(2)}, ValueError, "normalizer must be a number or a tensor without axes"),
        ({"normalizer": 2.0, "reduction": "sum"}, ValueError, "normalizer goes with reduction='mean'"),
        ({"softcap": -1.0}, ValueError, "softcap must be finite and positive, or 0 or None"),
        ({"focal": -1.0}, ValueError, "focal must be finite and not negative"),
    ],
)
def test_what_is_outside_the_rules(options, error, message):
    x, t, _ = problem(torch.float32)
    with pytest.raises(error, match=message):
        cross_entropy(x, t, **options)
    with pytest.raises(error, match=message):
        linear_cross_entropy(torch.ones(N, 3), torch.ones(C, 3), t, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("focal", [0.5, 1.0, 1.5, 2.0])
def test_second_derivatives_of_a_focal_loss_where_the_target_is_nearly_certain(focal, dtype):
    """1 - p_y is rounded to 0 in PyTorch's operations, and is 0 where no other class is possible."""
    x = torch.zeros(5, 3, dtype=dtype)
    x[:4, 0] = torch.tensor([0.0, 5.0, 30.0, 500.0])
    x[4, 1:] = -torch.inf
    x, t, h = x.requires_grad_(), torch.zeros(5, dtype=torch.int64), torch.tensor([1.0, 2.0, 4.0])
    (g,) = torch.autograd.grad(cross_entropy(x, t, reduction="sum", focal=focal), x, create_graph=True)
    (found,) = torch.autograd.grad((g * h).sum(), x)
    z = x.detach()[:4].double().requires_grad_()
    odds = torch.logsumexp(z[:, 1:], 1) - z[:, 0]  # against the target
    loss = (F.softplus(odds) * torch.exp(focal * F.logsigmoid(odds))).sum()
    (wanted,) = torch.autograd.grad(loss, z, create_graph=True)
    (wanted,) = torch.autograd.grad((wanted * h).sum(), z)
    tolerance = {"rtol": 1e-9, "atol": 1e-14} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 1e-7}
    torch.testing.assert_close(found[:4].double(), wanted, **tolerance)
    assert torch.equal(found[4], torch.zeros(3, dtype=dtype))
    scripted = torch.jit.script(CrossEntropyLoss(reduction="sum", focal=focal))
    torch.testing.assert_close(torch.autograd.grad(scripted(x, t), x)[0], g.detach(), rtol=1e-4, atol=1e-6)


def test_probabilities_have_no_margin_and_no_focal_factor():
    x, _, q = problem(torch.float32)
    for name in ("margin", "focal"):
        with pytest.raises(ValueError, match=f"{name} is for class targets"):
            cross_entropy(x, q, **{name: 1.0})
