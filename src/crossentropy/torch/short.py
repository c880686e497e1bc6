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
_TENSORS = frozenset((torch.Tensor, torch.nn.Parameter))


def cross_entropy(input, target, ignore_index) -> torch.Tensor | None:
    """The loss of such a call, differentiable in the logits; None for any other call."""
    if type(input) not in _TENSORS or type(target) not in _TENSORS or private.is_watched():
        return None
    input, target = private.unwrapped(input), private.unwrapped(target)
    if not (
        input.is_cpu
        and target.is_cpu
        and input.dtype in _MOST
        and target.dtype in _CLASSES
        and input.layout is torch.strided
        and target.layout is torch.strided
        and not (input.is_nested or target.is_nested or input.is_neg())
    ):
        return None
    if input.dim() != 2 or target.dim() != 1:
        return None
    rows, classes = input.shape
    if target.numel() != rows or not 0 < rows * classes < _MOST[input.dtype]:
        return None
    options = PLAIN
    if type(ignore_index) is not int or ignore_index != PLAIN.ignore_index:
        if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
            return None
        options = PLAIN._replace(ignore_index=ignore_index)
    differentiates = input.requires_grad and torch.is_grad_enabled()
    if differentiates and private.has_hooks_on_saved_tensors():
        return None
    found = bridge.light(input, target, rows, classes, differentiates) if ignore_index < 0 else None
    if not differentiates:
        return bridge.loss(input, target, NO_WEIGHTS, options) if found is None else found[1]
    number, loss, grad = found or bridge.at_once(input, target, NO_WEIGHTS, options)
    kept = number, options, (input, target), (input._version, target._version)
    return eager.apply_at_once(input, (loss, grad, kept))
