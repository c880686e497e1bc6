"""All that is used of PyTorch without a public name; a test calls each of these with the PyTorch that is installed."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

are_transforms_active = torch._C._are_functorch_transforms_active  # torch.func's
keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph  # whether this backward's retain_graph is set
_modes = torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_is_batched = torch._C._functorch.is_legacy_batchedtensor
unwrapped = torch._C._functorch.unwrap_if_dead  # the tensor within one that a transform has left behind
_PLAIN_GRADIENTS = frozenset((torch.Tensor, torch.nn.Parameter))
_PLAIN = _PLAIN_GRADIENTS | {type(None)}


def is_plain(x) -> bool:
    """Whether a tensor, if it is one, is of no class but PyTorch's own."""
    return type(x) in _PLAIN


def applier(function: type[torch.autograd.Function]):
    """``function.apply`` for calls with no transform of torch.func active, without what PyTorch does first for these.

    What is left of that are tensors that such a transform has left behind (`unwrapped`).
    """
    return super(torch.autograd.Function, function).apply


def is_forward_mode() -> bool:
    """Whether forward-mode AD is active."""
    return forward_ad._current_level >= 0


def has_hooks_on_saved_tensors() -> bool:
    """Whether what a Function saves now goes through hooks: checkpointing, offloading."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def is_onnx_export() -> bool:
    """Whether a call is traced for ONNX, which knows PyTorch's operators alone."""
    return (is_compiling() or _tracing_state() is not None) and torch.onnx.is_in_onnx_export()


def is_wrapper(x) -> bool:
    """Whether a tensor wraps others and handles functions itself, as a DTensor does."""
    return not is_plain(x) and is_traceable_wrapper_subclass(x)


def is_traced(input, target=None, *others) -> bool:
    """Whether a call must be an operator because something other than eager autograd has to see it."""
    return (
        is_compiling()
        or _modes() > 0  # make_fx, FakeTensorMode, selective checkpointing, counters
        or _tracing_state() is not None
        or type(input) not in _PLAIN
        or type(target) not in _PLAIN
        or (others and not all(map(is_plain, others)))
        or input.is_meta
    )


def is_watched() -> bool:
    """Whether something other than eager autograd has to see calls, or differentiates them, whatever their tensors."""
    return (
        is_compiling()
        or _modes() > 0
        or _tracing_state() is not None
        or are_transforms_active()
        or forward_ad._current_level >= 0
    )


def needs_operator(grad_output) -> bool:
    """Whether a backward must call an operator: it is traced, or gets several gradients at once.

    The latter is ``is_grads_batched``, for which PyTorch calls an operator once for each gradient.
    """
    return (
        is_compiling()  # first, since Dynamo knows of nothing else here
        or type(grad_output) not in _PLAIN_GRADIENTS
        or _modes() > 0
        or _tracing_state() is not None
        or _is_batched(grad_output)
        or grad_output.is_meta
    )


def all_gather(every: torch.Tensor, mine: torch.Tensor, group) -> None:
    """The parts of all ranks, one after the other: by the name that PyTorch gives it without a warning."""
    import torch.distributed as dist

    by = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the latter deprecated from 2.13 on
    by(every, mine, group=group)


def all_gather_traced(mine: torch.Tensor, ranks: int, group_name: str) -> torch.Tensor:
    """The same as operators, which can be traced."""
    every = torch.ops._c10d_functional.all_gather_into_tensor(mine, ranks, group_name)
    return torch.ops._c10d_functional.wait_tensor(every)


def unknown_size(least: int):
    """A size that a traced program knows when it runs; without a tracer that takes such sizes, the least one."""
    context = torch.library.get_ctx()
    return context.new_dynamic_size(min=least) if context._shape_env is not None else least


def group_named(name: str):
    """The process group of such a name, as traced programs know it."""
    return torch.distributed.distributed_c10d._resolve_process_group(name)


def all_reduce_traced(x: torch.Tensor, group_name: str) -> torch.Tensor:
    """The sum over the ranks of a group, as operators."""
    return torch.ops._c10d_functional.wait_tensor(torch.ops._c10d_functional.all_reduce(x, "sum", group_name))
