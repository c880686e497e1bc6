"""Distillation from a teacher's logits: the package's function as PyTorch's, differentiable in the student's logits.

The gradient is computed with the loss; of 16 bits it is computed in the backward instead, from what arrives there, so
that it is rounded once. An eager call goes by a Function, a traced one by the registered operator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.library import custom_op

from .. import _check
from .. import distillation as distillation_of_arrays
from .._options import OPTIONS, real
from . import cache, calls, private
from .bridge import array, loss_dtype, on_torchs_threads, tensor
from .kept import MODIFIED, versions


class How(NamedTuple):
    """What a call asks for."""

    kind: str
    temperature: float
    beta: float
    dim: int
    reduction: str
    normalizer: float | None


def distillation(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    kind: str = "forward",
    beta: float = 0.5,
    dim: int = -1,
    reduction: str = "mean",
    sample_weight: torch.Tensor | None = None,
    normalizer: float | None = None,
) -> torch.Tensor:
    """The divergence of a student's softmax from a teacher's, differentiable in the student's logits.

    Parameters
    ----------
    student_logits : Tensor
        float32, float64, bfloat16 or float16, on the CPU or a CUDA device.
    teacher_logits : Tensor
        Of the same shape and on the same device; it must not require grad.
    temperature, kind, beta
        As for `crossentropy.distillation`.
    dim : int, default -1
        The class axis.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides by the number of rows, or by the sum of ``sample_weight``.
    sample_weight : Tensor, optional
        Of the rows' shape: v_n >= 0, or a mask. Rows of weight 0 do not count, whatever they hold.
    normalizer : float > 0, optional
        Divisor in place of that one; with 'mean' only.

    Returns
    -------
    Tensor
        In nats, float64 if one of the logits is float64, else float32: a scalar, or of the rows' shape with
        ``reduction='none'``. A second derivative goes by PyTorch's operations.

    Raises
    ------
    TypeError, ValueError, IndexError
        For an argument outside its rule.

    Notes
    -----
    ``docs/derivation.md``, section 6. As ``kl_div(log_softmax(student / T), log_softmax(teacher / T),
    log_target=True)`` summed over the classes, times T^2, with nothing of the logits' size made but the gradient.

    Examples
    --------
    >>> import torch, crossentropy.torch
    >>> student = torch.zeros(1, 2, requires_grad=True)
    >>> crossentropy.torch.distillation(student, torch.zeros(1, 2)).item()
    0.0
    """
    tensors = (("student_logits", student_logits), ("teacher_logits", teacher_logits))
    for name, value in tensors:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dim() == 0:
            raise TypeError(f"{name} must be a floating tensor with a class axis, got {type(value).__name__}")
    if teacher_logits.shape != student_logits.shape:
        shapes = tuple(student_logits.shape), tuple(teacher_logits.shape)
        raise ValueError(f"teacher_logits must have the shape of student_logits, {shapes[0]}, got {shapes[1]}")
    if teacher_logits.requires_grad and torch.is_grad_enabled():
        raise ValueError("teacher_logits must not require grad: pass teacher_logits.detach()")
    divergence = _check.divergence(temperature, kind, beta)
    if not -student_logits.dim() <= dim < student_logits.dim():
        raise IndexError(f"dim must be in [{-student_logits.dim()}, {student_logits.dim()}), got {dim}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be one of 'none', 'sum', 'mean', got {reduction!r}")
    if normalizer is not None:
        normalizer = OPTIONS["normalizer"].rule(real(normalizer, "normalizer"), "normalizer")
        if reduction != "mean":
            raise ValueError(f"normalizer goes with reduction='mean', got reduction={reduction!r}")
    how = How(*divergence, dim % student_logits.dim(), reduction, normalizer)
    wide = torch.promote_types(student_logits.dtype, teacher_logits.dtype)
    if student_logits.dtype != wide and teacher_logits.dtype == torch.float64:
        student_logits = student_logits.to(wide)  # differentiably
    if sample_weight is not None and sample_weight.dtype not in (*calls.FLOATS, torch.bool):
        raise TypeError(f"sample_weight must be floating or a mask, got {sample_weight.dtype}")
    if private.are_transforms_active() or private.is_forward_mode() or not _is_ours(student_logits, teacher_logits):
        return composed(student_logits, teacher_logits, sample_weight, how)
    if private.is_traced(student_logits, teacher_logits, sample_weight):
        return _operator(student_logits, teacher_logits, sample_weight, *how)[0]
    if not (student_logits.requires_grad and torch.is_grad_enabled()):
        return _loss_and_grad(student_logits, teacher_logits, sample_weight, how)[0]
    return _Distillation.apply(student_logits, teacher_logits, sample_weight, how)


def _is_ours(student, teacher) -> bool:
    if student.dtype not in calls.FLOATS or teacher.dtype not in calls.FLOATS or student.shape[-1] == 0:
        return False
    if not (student.is_cpu or student.is_cuda or student.is_meta) or student.layout is not torch.strided:
        return False
    return not private.is_wrapper(student) and not (student.is_cuda and calls.lacks_cuda())


def composed(student, teacher, sample_weight, how: How) -> torch.Tensor:
    """The loss by PyTorch's own operations, for what the kernels are not for."""
    dim, t = how.dim, how.temperature
    if sample_weight is not None:  # the others may hold anything, of which nothing must reach a derivative
        counted = (sample_weight != 0).unsqueeze(dim)
        student, teacher = (torch.where(counted, z, 0) for z in (student, teacher))
    s, p = (torch.log_softmax(z.to(loss_dtype(z)) / t, dim) for z in (student, teacher))

    def divergence(of, over):
        counts = of > -torch.inf
        of, over = (torch.where(counts, log_p, 0) for log_p in (of, over))
        return torch.where(counts, of.exp() * (of - over), 0).sum(dim)

    if how.kind == "forward":
        rows = divergence(p, s)
    elif how.kind == "reverse":
        rows = divergence(s, p)
    else:
        m = how.beta * p.exp() + (1 - how.beta) * s.exp()
        m = torch.where(m > 0, m, 1).log()
        rows = how.beta * divergence(p, m) + (1 - how.beta) * divergence(s, m)
    rows = t * t * rows
    count = rows.numel()
    if sample_weight is not None:
        rows = rows * sample_weight
        count = sample_weight.sum()
    if how.reduction == "none":
        return rows
    return rows.sum() if how.reduction == "sum" else rows.sum() / (how.normalizer or count)


