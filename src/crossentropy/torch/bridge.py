"""The package's functions on tensors, without differentiation: the eager calls and the operators both end here.

NumPy arrays share the memory of tensors on the CPU; tensors on a device are passed on. Nothing is copied.
"""

from __future__ import annotations

import contextlib
import functools
from collections import namedtuple
from typing import NamedTuple

import numpy as np
import torch

from .. import autograd, config, cross_entropy, cross_entropy_and_grad
from .. import log_softmax as log_softmax_of_array
from .._backends import registry
from .._options import DEFAULTS, EXTRAS
from .._settings import once, threads
from . import cache, kept

# Elements: a smaller call takes one thread, whatever the settings are.
SERIAL_BELOW = 2**15


# The options of a loss, in the order in which operators have them: PyTorch's own, and between them those beyond it.
Options = namedtuple("Options", ["ignore_index", "label_smoothing", *EXTRAS, "normalizer", "reduction"])
PLAIN = Options(-100, *(DEFAULTS[name] for name in Options._fields[1:]))


class Weights(NamedTuple):
    """The tensors that a loss takes beside its target, in the order in which operators have them."""

    weight: torch.Tensor | None = None  # of the classes, as PyTorch calls it
    class_prior: torch.Tensor | None = None
    sample_weight: torch.Tensor | None = None  # of the rows


NO_WEIGHTS = Weights()


def weights_of(tensors) -> Weights:
    """The tensors beside a target."""
    return NO_WEIGHTS if all(t is None for t in tensors) else Weights(*tensors)


_PLAIN = {"ignore_index": PLAIN.ignore_index}


def class_axis(x: torch.Tensor) -> int:
    """The axis along which PyTorch's cross_entropy has the classes."""
    return 0 if x.dim() == 1 else 1


def loss_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of the package's losses: float64 for logits of float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@functools.cache
def bfloat16() -> np.dtype:
    """The dtype of NumPy arrays of bfloat16."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def array(x: torch.Tensor):
    """The tensor as the package's functions take it, in the same memory."""
    x = x.detach() if x.requires_grad else x
    x = x.resolve_neg() if x.is_neg() else x
    if x.is_cuda:
        return x
    return x.view(torch.uint16).numpy().view(bfloat16()) if x.dtype == torch.bfloat16 else x.numpy()


def host_array(x: torch.Tensor) -> np.ndarray:
    """The tensor as a NumPy array, from a device in memory of its own."""
    return array(x.detach().cpu())


def tensor(a) -> torch.Tensor:
    """A result of the package's functions as a tensor, in the same memory."""
    return a if isinstance(a, torch.Tensor) else torch.from_numpy(np.asarray(a))


_AS_IT_IS = contextlib.nullcontext()


def on_torchs_threads(x: torch.Tensor, elements: int | None = None):
    """A context with no more threads than PyTorch takes, which a program (a data loader's worker) may have limited.

    ``elements`` are those of the logits, where x is not them.
    """
    if (
        x.is_cuda
        or (x.numel() if elements is None else elements) < SERIAL_BELOW
        or threads() <= torch.get_num_threads()
    ):
        return _AS_IT_IS
    return _limited(torch.get_num_threads())


@functools.cache
def _limited(count: int) -> config:
    """The settings of so many threads, which any number of calls may be within."""
    return config(threads=count)


def _named(input, target, weights: Weights, options: Options) -> dict:
    """The options as keyword arguments of the package's functions."""
    return (
        options._asdict()
        | arrays_named(weights)
        | {
            "axis": class_axis(input),
            "ignore_index": None if target.is_floating_point() else options.ignore_index,
        }
    )


def arrays_named(weights: Weights) -> dict:
    """The tensors beside the target, as keyword arguments of the package's functions."""
    if weights is NO_WEIGHTS:
        return {}
    found = {name: array(t) for name, t in weights._asdict().items() if t is not None}
    return {"class_weight" if name == "weight" else name: a for name, a in found.items()}


def loss(input, target, weights: Weights, options: Options) -> torch.Tensor:
    """The loss, for a call that nothing differentiates."""
    if weights is NO_WEIGHTS and options is PLAIN and not target.is_floating_point() and input.dim() == 2:
        x = array(input)
        with on_torchs_threads(input):
            return tensor(cross_entropy(x, target.numpy(), **_PLAIN))
    with on_torchs_threads(input):
        return tensor(cross_entropy(array(input), array(target), **_named(input, target, weights, options)))


