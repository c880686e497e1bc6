"""crossentropy.torch.distillation: PyTorch's own composition, differentiation, 16 bits, tracing, misuse."""

import itertools
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crossentropy import reference  # noqa: E402
from crossentropy.torch import distillation  # noqa: E402
from crossentropy.torch.distillation import How, composed  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", reference.KINDS)
def test_against_pytorchs_operations(kind, dtype):
    torch.manual_seed(0)
    near = {torch.float64: 1e-13, torch.float32: 2e-6}.get(dtype, 1e-2)
    for reduction, weighs in itertools.product(("mean", "sum", "none"), (False, True)):
        student = torch.randn(5, 7, 3).to(dtype).requires_grad_()
        teacher = torch.randn(5, 7, 3).to(dtype)
        v = torch.rand(5, 3, dtype=torch.float64) if weighs else None
        loss = distillation(
            student, teacher, kind=kind, temperature=2, beta=0.3, dim=1, reduction=reduction, sample_weight=v
        )
        assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        arriving = torch.rand_like(loss) + 0.5
        (grad,) = torch.autograd.grad(loss, student, arriving)
        wide = student.detach().double().requires_grad_()
        want = composed(wide, teacher.double(), v, How(kind, 2.0, 0.3, 1, reduction, None))
        (slope,) = torch.autograd.grad(want, wide, arriving.double())
        np.testing.assert_allclose(loss.detach().double(), want.detach(), rtol=max(1e-12, min(near, 2e-6)))
        np.testing.assert_allclose(grad.double(), slope, rtol=near, atol=near * slope.abs().max())


def test_as_kl_div():
    student, teacher = torch.randn(2, 6, 10, requires_grad=True).unbind()
    log_p, log_q = (torch.log_softmax(z / 3, -1) for z in (student, teacher))
    want = 9 * torch.nn.functional.kl_div(log_p, log_q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(distillation(student, teacher.detach(), temperature=3), want)


def test_a_loss_scaler_reaches_16_bits_before_they_are_rounded():
    student = torch.randn(4096, 3).half().requires_grad_()
    teacher = torch.randn(4096, 3).half()
    (distillation(student, teacher) * 2**12).backward()
    want = distillation(student.detach().float().requires_grad_(), teacher.float()) * 2**12
    assert (student.grad != 0).float().mean() > 0.99
    assert want.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled(dtype):
    student, teacher = torch.randn(5, 7).to(dtype).requires_grad_(), torch.randn(5, 7).to(dtype)
    eager = distillation(student, teacher, kind="reverse")
    compiled = torch.compile(lambda s, t: distillation(s, t, kind="reverse"), backend="aot_eager", fullgraph=True)
    found = compiled(student, teacher)
    assert found == eager
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (found, eager)), rtol=0, atol=0)


def test_the_operator():
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    how = How("forward", 1.0, 0.5, 1, "mean", None)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.crossentropy.distillation, (student, teacher, None, *how), test_utils=checks)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("kind", reference.KINDS)
def test_second_derivative(kind, counts):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64).unbind()
    v = torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    if counts:
        student[0, 1] = teacher[0, 1] = -torch.inf  # a class that both mask
        student[2] = torch.nan  # a row that does not count
    student.requires_grad_()
    for reduction, beta, temperature in (("mean", 0.5, 1), ("sum", 0.9, 2), ("none", 0.3, 1)):
        how = {"kind": kind, "beta": beta, "temperature": temperature, "reduction": reduction, "sample_weight": v}
        loss = distillation(student, teacher, **how)
        arriving = torch.rand_like(loss)
        (plain,) = torch.autograd.grad(loss, student, arriving, retain_graph=True)
        (grad,) = torch.autograd.grad(loss, student, arriving, create_graph=True)
        torch.testing.assert_close(grad, plain)
        (second,) = torch.autograd.grad((grad**2).sum(), student)
        assert second.isfinite().all()
        assert (second[2] == 0).all()
        if not counts:
            assert torch.autograd.gradgradcheck(lambda z, how=how: distillation(z, teacher, **how), student)


def test_logits_that_change_before_a_second_derivative():
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    loss = distillation(student, teacher)
    teacher.add_(1)
    (grad,) = torch.autograd.grad(loss, student, retain_graph=True)
    assert grad.isfinite().all()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, student, create_graph=True)


def test_no_logits_are_kept_longer_than_needed():
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    gone = weakref.ref(teacher)
    loss = distillation(student, teacher)
    del teacher
    loss.backward()
    assert gone() is None


def test_a_teacher_in_inference_mode():
    student = torch.randn(3, 4, requires_grad=True)
    with torch.inference_mode():
        teacher = torch.randn(3, 4)
    (grad,) = torch.autograd.grad(distillation(student, teacher), student, create_graph=True)
    assert torch.autograd.grad((grad**2).sum(), student)[0].isfinite().all()


def test_misuse():
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match="teacher_logits must not require grad"):
        distillation(x, x.clone().requires_grad_())
    with pytest.raises(ValueError, match="teacher_logits must have the shape of student_logits"):
        distillation(x, x[:, :3])
    with pytest.raises(ValueError, match="kind must be one of"):
        distillation(x, x, kind="kl")
    with pytest.raises(TypeError, match="student_logits must be a floating tensor"):
        distillation(x.long(), x)
    with pytest.raises(IndexError, match="dim must be in"):
        distillation(x, x, dim=2)
