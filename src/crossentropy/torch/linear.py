"""The loss of hidden states against a vocabulary, as PyTorch's linear_cross_entropy; log-probabilities of classes."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Unpack

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .._options import EXTRAS, ExtraOptions, takes_options
from . import calls, dtensors, linear_calls, linear_composed, linear_eager, linear_shards, shards
from .bridge import Options, Weights
from .linear_bridge import Layer, Settings

# The other keywords, for the hint at a misspelt one.
_OWN = (
    *("linear_bias", "weight", "reduction", "ignore_index", "label_smoothing", "options", "rows", "shift"),
    *("class_prior", "sample_weight", "where", "normalizer", "group", "vocab_range"),
)


class LinearLogProbs(NamedTuple):
    """The log-probability of a chosen class, and the entropy over the classes, of each row."""

    log_prob: torch.Tensor
    entropy: torch.Tensor


@functools.partial(takes_options, names=EXTRAS)
def linear_cross_entropy(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: torch.nn.LinearCrossEntropyOptions | None = None,
    class_prior: torch.Tensor | None = None,
    sample_weight: torch.Tensor | None = None,
    where: torch.Tensor | None = None,
    normalizer: float | torch.Tensor | None = None,
    rows: int | None = None,
    shift: bool = False,
    group: Any = None,
    vocab_range: tuple[int, int] | None = None,
    **extras: Unpack[ExtraOptions],
) -> torch.Tensor:
    """Cross-entropy of targets against the softmax of a linear layer, whose logits are never all there.

    Parameters
    ----------
    input : Tensor, shape (..., H)
        Hidden states, in any strides.
    linear_weight : Tensor, shape (V, H)
        That of `torch.nn.Linear`, of the dtype of ``input``; autocast has its say, as there. Of shape (C, d1, ..., H),
        with an ``input`` (N, H), its logits (N, C, d1, ...) are made and handed to `cross_entropy`.
    target : Tensor
        Classes: any integer dtype, of the rows' shape (that of ``input`` without its last axis). Or probabilities:
        floating, of shape (..., V).
    linear_bias : Tensor, shape (V,), optional
        Of any floating dtype.
    weight : Tensor, shape (V,), optional
        Of the classes: w_c finite. Where one is negative, PyTorch's own function computes, from all logits at once.
    reduction : {'none', 'mean', 'sum'}
        'mean' divides by the sum of the weights of the rows' targets that count; by the rows for probabilities.
    ignore_index : int, optional
        Rows with this target do not count, and are not read; by default -100. For classes only.
    label_smoothing : float in [0, 1], default 0
        epsilon: targets become (1 - epsilon) of themselves plus epsilon / V.
    options : torch.nn.LinearCrossEntropyOptions, optional
        Its ``batch_chunk_size`` is taken as ``rows``; the rest says how PyTorch goes about it, and is not read.
    class_prior, sample_weight, where, normalizer : optional
        As for `cross_entropy`: of classes, of rows (with ``shift`` those of ``target``), and of the whole batch.
        Rows that do not count are not read. Not in PyTorch.
    rows : int, optional
        Rows of logits at once; by default as for `crossentropy.linear_cross_entropy`. Not in PyTorch.
    shift : bool, default False
        For causal models: ``input`` (..., T, H), whose position t is judged by the target (..., T) of t + 1, and the
        last one by none. The loss of ``input[..., :-1, :]`` and ``target[..., 1:]``, with no copy of the hidden states.
        Not in PyTorch.
    group, vocab_range : optional
        The ranks over which the vocabulary is spread, each with its own rows of ``linear_weight`` (and of
        ``linear_bias``, ``weight``, ``class_prior``) and all with the same ``input`` and ``target``, as for
        `vocab_parallel_cross_entropy`. The gradient on ``input`` is summed over them, by an all-reduce. By default the
        vocabulary is here alone. Not in PyTorch.
    {options}
        Not in PyTorch.

    Returns
    -------
    Tensor
        In nats: a scalar, or of the rows' shape with ``reduction='none'``; float64 for float64, otherwise float32.

    Raises
    ------
    RuntimeError, ValueError, IndexError, TypeError
        Where PyTorch raises it, and for options beyond PyTorch's outside their rules.

    Notes
    -----
    Eq. 5 and 6 of the note, of logits that are a linear layer's. The gradients of a mean and a sum are computed with
    the loss, for those parameters that require one; without (``torch.no_grad``), the loss takes one product of three.

    Examples
    --------
    >>> import torch
    >>> hidden, weight = torch.ones(3, 2, requires_grad=True), torch.zeros(4, 2, requires_grad=True)
    >>> crossentropy.torch.linear_cross_entropy(hidden, weight, torch.tensor([0, 0, 2])).backward()
    >>> weight.grad * 12
    tensor([[-5.0000, -5.0000],
            [ 3.0000,  3.0000],
            [-1.0000, -1.0000],
            [ 3.0000,  3.0000]])
    """
    tensors = input, linear_weight, target, linear_bias, weight, class_prior, sample_weight, where, normalizer
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            linear_cross_entropy,
            tensors,
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
            class_prior=class_prior,
            sample_weight=sample_weight,
            where=where,
            normalizer=normalizer,
            rows=rows,
            shift=shift,
            group=group,
            vocab_range=vocab_range,
            **extras,
        )
    is_spread = group is not None or vocab_range is not None
    group = shards.group_of(group) if is_spread else None
    with shards.RefusalsTold(group) if is_spread else dtensors.refusals_told(input, linear_weight, linear_bias):
        more = calls.extras("linear_cross_entropy", extras, _OWN)
        rows, reduction = linear_calls.rows_of(options, rows), linear_calls.reduction_named(reduction)
        if type(shift) is not bool:
            raise TypeError(f"shift must be True or False, got {shift!r}")
        linear_calls.require_tensors(input, linear_weight, target, linear_bias, weight)
        layer, dtype = linear_calls.layer_of(input, linear_weight, linear_bias)
        weights = calls.weights_given(weight, class_prior, sample_weight, where)
        number, divisor = calls.normalizer_given(normalizer, reduction)
        lacks_last = False
        if shift:
            layer, target, weights, lacks_last = linear_calls.shifted(layer, target, weights, ignore_index)
        target, probabilities = linear_calls.target_of(layer, target)
        numbers = linear_calls.index_ignored(ignore_index, probabilities), linear_calls.smoothing(label_smoothing)
        linear_calls.require_weight(layer, weight, probabilities)
        by = reduction if divisor is None else "sum"
        settings = Settings(*Options(*numbers, **more, normalizer=number, reduction=by), rows, dtype)
        rows_shape = (*layer.rows_shape, *layer.weight.shape[1:-1])
        if problem := calls.problem_beside(layer.weight.shape[:1], rows_shape, weights, settings, not probabilities):
            raise ValueError(problem)
        if is_spread and layer.weight.dim() != 2:
            raise ValueError(f"group goes with a linear_weight of shape (V, H), got {tuple(layer.weight.shape)}")
        first = shards.first_of(vocab_range, len(layer.weight))
    if is_spread:
        loss, _ = linear_shards.cross_entropy(layer, target, weights, settings, group, first)
    else:
        loss = _loss(layer, target, weights, settings)
    loss = loss if divisor is None else loss / divisor
    return loss[..., :-1] if lacks_last and reduction == "none" else loss


def _loss(layer: Layer, target, weights: Weights, settings: Settings) -> torch.Tensor:
    """The loss of checked arguments, by the kernels or composed."""
    if dtensors.are_among(*layer, target, *weights):
        return dtensors.linear_cross_entropy(layer, target, weights, settings, _loss)
    is_ours = layer.weight.dim() == 2 and linear_calls.are_ours(layer, target, *weights)
    if not is_ours or calls.is_pytorchs(target, *weights):
        return linear_composed.cross_entropy(layer, target, weights, settings)
    if weights.weight is not None and not weights.weight.is_floating_point():
        weights = weights._replace(weight=weights.weight.to(settings.dtype))
    traced = linear_calls.is_traced(layer, target, *weights)
    try:
        return linear_eager.cross_entropy(layer, target, weights, settings, traced)
    except ValueError:  # for a weight below 0, or NaN, or infinite: no work is done yet
        if traced or not calls.is_negative(weights.weight):
            raise
        return linear_composed.cross_entropy(layer, target, weights, settings)


def linear_log_probs(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    index: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    ignore_index: int | None = None,
    rows: int | None = None,
) -> LinearLogProbs:
    """log p of a chosen class, and the entropy of p, for each row of a linear layer: `crossentropy.linear_log_probs`.

    Parameters
    ----------
    input, linear_weight, linear_bias, rows
        As for `linear_cross_entropy`.
    index : Tensor
        A class for each row: any integer dtype, of the rows' shape.
    ignore_index : int, optional
        Rows with this index are not read: both of their numbers, and their gradient, are 0.

    Returns
    -------
    LinearLogProbs
        Named tuple (log_prob, entropy) of tensors of the rows' shape, in nats, differentiable in the layer's; float64
        for float64, otherwise float32.

    Raises
    ------
    RuntimeError, ValueError, IndexError, TypeError
        As `linear_cross_entropy`.

    Notes
    -----
    Of logits that are a linear layer's; the entropy is derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> import torch
    >>> found = crossentropy.torch.linear_log_probs(torch.ones(3, 2), torch.zeros(4, 2), torch.tensor([0, 0, 2]))
    >>> found.log_prob.exp(), found.entropy.exp()
    (tensor([0.2500, 0.2500, 0.2500]), tensor([4., 4., 4.]))
    """
    if has_torch_function_variadic(input, linear_weight, index, linear_bias):
        return handle_torch_function(
            linear_log_probs,
            (input, linear_weight, index, linear_bias),
            input,
            linear_weight,
            index,
            linear_bias=linear_bias,
            ignore_index=ignore_index,
            rows=rows,
        )
    rows = linear_calls.rows_of(None, rows)
    linear_calls.require_tensors(input, linear_weight, index, linear_bias, named="index")
    layer, dtype = linear_calls.layer_of(input, linear_weight, linear_bias)
    if linear_weight.dim() > 2:
        raise RuntimeError(f"linear_weight must have shape (V, H), got {tuple(linear_weight.shape)}")
    index, _ = linear_calls.target_of(layer, index, "index")
    ignore_index = None if ignore_index is None else linear_calls.index_ignored(ignore_index, False)
    if not linear_calls.are_ours(layer, index) or calls.is_pytorchs():
        return LinearLogProbs(*linear_composed.log_probs(layer, index, ignore_index, dtype))
    traced = linear_calls.is_traced(layer, index)
    return LinearLogProbs(*linear_eager.log_probs(layer, index, (ignore_index, rows, dtype), traced))
