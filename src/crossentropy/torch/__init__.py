"""PyTorch's cross-entropy with this package's kernels: change one import, keep the results.

    >>> from crossentropy.torch import cross_entropy, log_softmax, CrossEntropyLoss
    >>> from crossentropy.torch import linear_cross_entropy, LinearCrossEntropyLoss, linear_log_probs
    >>> from crossentropy.torch import token_log_probs, entropy, token_log_probs_and_entropy

They take and return what PyTorch's functions and module of these names do; docs/torch.md lists every difference. The
kernels take tensors of float32, float64, bfloat16 and float16 on the CPU and on CUDA devices. What they are not for
(forward-mode AD, the transforms of `torch.func`, gradients on probability targets, other dtypes and devices) is handed
to PyTorch's own function.
"""

from __future__ import annotations

import functools
import operator
import warnings
from typing import Optional, Unpack

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: crossentropy.torch needs it; pip install 'crossentropy[torch]'") from None
from torch.nn import _reduction
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary, has_torch_function_variadic

from .._memory import empty_cache
from .._options import DEFAULTS, EXTRAS, ExtraOptions, takes_options
from . import calls, composed, dtensors, eager, short
from .binary import binary_cross_entropy_with_logits, sigmoid_focal_loss
from .bridge import Options, Weights
from .distillation import distillation
from .linear import LinearLogProbs, linear_cross_entropy, linear_log_probs
from .linear_module import LinearCrossEntropyLoss
from .log_probs import TokenLogProbs, entropy, token_log_probs, token_log_probs_and_entropy
from .normalizer import normalizer
from .patching import Patch, patch
from .vocab_parallel import (
    vocab_parallel_cross_entropy,
    vocab_parallel_entropy,
    vocab_parallel_log_probs,
    vocab_parallel_log_probs_and_entropy,
)

__all__ = [
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "LinearLogProbs",
    "Patch",
    "TokenLogProbs",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "distillation",
    "empty_cache",
    "entropy",
    "linear_cross_entropy",
    "linear_log_probs",
    "log_softmax",
    "normalizer",
    "patch",
    "sigmoid_focal_loss",
    "token_log_probs",
    "token_log_probs_and_entropy",
    "vocab_parallel_cross_entropy",
    "vocab_parallel_entropy",
    "vocab_parallel_log_probs",
    "vocab_parallel_log_probs_and_entropy",
]

# The keywords of PyTorch's own, for the hint at a misspelt one.
_OWN = (
    *("weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"),
    *("class_prior", "sample_weight", "where", "normalizer", "inplace", "dtype"),
)
_BEYOND = {"inplace": False, "dtype": None, **{name: DEFAULTS[name] for name in EXTRAS}}
_REDUCTIONS = ("none", "mean", "sum")  # at the numbers that PyTorch's get_enum gives them


