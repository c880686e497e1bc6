"""``dtype=`` of crossentropy.torch's losses: what logits are converted to first, mostly without a copy of them."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

import torch.nn.functional as F  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

import crossentropy  # noqa: E402
from crossentropy.torch import CrossEntropyLoss, bridge, cross_entropy  # noqa: E402

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SHORT = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def problem(rows, classes, dtype):
    x = torch.randn(rows, classes).mul(3).to(dtype).requires_grad_()
    t = torch.randint(classes, (rows,))
    t[0] = -100
    return x, t


@pytest.mark.parametrize("of", [cross_entropy, lambda x, t, **options: CrossEntropyLoss(**options)(x, t)])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", DTYPES)
def test_logits_are_converted_first(given, dtype, autocast, of):
    """As log_softmax has it; also under autocast, and whatever targets and weights are."""
    x, t = problem(9, 6, given)
    q, w = torch.softmax(torch.randn(9, 6).double(), 1), torch.rand(6)
    for target in (t, q, q.to(given)):
        for reduction in ("mean", "sum", "none"):
            for inplace in (False, True):
                z = x * 1
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = of(z, target, weight=w, reduction=reduction, z_loss=0.1, inplace=inplace, dtype=dtype)
                wanted = cross_entropy(x.to(dtype), target, w, reduction=reduction, z_loss=0.1)
                assert loss.dtype == dtype
                assert torch.equal(loss, wanted.to(dtype))
                (found,) = torch.autograd.grad(loss.sum(), x)
                assert found.dtype == given
                torch.testing.assert_close(found, torch.autograd.grad(wanted.sum(), x)[0])


@pytest.mark.parametrize("given", SHORT)
def test_a_loss_is_not_rounded_to_16_bits_nor_what_arrives(given):
    x, t = problem(300, 70, given)
    loss = cross_entropy(x, t, dtype=torch.float32)
    assert loss.item() == crossentropy.cross_entropy(bridge.array(x), t.numpy(), axis=1, ignore_index=-100)
    assert torch.equal(loss.to(given), cross_entropy(x, t))
    factor = 1.001  # which 16-bit types round to 1
    (found,) = torch.autograd.grad(loss * factor, x)
    (wanted,) = torch.autograd.grad(F.cross_entropy(x.double(), t) * factor, x)
    tiny = 2 * torch.finfo(given).smallest_normal * torch.finfo(given).eps
    torch.testing.assert_close(found.double(), wanted.double(), rtol=torch.finfo(given).eps, atol=tiny)
    assert not torch.equal(found, torch.autograd.grad(cross_entropy(x, t), x)[0])


@pytest.mark.parametrize("given", SHORT)
@pytest.mark.parametrize("inplace", [False, True])
def test_no_float32_copy_of_the_logits(given, inplace):
    """Not in the forward, nor in the backward: no operation makes more than the gradient of 16 bits."""
    x, t = problem(256, 32000, given)
    z = x * 1
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        torch.autograd.grad(cross_entropy(z, t, dtype=torch.float32, inplace=inplace), z)
    made = [event.name for event in seen.events() if event.self_cpu_memory_usage >= z.nbytes / 4]
    assert made in ([], ["aten::empty_like"], ["aten::empty_strided"])
    assert not any("_to_copy" in event.name and event.self_cpu_memory_usage > 1000 for event in seen.events())


def test_of_pytorchs_own_function():
    """Where that computes: a gradient on the targets, transforms, weights below 0."""
    x, _ = problem(5, 6, torch.bfloat16)
    q = torch.softmax(torch.randn(5, 6), 1).requires_grad_()
    wanted = F.cross_entropy(x.float(), q)
    loss = cross_entropy(x, q, dtype=torch.float32)
    assert torch.equal(loss, wanted)
    assert torch.equal(torch.autograd.grad(loss, q)[0], torch.autograd.grad(wanted, q)[0])
    t, w = torch.tensor([0, 1, 2, 3, -100]), torch.tensor([1.0, -2.0, 3, 1, 1, 1])
    assert torch.equal(cross_entropy(x, t, w, dtype=torch.float64), F.cross_entropy(x.double(), t, w.double()))
    rows = torch.func.vmap(lambda z, y: cross_entropy(z, y, dtype=torch.float32))(x.detach(), t[:1].expand(5))
    assert rows.dtype == torch.float32


def test_compiled():
    x, t = problem(5, 6, torch.bfloat16)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        function = torch.compile(
            lambda x, t, d=dtype: cross_entropy(x, t, dtype=d), fullgraph=True, backend="aot_eager"
        )
        loss = function(x, t)
        assert loss.dtype == dtype
        assert torch.equal(loss, cross_entropy(x, t, dtype=dtype))
        found, wanted = (torch.autograd.grad(a * 1.001, x)[0] for a in (loss, cross_entropy(x, t, dtype=dtype)))
        assert torch.equal(found, wanted)
    torch.compiler.reset()


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e5m2, "float32", float])
def test_what_is_no_dtype_of_a_loss(dtype):
    x, t = problem(5, 6, torch.float32)
    for call in (lambda: cross_entropy(x, t, dtype=dtype), lambda: CrossEntropyLoss(dtype=dtype)):
        with pytest.raises(TypeError, match=r"dtype must be None or one of torch\.bfloat16, .*torch\.float64, got "):
            call()
