"""Whether a call is for the kernels or for PyTorch's own function, and what is wrong with its arguments."""

from __future__ import annotations

import functools
import operator
import warnings

import torch

from .. import backends
from .._options import DEFAULTS, EXTRAS, OPTIONS, unknown
from . import private
from .bridge import Options, class_axis
from .composed import by_torch

FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_SHORT = frozenset((torch.bfloat16, torch.float16))
INTEGERS = frozenset(
    (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
)


def are_ours(input, target, weight=None) -> bool:
    """Whether the kernels take such tensors; others are handed to PyTorch's function, which may raise."""
    return is_ours(input) and is_beside(input, target) and (weight is None or is_beside(input, weight))


def is_ours(input) -> bool:
    """Whether the kernels take such logits."""
    if not isinstance(input, torch.Tensor) or input.dtype not in FLOATS:
        return False
    if not (input.is_cpu or input.is_cuda or input.is_meta):
        return False
    if input.layout is not torch.strided or input.is_nested or input.dim() == 0 or private.is_wrapper(input):
        return False
    if input.is_cuda and lacks_cuda():
        return False
    return input.shape[class_axis(input)] > 0


def is_beside(input, other) -> bool:
    """Whether a target or a weight is dense, of a dtype that the kernels take, and on the device of the logits."""
    if not isinstance(other, torch.Tensor) or other.device != input.device or other.layout is not torch.strided:
        return False
    return not (other.is_floating_point() and other.dtype not in FLOATS) and not private.is_wrapper(other)


@functools.cache
def lacks_cuda() -> bool:
    """Whether no backend here takes tensors on a device; warns once if so."""
    reason = "it knows NVIDIA's devices alone" if torch.version.hip else backends()[-1].reason
    if reason:
        message = f"crossentropy.torch leaves tensors on a device to PyTorch's own functions: {reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)
    return bool(reason)


def is_pytorchs(target=None, weight=None) -> bool:
    """Whether PyTorch's own function has to be called whatever the tensors hold.

    For differentiation by anything but reverse mode on the logits, all that the kernels support, and for ONNX.
    """
    if private.are_transforms_active() or private.is_forward_mode() or private.is_onnx_export():
        return True
    wanted = (target is not None and target.requires_grad) or (weight is not None and weight.requires_grad)
    return wanted and torch.is_grad_enabled()


def as_number(convert, value):
    """``value`` as a Python number by ``convert``; unchanged where PyTorch would refuse it, so that `problem` does."""
    if isinstance(value, str) or (isinstance(value, bool) and convert is operator.index):
        return value
    try:
        return convert(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def extras(function: str, given: dict, more: tuple[str, ...]) -> dict:
    """The options beyond PyTorch's, checked; a TypeError for what is none, with a hint from ``more`` keywords, too."""
    for name in given:
        if name not in EXTRAS:
            raise unknown(function, name, (*EXTRAS, *more))
    return {name: OPTIONS[name].rule(given[name], name) if name in given else DEFAULTS[name] for name in EXTRAS}


def problem(input, target, weight, options: Options) -> str:
    """What is wrong with a call, in words; empty where nothing is."""
    ignore_index, label_smoothing = options.ignore_index, options.label_smoothing
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
        return f"ignore_index must be an integer of 64 bits, got {ignore_index!r}"
    if type(label_smoothing) is not float or not 0 <= label_smoothing <= 1:
        return f"label_smoothing must be in [0, 1], got {label_smoothing!r}"
    shape, axis = input.shape, class_axis(input)
    rows = (*shape[:axis], *shape[axis + 1 :])
    if weight is not None and (weight.shape != shape[axis : axis + 1] or weight.is_complex()):
        return f"weight must be real of shape ({shape[axis]},), got {weight.dtype} {tuple(weight.shape)}"
    if target.shape == shape:  # the shape, not the dtype, tells PyTorch that these are probabilities
        if not target.is_floating_point():
            return f"a target of the shape of input is probabilities and must be floating, got {target.dtype}"
        return "ignore_index is for class targets" if ignore_index >= 0 else ""
    if weight is not None and not weight.is_floating_point():
        return f"weight must be floating with a target of classes, got {weight.dtype}"
    if target.dtype not in INTEGERS:
        return f"a target of classes must have an integer dtype, got {target.dtype}"
    if target.shape != rows and not (len(shape) == 1 and target.shape == (1,)):
        return f"target must have shape {rows}, or that of input, {tuple(shape)}, got {tuple(target.shape)}"
    return ""


def refuse(problem, input, target, weight, options: Options):
    """Raise what PyTorch raises for the call; where it goes on in silence, a RuntimeError."""
    with torch.no_grad():
        by_torch(input, target, weight, options._replace(**{name: DEFAULTS[name] for name in EXTRAS}))
    raise RuntimeError(problem)


def result_dtype_named(dtype):
    """The ``dtype`` of a call, if a loss can be of it; None stands for PyTorch's."""
    if dtype is not None and dtype not in FLOATS:
        names = ", ".join(sorted(map(str, FLOATS)))
        raise TypeError(f"dtype must be None or one of {names}, got {dtype!r}")
    return dtype


def converted(input, dtype):
    """The logits in ``dtype``, or as they are where a float32 loss of 16-bit logits is wanted, as it is inside."""
    result_dtype_named(dtype)
    if not isinstance(input, torch.Tensor) or (dtype is torch.float32 and input.dtype in _SHORT):
        return input
    return input.to(dtype)


def is_negative(weight) -> bool:
    """Whether a class weight is negative."""
    return weight is not None and bool((weight < 0).any())


def result_dtype(input, target, weight):
    """The dtype of PyTorch's loss."""
    dtype = computed_dtype(input)
    if not target.is_floating_point():
        return dtype
    dtype = torch.promote_types(dtype, computed_dtype(target))
    return dtype if weight is None else torch.promote_types(dtype, computed_dtype(weight))


def computed_dtype(x):
    """The dtype in which PyTorch computes: under autocast it takes 16-bit types as float32."""
    short = x.dtype in _SHORT and not x.is_meta and torch.is_autocast_enabled(x.device.type)
    return torch.float32 if short else x.dtype
