"""The short way of a plain small loss: what decides that a call is one, in a few looks at its tensors.

Such a call is the mean over rows of classes, with no option but ``ignore_index``. Its kernel takes two microseconds,
and the questions that other calls need (calls.py, eager.py) eight: here they are asked of this one kind. A call that is
not of it goes the long way, which also says what is wrong with a bad one.
"""

from __future__ import annotations

import torch

from . import bridge, cache, eager, private
from .bridge import NO_WEIGHTS, PLAIN

_MOST = {torch.float32: cache.LARGE // 4, torch.float64: cache.LARGE // 8}  # elements
_CLASSES = frozenset((torch.int64, torch.int32, torch.int16, torch.int8))


def cross_entropy(input, target, ignore_index) -> torch.Tensor | None:
    """The loss of such a call, differentiable in the logits; None for any other call."""
    if not (isinstance(input, torch.Tensor) and isinstance(target, torch.Tensor)) or private.is_traced(input, target):
        return None
    input, target = private.unwrapped(input), private.unwrapped(target)
    if not (
        input.dtype in _MOST
        and target.dtype in _CLASSES
        and input.is_cpu
        and target.is_cpu
        and not (input.is_nested or target.is_nested)
        and input.dim() == 2
        and target.dim() == 1
        and input.size(0) == target.size(0)
        and 0 < input.numel() < _MOST[input.dtype]
        and input.layout is torch.strided
        and target.layout is torch.strided
        and not input.is_neg()
        and type(ignore_index) is int
        and -(2**63) <= ignore_index < 2**63
    ):
        return None
    if private.are_transforms_active() or private.is_forward_mode():
        return None
    options = PLAIN if ignore_index == PLAIN.ignore_index else PLAIN._replace(ignore_index=ignore_index)
    differentiates = input.requires_grad and torch.is_grad_enabled()
    if differentiates and not eager.is_at_once(input, options):
        return None
    found = bridge.light(input, target, differentiates) if ignore_index < 0 else None
    if not differentiates:
        return bridge.loss(input, target, NO_WEIGHTS, options) if found is None else found[1]
    return eager.found_at_once(input, target, options, found)