def _loss_and_grad(student, teacher, sample_weight, how: How, grad_loss=None) -> tuple[torch.Tensor, torch.Tensor]:
    kind, temperature, beta, dim, reduction, normalizer = how
    grad = cache.empty_like(student)
    with on_torchs_threads(student):
        loss = distillation_of_arrays(
            array(student),
            array(teacher),
            temperature=temperature,
            kind=kind,
            beta=beta,
            axis=dim,
            reduction=reduction,
            normalizer=normalizer,
            sample_weight=None if sample_weight is None else array(sample_weight),
            grad_output=1.0 if grad_loss is None else array(grad_loss),
            out=array(grad),
        ).loss
    return tensor(loss), grad


def _later(student) -> bool:
    """Whether the gradient is computed in the backward."""
    return student.itemsize == 2


def _times(grad, grad_loss, how: How):
    return grad * (grad_loss.unsqueeze(how.dim) if how.reduction == "none" else grad_loss)


class _Kept:
    """What a second derivative needs, which nothing else does: logits that have changed are an error there alone."""

    def __init__(self, student, teacher, sample_weight):
        self.tensors = student, teacher, sample_weight
        self.counting = [t for t in self.tensors if t is not None and not t.is_inference()]
        self.versions = versions(self.counting)

    def gradient(self, grad_loss, how: How):
        """The gradient by PyTorch's operations, which can be differentiated."""
        if versions(self.counting) != self.versions:
            raise RuntimeError(MODIFIED)
        with torch.enable_grad():
            student, *others = self.tensors
            student = student if student.requires_grad else student.detach().requires_grad_()
            loss = composed(student, *others, how)
            return torch.autograd.grad(loss, student, grad_loss.to(loss.dtype), create_graph=True)[0]


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student, teacher, sample_weight, how):
        ctx.how, ctx.later, ctx.kept = how, _later(student), _Kept(student, teacher, sample_weight)
        loss, grad = _loss_and_grad(student, teacher, sample_weight, how)
        if ctx.later:
            ctx.save_for_backward(student, teacher, sample_weight)
        else:
            ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        return _gradient_of(ctx, grad_loss), None, None, None


def _gradient_of(ctx, grad_loss):
    tensors = ctx.saved_tensors
    if torch.is_grad_enabled():
        return ctx.kept.gradient(grad_loss, ctx.how)
    if not (private.needs_operator(grad_loss) or private.keeps_graph()):
        ctx.kept = None
    return _gradient(grad_loss, *tensors, *ctx.how) if ctx.later else _times(tensors[0], grad_loss, ctx.how)


_HOW = "str kind, float temperature, float beta, int dim, str reduction, float? normalizer"
_CALL = f"Tensor student, Tensor teacher, Tensor? sample_weight, {_HOW}"


@custom_op("crossentropy::distillation", mutates_args=(), schema=f"({_CALL}) -> (Tensor, Tensor)")
def _operator(student, teacher, sample_weight, *how):
    """(loss, the gradient, or nothing where that is computed later)."""
    loss, grad = _loss_and_grad(student, teacher, sample_weight, How(*how))
    return loss, grad.new_empty(0) if _later(student) else grad


@_operator.register_fake
def _(student, teacher, sample_weight, *how):
    dim, reduction = How(*how).dim, How(*how).reduction
    rows = (*student.shape[:dim], *student.shape[dim + 1 :])
    loss = student.new_empty(rows if reduction == "none" else (), dtype=loss_dtype(student))
    return loss, student.new_empty(0) if _later(student) else torch.empty_like(student)


@custom_op("crossentropy::distillation_backward", mutates_args=(), schema=f"(Tensor grad_loss, {_CALL}) -> Tensor")
def _gradient(grad_loss, student, teacher, sample_weight, *how):
    """The gradient on the student's logits."""
    return _loss_and_grad(student, teacher, sample_weight, How(*how), grad_loss)[1]


@_gradient.register_fake
def _(grad_loss, student, teacher, sample_weight, *how):
    return torch.empty_like(student)


def _save(ctx, inputs, output):
    student, teacher, sample_weight, *how = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.how, ctx.later, ctx.kept = How(*how), _later(student), _Kept(student, teacher, sample_weight)
    if ctx.later:
        ctx.save_for_backward(student, teacher, sample_weight)
    else:
        ctx.save_for_backward(output[1])


def _backward(ctx, grad_loss, _):
    return _gradient_of(ctx, grad_loss), *[None] * (2 + len(How._fields))


_operator.register_autograd(_backward, setup_context=_save)
