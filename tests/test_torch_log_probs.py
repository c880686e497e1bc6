"""Log-probabilities and entropies of crossentropy.torch: against PyTorch's operations, by each way that a call goes."""

import pytest
from subprocesses import run

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

from crossentropy.torch import (  # noqa: E402
    entropy,
    log_probs_ops,
    token_log_probs,
    token_log_probs_and_entropy,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:`torch.jit:FutureWarning")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
TRANSFORMS = {"logit_scale": 0.7, "softcap": 4.0}


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def problem(dtype=torch.float64, rows=(3, 4), classes=7):
    """Logits, and a class for each row."""
    x = (torch.randn(*rows, classes, dtype=torch.float64) * 2).to(dtype)
    return x.requires_grad_(), torch.randint(classes, rows)


def theirs(x, y):
    """What PyTorch's own operations give, in float64."""
    log_p = torch.log_softmax(x.double(), -1)
    return log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1), torch.distributions.Categorical(logits=x.double()).entropy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [7, 300])
def test_values_and_gradients_are_pytorchs(dtype, classes):
    x, y = problem(dtype, classes=classes)
    found, expected = token_log_probs_and_entropy(x, y), theirs(x, y)
    weights = torch.randn(2, *y.shape, dtype=torch.float64)
    for got, right in zip(found, expected, strict=True):
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(got.double(), right, rtol=1e-6, atol=1e-6)
    assert torch.equal(token_log_probs(x, y), found.log_prob)
    assert torch.equal(entropy(x), found.entropy)
    unit = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(dtype, 1e-6)
    for a, b in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
        (ours,) = torch.autograd.grad(
            (found[0] * weights[0] * a + found[1] * weights[1] * b).sum(), x, retain_graph=True
        )
        total = (expected[0] * weights[0] * a + expected[1] * weights[1] * b).sum()
        (right,) = torch.autograd.grad(total, x, retain_graph=True)
        torch.testing.assert_close(ours.double(), right.double(), rtol=unit, atol=unit)
    (alone,) = torch.autograd.grad(entropy(x).sum(), x)
    torch.testing.assert_close(
        alone.double(), torch.autograd.grad(expected[1].sum(), x)[0].double(), rtol=unit, atol=unit
    )


def test_confident_rows_keep_their_digits():
    """Where PyTorch's own give 0, in float32."""
    x = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    found = token_log_probs_and_entropy(x, torch.tensor([0]))
    small = 2 * torch.exp(torch.tensor(-40.0, dtype=torch.float64))
    torch.testing.assert_close(found.log_prob.double(), -small[None], rtol=1e-6, atol=0)
    torch.testing.assert_close(found.entropy.double(), 41 * small[None], rtol=1e-6, atol=0)
    (grad,) = torch.autograd.grad(found.log_prob.sum(), x)
    torch.testing.assert_close(grad.double(), torch.stack([small, -small / 2, -small / 2])[None], rtol=1e-6, atol=0)
    assert torch.log_softmax(x, 1)[0, 0] == 0


def test_first_and_second_derivatives():
    x, y = problem(rows=(4,))
    prior = torch.randn(7, dtype=torch.float64)
    y[1] = -100
    for options in ({}, {**TRANSFORMS, "class_prior": prior}):
        for function in (
            lambda x, o=options: token_log_probs(x, y, ignore_index=-100, **o),
            lambda x, o=options: entropy(x, **o),
            lambda x, o=options: tuple(token_log_probs_and_entropy(x, y, ignore_index=-100, **o)),
        ):
            assert gradcheck(function, (x,))
            assert gradgradcheck(function, (x,))
    assert not token_log_probs(x, y, ignore_index=-100)[1]
    (grad,) = torch.autograd.grad(token_log_probs_and_entropy(x, y, ignore_index=-100).entropy.sum(), x)
    assert not grad[1].any()


def test_any_axis_and_strides():
    x, y = problem(rows=(3, 4))
    expected = token_log_probs_and_entropy(x, y)
    for moved, dim in ((x.movedim(-1, 1), 1), (x.movedim(-1, 0), 0), (x.movedim(-1, 1).contiguous(), -2)):
        found = token_log_probs_and_entropy(moved, y.to(torch.uint8), dim=dim)
        for got, right in zip(found, expected, strict=True):
            torch.testing.assert_close(got, right)
        (grad,) = torch.autograd.grad((found.log_prob + found.entropy).sum(), x, retain_graph=True)
        torch.testing.assert_close(grad, torch.autograd.grad(sum(expected).sum(), x, retain_graph=True)[0])
    assert token_log_probs(x[0, 0], y[0, 0]).shape == ()


def test_traced_calls_are_operators():
    x, y = problem(torch.float32)
    prior = torch.randn(7)

    def function(x):
        found = token_log_probs_and_entropy(x, y, class_prior=prior, **TRANSFORMS)
        return found.log_prob + found.entropy + entropy(x)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), function(x))
    grads = [torch.autograd.grad(f(x).sum(), x)[0] for f in (compiled, function)]
    torch.testing.assert_close(*grads)
    for index in (y, None):
        call = x, index, prior, -1, None, 1.5, 0.0
        torch.library.opcheck(log_probs_ops.log_probs, call)
        _, h, statistics = log_probs_ops.log_probs(*call)
        g = torch.ones_like(h)
        given = (None if index is None else g, g, x.detach(), index, prior, statistics, *call[3:])
        torch.library.opcheck(log_probs_ops.log_probs_backward, given)


def test_transforms_of_functions_are_pytorchs():
    x, y = problem()
    batched = torch.func.vmap(lambda row, c: token_log_probs(row, c))(x, y)
    torch.testing.assert_close(batched, token_log_probs(x, y))
    jacobian = torch.func.jacrev(entropy)(x[0])
    torch.testing.assert_close(jacobian.sum(0), torch.autograd.grad(entropy(x[0]).sum(), x)[0][0])
    (grads,) = torch.autograd.grad(entropy(x[0]), x, torch.eye(4, dtype=x.dtype), is_grads_batched=True)
    torch.testing.assert_close(grads.sum(0)[0], jacobian.sum(0))


def test_what_does_not_fit_is_told():
    x, y = problem()
    for error, message, call in (
        (TypeError, "index must have an integer dtype", lambda: token_log_probs(x, y.float())),
        (
            ValueError,
            r"index must have the shape of logits without dim, \(3, 4\), got \(3,\)",
            lambda: token_log_probs(x, y[:, 0]),
        ),
        (TypeError, "logits must be float32", lambda: entropy(y)),
        (TypeError, "index must be a tensor, got list", lambda: token_log_probs(x, [0])),
        (IndexError, r"targets\[0, 0\] = 7 is not in \[0, 7\)", lambda: token_log_probs(x, torch.full_like(y, 7))),
        (ValueError, "logit_scale must be finite and positive, got 0", lambda: entropy(x, logit_scale=0)),
        (ValueError, r"class_prior must be floating of shape \(7,\)", lambda: entropy(x, class_prior=torch.zeros(3))),
        (IndexError, "dim must be an axis", lambda: entropy(x, dim=3)),
    ):
        with pytest.raises(error, match=message):
            call()


def test_no_memory_but_the_gradient():
    """At most 2 % more than the gradient, forward and backward, where log_softmax alone takes as much again."""
    run("""
    import re, torch
    from pathlib import Path
    from crossentropy.torch import token_log_probs_and_entropy
    def memory(name):
        return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    def step(x, t):
        found = token_log_probs_and_entropy(x, t)
        return torch.autograd.grad((found.log_prob + found.entropy).sum(), x)[0]
    rows, classes = 512, 128256
    x, t = torch.randn(rows, classes, requires_grad=True), torch.randint(classes, (rows,))
    step(x[:1], t[:1])
    step(x[:8, :8000], t[:8] % 8000)  # with threads
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
    g = step(x, t)
    extra, size = memory("VmHWM") - before, 4 * rows * classes
    assert size * 0.9 < extra <= size * 1.02, extra / size
    """)