def forward(input, target, weights: Weights, options: Options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, and what `backward` needs: statistics, divisor."""
    with on_torchs_threads(input):
        found, saved = autograd.forward(array(input), array(target), **_named(input, target, weights, options))
    statistics, divisor = autograd.numbers_of(saved)
    statistics = tensor(statistics)
    if divisor is None:  # it follows from the reduction and the number of rows
        divisor = statistics.new_full((), len(statistics) if options.reduction == "mean" else 1)
    return tensor(found), statistics, tensor(divisor)


def backward(
    grad_loss, input, target, weights: Weights, statistics, divisor, options: Options, out=None, *, checks=False
) -> torch.Tensor:
    """The gradient on the logits; into ``out`` where that is given; ``checks`` that the logits are still the same."""
    out = cache.empty_like(input) if out is None else out
    with on_torchs_threads(input):
        saved = _restored(input, target, weights, statistics, divisor, options)
        if checks and not input.is_cuda:
            kept.check(saved)
        autograd.backward(saved, array(grad_loss), out=array(out))
    return out


def _restored(input, target, weights: Weights, statistics, divisor, options: Options):
    by = array(divisor) if options.reduction == "mean" else None
    named = _named(input, target, weights, options)
    return autograd.restored(array(statistics), by, array(input), array(target), **named)


def check(input, target, weights: Weights, statistics, divisor, options: Options) -> None:
    """Raise where the logits of these statistics are not what they were; on a device go on."""
    if not input.is_cuda:
        kept.check(_restored(input, target, weights, statistics, divisor, options))


def at_once(input, target, weights: Weights, options: Options):
    """(loss as a float, as a tensor, gradient) of logits of float32 or float64 on the CPU, for 'mean' and 'sum'."""
    small = input.numel() * input.itemsize < cache.LARGE
    plain = weights is NO_WEIGHTS and (options is PLAIN or options[1:] == PLAIN[1:])
    if small and plain and input.dim() == 2 and not target.is_floating_point():
        # No option is passed, because only a call without options takes the package's short way.
        x = input.detach().resolve_neg().numpy()
        with on_torchs_threads(input):
            found = cross_entropy_and_grad(x, target.numpy(), ignore_index=options.ignore_index)
        return float(found.loss), tensor(found.loss), torch.from_numpy(found.grad)
    grad = cache.empty_like(input)
    loss = _forward_backward(input, target, weights, options, grad)
    return float(loss), tensor(loss), grad


@functools.cache
def _scalar(dtype: torch.dtype) -> torch.Tensor:
    """One that others are made like: in half the time of ``new_empty``, which reads a shape."""
    return torch.empty((), dtype=dtype, device="cpu")


def light(input, target, rows: int, classes: int, wants_grad: bool):
    """(the mean loss as a float, as a tensor, the gradient or None) of a small plain call, without a NumPy array.

    None, with nothing written, for any other, and where the backend lacks that. The tensors are on the CPU and fit, the
    logits are float32 or float64, and a target that is to be ignored is no class.
    """
    light_at = once(registry.light_at)
    if light_at is None or target.dtype is not torch.int64 or not (input.is_contiguous() and target.is_contiguous()):
        return None
    loss, grad, threads = torch.empty_like(_scalar(input.dtype)), torch.empty_like(input) if wants_grad else None, 1
    if rows * classes >= SERIAL_BELOW:
        with on_torchs_threads(input):
            threads = registry.current().threads_for(rows * classes)
    to = 0 if grad is None else grad.data_ptr()
    number = light_at(threads, rows, classes, input.itemsize, input.data_ptr(), target.data_ptr(), to, loss.data_ptr())
    return None if number is None else (number, loss, grad)


def _forward_backward(input, target, weights: Weights, options: Options, out: torch.Tensor):
    named = _named(input, target, weights, options)
    with on_torchs_threads(input):
        return cross_entropy_and_grad(array(input), array(target), **named, out=array(out)).loss


def forward_backward(input, target, weights: Weights, options: Options, out: torch.Tensor) -> torch.Tensor:
    """The loss; the gradient is written to ``out``, which may be ``input``."""
    return tensor(_forward_backward(input, target, weights, options, out))


def log_softmax(input, dim: int) -> torch.Tensor:
    """The log-softmax along an axis."""
    out = cache.empty_like(input)
    with on_torchs_threads(input):
        log_softmax_of_array(array(input), dim, out=array(out))
    return out


def log_softmax_forward(input, dim: int):
    """The log-softmax, and the package's record for `log_softmax_backward`, which holds the logits' memory."""
    out = cache.empty_like(input)
    with on_torchs_threads(input):
        _, saved = autograd.log_softmax_forward(array(input), dim, out=array(out))
    return out, saved


def statistics_of(saved) -> torch.Tensor:
    """The statistics in such a record."""
    return tensor(autograd.numbers_of(saved)[0])


def restored_log_softmax(input, statistics, dim: int):
    """Such a record, from the logits and their statistics."""
    return autograd.restored_log_softmax(array(statistics), array(input), dim)


def log_softmax_backward(grad_output, log_p, saved) -> torch.Tensor:
    """The gradient on the argument of `log_softmax`, like its result log_p, from that on the result."""
    out = cache.empty_like(log_p)
    with on_torchs_threads(log_p):
        autograd.log_softmax_backward(saved, array(grad_output), out=array(out))
    return out