@functools.partial(takes_options, names=EXTRAS)
def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    class_prior: torch.Tensor | None = None,
    sample_weight: torch.Tensor | None = None,
    where: torch.Tensor | None = None,
    normalizer: float | torch.Tensor | None = None,
    inplace: bool = False,
    dtype: torch.dtype | None = None,
    **extras: Unpack[ExtraOptions],
) -> torch.Tensor:
    """Cross-entropy of targets against the softmax of logits, as `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : Tensor, shape (C,), (N, C) or (N, C, d1, ...)
        Logits, in any strides.
    target : Tensor
        Classes: any integer dtype, shape (), (N,) or (N, d1, ...). Or probabilities: floating, of the shape of
        ``input``.
    weight : Tensor, shape (C,), optional
        Of the classes: w_c finite. Where one is negative, PyTorch's own function computes.
    size_average, reduce : bool, optional
        Deprecated, as in PyTorch.
    ignore_index : int, default -100
        Rows with this target do not count.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides by the sum of the weights of the rows' targets that count; by N for probabilities.
    label_smoothing : float in [0, 1], default 0
        epsilon: targets become (1 - epsilon) of themselves plus epsilon / C.
    class_prior : Tensor, shape (C,), optional
        Added to the logits, after ``softcap``; a class of -inf has probability and gradient 0. Not in PyTorch.
    sample_weight : Tensor of the rows' shape, optional
        v_n >= 0 of each row (token): its loss is multiplied by it, and 'mean' divides by sum_n v_n w_{y_n}. A row of
        weight 0 does not count, whatever it holds. Not in PyTorch.
    where : Tensor of bool, of the rows' shape, optional
        Rows where it is False do not count. Not in PyTorch.
    normalizer : float, or Tensor without axes, optional
        What 'mean' divides by in place of its own divisor: the number of tokens of the whole batch, over all ranks and
        micro-batches. A tensor on a device is not waited for. Not in PyTorch.
    inplace : bool, default False
        Allow the gradient to be written over ``input``, whose values are gone then: no memory is needed for it. Ignored
        where nothing is differentiated and where the call is traced. Not in PyTorch.
    dtype : torch.dtype, optional
        What the logits are converted to first, as for `log_softmax`, and the dtype of the loss: float32, float64,
        bfloat16 or float16. float32 for logits of 16 bits needs no memory: losses are float32 inside, and without
        ``dtype`` are rounded to PyTorch's result dtype. Not in PyTorch.
    {options}
        Not in PyTorch.

    Returns
    -------
    Tensor
        In nats: a scalar, or of the rows' shape with ``reduction='none'``; of ``dtype``, or PyTorch's result dtype.

    Raises
    ------
    RuntimeError, ValueError, IndexError, TypeError
        Where PyTorch raises it; ValueError also for weights and options beyond PyTorch's outside their rules.

    Notes
    -----
    Eq. 5 and 6 of the note for a row, the cost c(b) of its algorithm 1 for the mean; the gradient is derived in
    ``docs/derivation.md``, section 3. For float32 and float64 on the CPU it is computed with
    the loss, unless that is of each row. Elsewhere the forward keeps the logits and the statistics of each row, from
    which the backward recomputes the probabilities.

    Examples
    --------
    >>> import torch
    >>> logits = torch.zeros(2, 4, requires_grad=True)
    >>> crossentropy.torch.cross_entropy(logits, torch.tensor([0, 3])).backward()
    >>> logits.grad
    tensor([[-0.3750,  0.1250,  0.1250,  0.1250],
            [ 0.1250,  0.1250,  0.1250, -0.3750]])
    """
    if has_torch_function_variadic(input, target, weight, class_prior, sample_weight, where, normalizer):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight, class_prior, sample_weight, where, normalizer),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            class_prior=class_prior,
            sample_weight=sample_weight,
            where=where,
            normalizer=normalizer,
            inplace=inplace,
            dtype=dtype,
            **extras,
        )
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if (
        weight is None
        and class_prior is None
        and sample_weight is None
        and where is None
        and dtype is None
        and not extras
        and normalizer is None
        and not inplace
        and reduction == "mean"
        and type(label_smoothing) is float
        and label_smoothing == 0.0
        and (loss := short.cross_entropy(input, target, ignore_index)) is not None
    ):
        return loss
    with dtensors.refusals_told(input):
        weights = calls.weights_given(weight, class_prior, sample_weight, where)
        if reduction not in _REDUCTIONS:
            reduction = _REDUCTIONS[_reduction.get_enum(reduction)]  # an old name; for any other a ValueError
        numbers = ignore_index, label_smoothing, normalizer, reduction
        options, divisor = calls.options_given("cross_entropy", extras, _OWN, *numbers)
        dtype = calls.result_dtype_named(dtype)
    loss = _loss(input, target, weights, options, inplace, dtype)
    return loss if divisor is None else loss / divisor


def _loss(input, target, weights: Weights, options: Options, inplace: bool, dtype: torch.dtype | None):
    """The loss, by the kernels where they take such a call."""
    if dtype is not None:
        input = calls.converted(input, dtype)
    ours = calls.are_ours(input, target, weights)
    # Traced, a DTensor passes for a plain tensor.
    if (not ours or torch.compiler.is_compiling()) and dtensors.are_among(input, target, *weights):
        return dtensors.cross_entropy(input, target, weights, options, dtype, _loss)
    if not ours:
        return composed.by_torch(input, target, weights, options, dtype)
    if type(options.ignore_index) is not int or type(options.label_smoothing) is not float:
        ignore_index = calls.as_number(operator.index, options.ignore_index)
        label_smoothing = calls.as_number(float, options.label_smoothing)
        options = options._replace(ignore_index=ignore_index, label_smoothing=label_smoothing)
    if problem := calls.problem(input, target, weights, options):
        calls.refuse(problem, input, target, weights, options)
    if weights.weight is not None and not weights.weight.is_floating_point():
        weights = weights._replace(weight=weights.weight.to(input.dtype))
    if input.dim() == 1 and not target.is_floating_point():
        target = target.reshape(())  # from (1,), which PyTorch takes, too
    if calls.is_pytorchs(target, *weights):
        return composed.by_torch(input, *composed.all_as_torch_wants(input, target, weights), options, dtype)
    try:
        loss = eager.cross_entropy(input, target, weights, options, inplace)
    except ValueError:  # for a weight below 0, or NaN, or infinite: no work is done yet
        if not calls.is_negative(weights.weight):
            raise
        return composed.by_torch(input, *composed.all_as_torch_wants(input, target, weights), options, dtype)
    dtype = dtype or calls.result_dtype(input, target, weights.weight)
    return loss if loss.dtype is dtype else loss.to(dtype)


