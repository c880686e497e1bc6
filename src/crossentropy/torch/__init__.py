"""PyTorch's cross-entropy with this package's kernels: change one import, keep the results.

    >>> from crossentropy.torch import cross_entropy, log_softmax, CrossEntropyLoss

They take what PyTorch's functions and module of these names take and return what these return; docs/torch.md lists
every difference. Tensors on the CPU and on CUDA devices, float32, float64, bfloat16 and float16. What these kernels are
not made for (forward-mode AD, the transforms of `torch.func`, gradients on probability targets, other dtypes and
devices) is handed to PyTorch's own function.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: crossentropy.torch needs it; pip install 'crossentropy[torch]'") from None
from torch.nn import _reduction
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from .. import backends
from . import ops, private
from .kernels import Options, class_axis
from .memory import empty_cache

__all__ = ["CrossEntropyLoss", "cross_entropy", "empty_cache", "log_softmax"]

_FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_SHORT = frozenset((torch.bfloat16, torch.float16))
_INTEGERS = frozenset(
    (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
)
_DEVICES = frozenset(("cpu", "cuda", "meta"))
_REDUCTIONS = ("none", "mean", "sum")  # in the order of PyTorch's numbers for them


def cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
    *,
    z_loss=0.0,
    inplace=False,
):
    """Cross-entropy of targets against the softmax of logits, as `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, ...)
        Logits, in any strides.
    target : Tensor
        Classes: any integer dtype, shape (), (N,) or (N, d1, ...). Or probabilities: floating, of the shape of
        ``input``.
    weight : Tensor, shape (C,), optional
        Of the classes: w_c >= 0, finite.
    size_average, reduce : bool, optional
        Deprecated, as in PyTorch.
    ignore_index : int, default -100
        Rows with this target do not count.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides by the sum of the weights of the rows' targets that count; by N for probabilities.
    label_smoothing : float in [0, 1], default 0
        epsilon: targets become (1 - epsilon) of themselves plus epsilon / C.
    z_loss : float >= 0, default 0
        lambda: adds lambda logsumexp(z)^2 to each row that counts. Not in PyTorch.
    inplace : bool, default False
        Allow the gradient to be written over ``input``, whose values are gone then: no memory is needed for it. Ignored
        where nothing is differentiated and where the call is traced. Not in PyTorch.

    Returns
    -------
    Tensor
        In nats: a scalar, or of the rows' shape with ``reduction='none'``; of PyTorch's result dtype.

    Raises
    ------
    RuntimeError, ValueError, IndexError, TypeError
        Where PyTorch raises it; ValueError also for weights or a ``z_loss`` outside their rules.

    Notes
    -----
    Eq. 5 and 6 of the note for a row, the cost c(b) of its algorithm 1 for the mean; the gradient is derived in
    ``docs/derivation.md``, section 3. The forward keeps the logits and three numbers a row, the backward recomputes the
    probabilities from these.
    """
    if has_torch_function_variadic(input, target, weight):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            inplace=inplace,
        )
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if reduction not in _REDUCTIONS:
        reduction = _REDUCTIONS[_reduction.get_enum(reduction)]  # an old name, or PyTorch's ValueError
    if not 0 <= z_loss < math.inf:
        raise ValueError(f"z_loss must be finite and not negative, got {z_loss!r}")
    if not _are_ours(input, target, weight):
        return _by_torch(input, target, weight, ignore_index, reduction, label_smoothing, z_loss)
    if type(ignore_index) is not int or type(label_smoothing) is not float:
        ignore_index, label_smoothing = _number(operator.index, ignore_index), _number(float, label_smoothing)
    if problem := _problem(input, target, weight, ignore_index, label_smoothing):
        _refuse(problem, input, target, weight, ignore_index, reduction, label_smoothing)
    if weight is not None and not weight.is_floating_point():
        weight = weight.to(input.dtype)
    if input.dim() == 1 and not target.is_floating_point():
        target = target.reshape(())  # PyTorch takes shape (1,), too
    if _is_differentiated_otherwise(target, weight):
        target, weight = _as_torch_wants(input, target, weight)
        return _by_torch(input, target, weight, ignore_index, reduction, label_smoothing, z_loss)
    options = Options(ignore_index, label_smoothing, float(z_loss), reduction)
    loss = ops.call_cross_entropy(input, target, weight, options, inplace)
    dtype = _result_dtype(input, target, weight)
    return loss if loss.dtype is dtype else loss.to(dtype)


def log_softmax(input, dim=None, _stacklevel=3, dtype=None):
    """Log of the softmax, z_c - logsumexp(z), as `torch.nn.functional.log_softmax`.

    Parameters
    ----------
    input : Tensor
        Logits.
    dim : int
        The class axis. Leaving it out is deprecated, as in PyTorch.
    dtype : torch.dtype, optional
        What the logits are converted to first.

    Returns
    -------
    Tensor
        Of the shape of ``input``, in nats.

    Raises
    ------
    RuntimeError, IndexError, TypeError
        Where PyTorch raises it.

    Notes
    -----
    ``docs/derivation.md``, section 1.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(log_softmax, (input,), input, dim=dim, _stacklevel=_stacklevel, dtype=dtype)
    if dim is None:
        dim = 0 if input.dim() in (0, 1, 3) else 1
        message = "Implicit dimension choice for log_softmax has been deprecated. Change the call to include dim=X."
        warnings.warn(message, stacklevel=_stacklevel - 1)
    if not (_are_ours(input) and type(dim) is int and -input.dim() <= dim < input.dim() and input.shape[dim] > 0):
        return F.log_softmax(input, dim, dtype=dtype)
    if (dtype is not None and dtype not in _FLOATS) or _is_differentiated_otherwise():
        return F.log_softmax(input, dim, dtype=dtype)
    z = input if dtype is None else input.to(dtype)
    if dtype is None and z.is_cuda and _cast(z) is not z.dtype:
        z = z.float()  # as PyTorch does there, though not on the CPU
    return ops.call_log_softmax(z, dim % z.dim())


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """The module of `cross_entropy`, as `torch.nn.CrossEntropyLoss`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        Those of `cross_entropy`.
    z_loss : float >= 0, default 0
        As for `cross_entropy`.
    inplace : bool, default False
        As for `cross_entropy`.

    Notes
    -----
    Called with ``input`` and ``target``; raises what `cross_entropy` raises.
    """

    def __init__(
        self,
        weight=None,
        size_average=None,
        ignore_index=-100,
        reduce=None,
        reduction="mean",
        label_smoothing=0.0,
        *,
        z_loss=0.0,
        inplace=False,
    ):
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss, self.inplace = z_loss, inplace

    def forward(self, input, target):
        """The loss of `cross_entropy`."""
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            inplace=self.inplace,
        )


# ---------------------------------------------------------------------- whose a call is


def _are_ours(input, *others) -> bool:
    """Whether the kernels are made for such tensors; PyTorch's function takes the rest, or raises."""
    if not isinstance(input, torch.Tensor) or input.dtype not in _FLOATS or input.device.type not in _DEVICES:
        return False
    if input.layout is not torch.strided or input.is_nested or input.dim() == 0 or private.is_wrapper(input):
        return False
    if input.is_cuda and _lacks_cuda():
        return False
    for place, other in enumerate(others):
        if other is None and place > 0:  # a weight
            continue
        if not isinstance(other, torch.Tensor) or other.device != input.device or other.layout is not torch.strided:
            return False
        if (other.is_floating_point() and other.dtype not in _FLOATS) or private.is_wrapper(other):
            return False
    return input.shape[class_axis(input)] > 0


@functools.cache
def _lacks_cuda() -> bool:
    """Whether there is no backend for tensors on a device, of which it warns once."""
    reason = "it knows NVIDIA's devices alone" if torch.version.hip else backends()[-1].reason
    if reason:
        message = f"crossentropy.torch leaves tensors on a device to PyTorch's own functions: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    return bool(reason)


def _is_differentiated_otherwise(*others) -> bool:
    """Whether by anything but reverse mode on the logits: the kernels have the derivatives of that alone."""
    if private.are_transforms_active() or private.is_forward_mode():
        return True
    return torch.is_grad_enabled() and any(other is not None and other.requires_grad for other in others)


def _number(convert, value):
    """A number as Python has it; as it is, where PyTorch takes it for none."""
    if isinstance(value, str) or (isinstance(value, bool) and convert is operator.index):
        return value
    try:
        return convert(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def _as_torch_wants(input, target, weight):
    """Classes and their weights in the dtypes that it takes."""
    if target.is_floating_point():
        return target, weight
    return target.long(), None if weight is None else weight.to(input.dtype)


def _by_torch(input, target, weight, ignore_index, reduction, label_smoothing, z_loss=0.0):
    """PyTorch's own function, with a z-loss."""
    loss = F.cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
    if z_loss == 0:
        return loss
    axis, counts = class_axis(input), None
    if not target.is_floating_point():  # rows that do not count may hold anything
        counts = target != ignore_index
        input = torch.where(counts.unsqueeze(axis), input, 0)
    z = z_loss * torch.logsumexp(input, axis) ** 2
    if counts is not None:
        z = torch.where(counts, z, 0)
    if reduction == "none":
        return loss + z
    if reduction == "sum":
        return loss + z.sum()
    if target.is_floating_point():
        return loss + z.mean()
    weights = torch.ones_like(z) if weight is None else weight[torch.where(counts, target, 0)]
    return loss + z.sum() / torch.where(counts, weights, 0).sum()


def _problem(input, target, weight, ignore_index, label_smoothing) -> str:
    """What is wrong with a call, in words; empty where nothing is."""
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
        return f"ignore_index must be an integer of 64 bits, got {ignore_index!r}"
    if type(label_smoothing) is not float or not 0 <= label_smoothing <= 1:
        return f"label_smoothing must be in [0, 1], got {label_smoothing!r}"
    shape, axis = input.shape, class_axis(input)
    rows = (*shape[:axis], *shape[axis + 1 :])
    if weight is not None and (weight.shape != shape[axis : axis + 1] or weight.is_complex()):
        return f"weight must be real of shape ({shape[axis]},), got {weight.dtype} {tuple(weight.shape)}"
    if target.shape == shape:  # PyTorch goes by the shape
        if not target.is_floating_point():
            return f"a target of the shape of input is probabilities and must be floating, got {target.dtype}"
        return "ignore_index is for class targets" if ignore_index >= 0 else ""
    if weight is not None and not weight.is_floating_point():
        return f"weight must be floating with a target of classes, got {weight.dtype}"
    if target.dtype not in _INTEGERS:
        return f"a target of classes must have an integer dtype, got {target.dtype}"
    if target.shape != rows and not (len(shape) == 1 and target.shape == (1,)):
        return f"target must have shape {rows}, or that of input, {tuple(shape)}, got {tuple(target.shape)}"
    return ""


def _refuse(problem, *arguments):
    """Raise what PyTorch raises for the call; where it goes on in silence, a RuntimeError."""
    with torch.no_grad():
        _by_torch(*arguments)
    raise RuntimeError(problem)


def _result_dtype(input, target, weight):
    dtype = _cast(input)
    if not target.is_floating_point():
        return dtype
    dtype = torch.promote_types(dtype, _cast(target))
    return dtype if weight is None else torch.promote_types(dtype, _cast(weight))


def _cast(x):
    """The dtype in which PyTorch computes: under autocast it takes 16-bit types as float32."""
    short = x.dtype in _SHORT and not x.is_meta and torch.is_autocast_enabled(x.device.type)
    return torch.float32 if short else x.dtype
