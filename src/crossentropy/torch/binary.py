"""Losses of one logit each as PyTorch's and torchvision's functions: binary cross-entropy with logits, focal loss.

Dense tensors on the CPU and on CUDA devices take the package's kernels; what is traced, transformed, of mixed dtypes,
or differentiated in anything but the logits is handed to PyTorch's own operations.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .. import binary
from . import cache, calls, private
from .bridge import array, on_torchs_threads, tensor

_REDUCTIONS = ("none", "mean", "sum")


def binary_cross_entropy_with_logits(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """What `torch.nn.functional.binary_cross_entropy_with_logits` returns and raises, with every digit.

    Parameters
    ----------
    input, target, weight, size_average, reduce, reduction, pos_weight
        As PyTorch's.

    Returns
    -------
    Tensor
        In nats, as PyTorch's; but a weight of 0, or a target that rules it out, leaves nothing of an infinite logit,
        which is NaN there.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As PyTorch's function.

    Examples
    --------
    >>> import torch, crossentropy.torch
    >>> crossentropy.torch.binary_cross_entropy_with_logits(torch.tensor([50.0]), torch.tensor([1.0])).item()
    1.9287498933537385e-22
    """
    legacy = size_average is not None or reduce is not None
    if legacy or not _are_ours(input, target, reduction, weight, pos_weight):
        return F.binary_cross_entropy_with_logits(
            input, target, weight, size_average, reduce, reduction, pos_weight=pos_weight
        )
    return _Binary.apply(input, target, weight, pos_weight, None, 0.0, reduction)


def sigmoid_focal_loss(
    inputs: torch.Tensor, targets: torch.Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> torch.Tensor:
    """What `torchvision.ops.sigmoid_focal_loss` returns, without torchvision.

    Parameters
    ----------
    inputs, targets : Tensor
        Logits of any shape, and as many targets, of the same dtype.
    alpha : float, default 0.25
        Positives count alpha, negatives 1 - alpha; below 0 all count 1.
    gamma : float, default 2
        Of the factor (1 - p_t)^gamma.
    reduction : {'none', 'mean', 'sum'}

    Returns
    -------
    Tensor
        In nats, of the shape of the logits, or a scalar.

    Raises
    ------
    ValueError
        For another reduction.

    References
    ----------
    Lin, Goyal, Girshick, He, Dollár: Focal loss for dense object detection, ICCV 2017.

    Examples
    --------
    >>> import torch, crossentropy.torch
    >>> crossentropy.torch.sigmoid_focal_loss(torch.tensor([0.0]), torch.tensor([1.0]))
    tensor([0.0433])
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of 'none', 'mean', 'sum', got {reduction!r}")
    plain = isinstance(alpha, (int, float)) and isinstance(gamma, (int, float)) and alpha <= 1 and 0 <= gamma < 1e300
    if not plain or not _are_ours(inputs, targets, reduction, None, None):
        return composed_focal(inputs, targets, alpha, gamma, reduction)
    return _Binary.apply(inputs, targets, None, None, None if alpha < 0 else float(alpha), float(gamma), reduction)


def composed_focal(inputs, targets, alpha, gamma, reduction) -> torch.Tensor:
    """The focal loss by PyTorch's own operations, for what the kernels are not for."""
    p = torch.sigmoid(inputs)
    q = p * (1 - targets) + (1 - p) * targets
    loss = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none") * q**gamma
    if alpha >= 0:
        loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


def _are_ours(input, target, reduction, *weights) -> bool:
    if (
        not calls.is_ours(input)
        or input.is_meta
        or not isinstance(target, torch.Tensor)
        or reduction not in _REDUCTIONS
    ):
        return False
    if target.device != input.device or target.dtype != input.dtype or target.shape != input.shape or not input.numel():
        return False
    beside = [t for t in weights if t is not None]
    if private.are_transforms_active() or private.is_forward_mode() or private.is_traced(input, target, *beside):
        return False
    if calls.computed_dtype(input) != input.dtype or (target.requires_grad and torch.is_grad_enabled()):
        return False
    for w in beside:
        if w.dtype != input.dtype or w.device != input.device or (w.requires_grad and torch.is_grad_enabled()):
            return False
        # PyTorch's result has the shape of all of them together, and a weight may be infinite: on a device, where one
        # would have to wait to see that, the kernels take it as PyTorch does
        sizes = zip(w.shape[::-1], input.shape[::-1], strict=False)
        if w.dim() > input.dim() or any(n not in (1, most) for n, most in sizes):
            return False
        if w.is_cpu and not torch.isfinite(w).all():
            return False
    return True


def _computed(input, target, weight, pos_weight, alpha, gamma, reduction, grad_output=None, wants_grad=False):
    """(the loss, the gradient times what arrives, or None)."""
    w, r = (None if t is None else array(t) for t in (weight, pos_weight))
    call = binary.called(array(input), array(target), w, r, reduction, alpha, gamma)
    with on_torchs_threads(input):
        if not wants_grad:
            return tensor(binary.losses(call)).to(input.dtype), None
        grad = cache.empty_like(input)
        arriving = 1.0
        if grad_output is not None:  # a number of a device stays there: to ask for it would wait
            arriving = array(grad_output) if grad_output.dim() or grad_output.is_cuda else float(grad_output)
        return tensor(binary.with_gradient(call, arriving, array(grad)).loss).to(input.dtype), grad


class _Binary(torch.autograd.Function):
    """The gradient of a mean or a sum comes with the loss; of 16 bits, many losses, or on a device, in the backward."""

    @staticmethod
    def forward(ctx, input, target, weight, pos_weight, *how):
        at_once = ctx.needs_input_grad[0] and how[-1] != "none" and input.itemsize > 2 and input.is_cpu
        loss, ctx.grad = _computed(input, target, weight, pos_weight, *how, wants_grad=at_once)
        ctx.save_for_backward(input, target, weight, pos_weight)
        ctx.how = how
        return loss

    @staticmethod
    def backward(ctx, grad_loss):
        given = ctx.saved_tensors  # raises where one of them was changed
        if torch.is_grad_enabled():  # the gradient is to be differentiated
            grad = _differentiable(grad_loss, *given, *ctx.how)
        elif ctx.grad is None or private.keeps_graph():
            grad = _computed(*given, *ctx.how, grad_output=grad_loss, wants_grad=True)[1]
        else:
            grad, ctx.grad = ctx.grad, None
            if (by := float(grad_loss)) != 1:
                grad.mul_(by)
        return grad, *[None] * 6


def _differentiable(grad_loss, input, target, weight, pos_weight, alpha, gamma, reduction):
    with torch.enable_grad():
        z = input if input.requires_grad else input.detach().requires_grad_()
        if gamma or alpha is not None:
            loss = composed_focal(z, target, -1 if alpha is None else alpha, gamma, reduction)
        else:
            loss = F.binary_cross_entropy_with_logits(z, target, weight, reduction=reduction, pos_weight=pos_weight)
        return torch.autograd.grad(loss, z, grad_loss, create_graph=True)[0]