def log_softmax(
    input: torch.Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> torch.Tensor:
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

    Examples
    --------
    >>> import torch
    >>> crossentropy.torch.log_softmax(torch.tensor([0.0, 0.0]), dim=0)
    tensor([-0.6931, -0.6931])
    """
    if has_torch_function_unary(input):
        return handle_torch_function(log_softmax, (input,), input, dim=dim, _stacklevel=_stacklevel, dtype=dtype)
    if dim is None:
        dim = 0 if input.dim() in (0, 1, 3) else 1
        message = "Implicit dimension choice for log_softmax has been deprecated. Change the call to include dim=X."
        warnings.warn(message, stacklevel=_stacklevel - 1)
    if not (calls.is_ours(input) and type(dim) is int and -input.dim() <= dim < input.dim() and input.shape[dim] > 0):
        return F.log_softmax(input, dim, dtype=dtype)
    if (dtype is not None and dtype not in calls.FLOATS) or calls.is_pytorchs():
        return F.log_softmax(input, dim, dtype=dtype)
    z = input if dtype is None else input.to(dtype)
    if dtype is None and z.is_cuda and calls.computed_dtype(z) is not z.dtype:
        z = z.float()  # autocast on CUDA takes float32 here; on the CPU it leaves log_softmax alone
    return eager.log_softmax(z, dim % z.dim())


@functools.partial(takes_options, names=EXTRAS)
class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """The module of `cross_entropy`, as `torch.nn.CrossEntropyLoss`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        Those of `cross_entropy`.
    class_prior : Tensor, shape (C,), optional
        As for `cross_entropy`; a buffer, as ``weight`` is.
    inplace : bool, default False
        As for `cross_entropy`.
    dtype : torch.dtype, optional
        As for `cross_entropy`.
    {options}
        Not in PyTorch.

    Raises
    ------
    TypeError, ValueError
        For an option beyond PyTorch's outside its rules, in the call; else where PyTorch's module raises it.

    Notes
    -----
    Called with ``input`` and ``target``, and with ``sample_weight``, ``where`` and ``normalizer`` of this call where
    there are any; returns the loss in nats, and raises what `cross_entropy` raises. `torch.jit.script` makes PyTorch's
    own operations of it.

    Examples
    --------
    >>> import torch
    >>> loss = crossentropy.torch.CrossEntropyLoss(label_smoothing=0.1)
    >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor(1.3863)
    """

    __constants__ = (*torch.nn.CrossEntropyLoss.__constants__, "dtype")

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        class_prior: torch.Tensor | None = None,
        inplace: bool = False,
        dtype: torch.dtype | None = None,
        **extras: Unpack[ExtraOptions],
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.register_buffer("class_prior", class_prior)
        self.inplace = inplace
        self.dtype = calls.result_dtype_named(dtype)
        for name, value in calls.extras("CrossEntropyLoss", extras, _OWN).items():
            setattr(self, name, value)

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(_BEYOND | state)  # which may have been pickled before an option was added
        self._buffers.setdefault("class_prior", None)

    def extra_repr(self) -> str:
        """The options beyond PyTorch's that are not at their defaults."""
        now = {name: getattr(self, name) for name in _BEYOND}
        return ", ".join(f"{name}={value}" for name, value in now.items() if value != _BEYOND[name])

    def forward(
        self,
        input: torch.Tensor,
        target: torch.Tensor,
        sample_weight: Optional[torch.Tensor] = None,  # noqa: UP045 -- as TorchScript reads it
        where: Optional[torch.Tensor] = None,  # noqa: UP045
        normalizer: Optional[float] = None,  # noqa: UP045
    ) -> torch.Tensor:
        """The loss of `cross_entropy`."""
        if torch.jit.is_scripting():
            z = input if self.dtype is None else input.to(self.dtype)
            target, weight = composed.as_torch_wants(z, target, self.weight)
            v = sample_weight
            if where is not None:
                v = where.to(z.dtype) if v is None else torch.where(where, v, torch.zeros_like(v))
            numbers = self.ignore_index, self.label_smoothing, self.z_loss, self.logit_scale, self.softcap
            more = self.margin, self.focal, normalizer, self.reduction
            loss = composed.composed(z, target, weight, self.class_prior, v, *numbers, *more)
            return loss if self.dtype is None else loss.to(self.dtype)
        else:  # which torch.jit.script leaves out
            return self._by_kernels(input, target, sample_weight=sample_weight, where=where, normalizer=normalizer)

    def _by_kernels(self, input, target, **of_call):
        return cross_entropy(
            input,
            target,
            **of_call,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            class_prior=self.class_prior,
            inplace=self.inplace,
            dtype=self.dtype,
            **{name: getattr(self, name) for name in EXTRAS},
        )
