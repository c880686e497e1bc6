"""Whether a call is for the kernels or for PyTorch's own function, and what is wrong with its arguments."""

from __future__ import annotations

import functools
import inspect
import operator
import warnings

import torch

from .. import backends
from .._options import DEFAULTS, EXTRAS, OPTIONS, unknown
from . import private
from .bridge import NO_WEIGHTS, Options, Weights, class_axis
from .composed import by_torch

FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
_SHORT = frozenset((torch.bfloat16, torch.float16))
_NEED_CLASSES = tuple(name for name in EXTRAS if OPTIONS[name].needs_index)
INTEGERS = frozenset(
    (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
)


def are_ours(input, target, weights: Weights) -> bool:
    """Whether the kernels take such tensors; others are handed to PyTorch's function, which may raise."""
    return is_ours(input) and is_beside(input, target) and all(t is None or is_beside(input, t) for t in weights)


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


def is_pytorchs(*beside) -> bool:
    """Whether PyTorch's own function has to be called whatever the tensors hold.

    For differentiation by anything but reverse mode on the logits, all that the kernels support, and for ONNX.
    """
    if private.are_transforms_active() or private.is_forward_mode() or private.is_onnx_export():
        return True
    return any(t is not None and t.requires_grad for t in beside) and torch.is_grad_enabled()


def as_number(convert, value):
    """``value`` as a Python number by ``convert``; unchanged where PyTorch would refuse it, so that `problem` does."""
    if isinstance(value, str) or (isinstance(value, bool) and convert is operator.index):
        return value
    try:
        return convert(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def keywords_of(function) -> tuple[str, ...]:
    """The arguments of a function beside the options beyond PyTorch's, for the hint at a misspelt one."""
    found = inspect.signature(function).parameters.values()
    return tuple(p.name for p in found if p.kind is not p.VAR_KEYWORD and p.name not in EXTRAS)


def extras(function: str, given: dict, more: tuple[str, ...]) -> dict:
    """The options beyond PyTorch's, checked; a TypeError for what is none, with a hint from ``more`` keywords, too."""
    for name in given:
        if name not in EXTRAS:
            raise unknown(function, name, (*EXTRAS, *more))
    return {name: OPTIONS[name].rule(given[name], name) if name in given else DEFAULTS[name] for name in EXTRAS}


def weights_given(weight, class_prior, sample_weight, where) -> Weights:
    """What is beside the target of a call, as far as it can be told without the logits."""
    if class_prior is None and sample_weight is None and where is None:
        return NO_WEIGHTS if weight is None else Weights(weight)
    for name, t in (("class_prior", class_prior), ("sample_weight", sample_weight), ("where", where)):
        if t is not None and not isinstance(t, torch.Tensor):
            raise TypeError(f"{name} must be a tensor or None, got {type(t).__name__}")
    if where is None:
        if sample_weight is not None and sample_weight.dtype is torch.bool:
            sample_weight = sample_weight.float()
        return Weights(weight, class_prior, sample_weight)
    if where.dtype is not torch.bool:
        raise TypeError(f"where must be boolean, got {where.dtype}")
    if sample_weight is None:
        return Weights(weight, class_prior, where.float())
    if sample_weight.shape != where.shape:
        shapes = f"{tuple(where.shape)} and {tuple(sample_weight.shape)}"
        raise ValueError(f"where and sample_weight must have the rows' shape, got {shapes}")
    return Weights(weight, class_prior, torch.where(where, sample_weight, 0).to(sample_weight.dtype))


def normalizer_given(normalizer, reduction: str):
    """(the number that 'mean' divides by, the tensor that a sum is to be divided by): one of them, or none.

    A tensor's number is asked for where that waits for no device, and where nothing traces or differentiates it.
    """
    if normalizer is None:
        return None, None
    if reduction != "mean":
        raise ValueError(f"normalizer goes with reduction='mean', got reduction={reduction!r}")
    if not isinstance(normalizer, torch.Tensor):
        return OPTIONS["normalizer"].rule(normalizer, "normalizer"), None
    if normalizer.dim() != 0:
        raise ValueError(f"normalizer must be a number or a tensor without axes, got shape {tuple(normalizer.shape)}")
    if normalizer.is_cpu and not normalizer.requires_grad and not private.is_traced(normalizer):
        return OPTIONS["normalizer"].rule(normalizer.item(), "normalizer"), None
    return None, normalizer


def options_given(function: str, given: dict, more, ignore_index, label_smoothing, normalizer, reduction: str):
    """(the options of a call, checked as `extras` does; the tensor that its loss is to be divided by, or None)."""
    number, divisor = normalizer_given(normalizer, reduction)
    by = reduction if divisor is None else "sum"
    beyond = extras(function, given, more)
    return Options(ignore_index, label_smoothing, **beyond, normalizer=number, reduction=by), divisor


def problem_beside(shape, rows, weights: Weights, options: Options, are_classes: bool) -> str:
    """What is wrong with what PyTorch's function lacks, of so many classes and rows; empty where nothing is."""
    if weights is NO_WEIGHTS and are_classes:
        return ""
    _, prior, v = weights
    if prior is not None and (tuple(prior.shape) != tuple(shape) or not prior.is_floating_point()):
        return f"class_prior must be floating of shape {tuple(shape)}, got {prior.dtype} {tuple(prior.shape)}"
    if v is not None and (tuple(v.shape) != tuple(rows) or v.is_complex()):
        return f"sample_weight must be real of the rows' shape, {tuple(rows)}, got {v.dtype} {tuple(v.shape)}"
    for name in () if are_classes else _NEED_CLASSES:
        if getattr(options, name) != DEFAULTS[name]:
            return f"{name} is for class targets"
    return ""


def problem(input, target, weights: Weights, options: Options) -> str:
    """What is wrong with a call, in words; empty where nothing is."""
    weight = weights.weight
    ignore_index, label_smoothing = options.ignore_index, options.label_smoothing
    if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
        return f"ignore_index must be an integer of 64 bits, got {ignore_index!r}"
    if type(label_smoothing) is not float or not 0 <= label_smoothing <= 1:
        return f"label_smoothing must be in [0, 1], got {label_smoothing!r}"
    shape, axis = input.shape, class_axis(input)
    rows = (*shape[:axis], *shape[axis + 1 :])
    if weight is not None and (weight.shape != shape[axis : axis + 1] or weight.is_complex()):
        return f"weight must be real of shape ({shape[axis]},), got {weight.dtype} {tuple(weight.shape)}"
    are_classes = target.shape != shape
    if found := problem_beside(shape[axis : axis + 1], rows, weights, options, are_classes):
        raise ValueError(found)
    if not are_classes:  # the shape, not the dtype, tells PyTorch that these are probabilities
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


def refuse(problem, input, target, weights: Weights, options: Options):
    """Raise what PyTorch raises for the call; where it goes on in silence, a RuntimeError."""
    plain = options._replace(normalizer=None, **{name: DEFAULTS[name] for name in EXTRAS})
    with torch.no_grad():
        by_torch(input, target, Weights(weights.weight), plain)
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
