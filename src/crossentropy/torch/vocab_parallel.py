"""Losses of logits whose classes are spread over the ranks of a process group, by one exchange of a few bytes a row."""

from __future__ import annotations

import functools
from typing import Any, Unpack

import torch

from .._options import EXTRAS, OPTIONS, ExtraOptions, takes_options
from . import calls, shard_log_probs, shard_losses, shards, vocab_parallel_ops
from .bridge import Options, Weights
from .log_probs import TokenLogProbs
from .log_probs_ops import Settings


@functools.partial(takes_options, names=EXTRAS)
def vocab_parallel_cross_entropy(
    vocab_parallel_logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    group: Any = None,
    vocab_range: tuple[int, int] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "none",
    normalizer: float | torch.Tensor | None = None,
    class_prior: torch.Tensor | None = None,
    sample_weight: torch.Tensor | None = None,
    where: torch.Tensor | None = None,
    **extras: Unpack[ExtraOptions],
) -> torch.Tensor:
    """Cross-entropy of logits of which each rank has the columns of some classes (tensor parallelism).

    Every rank calls it with its columns and with the same targets, and gets the same loss, to the last bit. In the
    forward the ranks exchange 16 bytes a row, once; in the backward nothing.

    Parameters
    ----------
    vocab_parallel_logits : Tensor, shape (..., V_r)
        This rank's classes, last, in any strides: float32, float64, bfloat16 or float16, the same on every rank. V_r
        may differ, and be 0. Not written to.
    target : Tensor
        Classes among those of all ranks: any integer dtype, shape (...), the same on every rank. Or this rank's
        probabilities: floating, of the shape of the logits.
    weight : Tensor, shape (V_r,), optional
        w_c >= 0 of this rank's classes, finite. On every rank or on none.
    group : ProcessGroup or DeviceMesh, optional
        The ranks that have the classes, by default all: gloo's or NCCL's, or a mesh of one axis.
    vocab_range : (int, int), optional
        This rank's classes, [first, last): on every rank or on none. By default the ranks' classes follow each other in
        the order of ranks.
    ignore_index : int, default -100
        Rows with this target do not count, and are not read.
    label_smoothing : float in [0, 1], default 0
        epsilon: targets become (1 - epsilon) of themselves plus epsilon / C, with the C of all ranks.
    reduction : {'none', 'mean', 'sum'}
        'mean' divides by the sum of the weights of the rows' targets that count; by the rows for probabilities.
    normalizer : float, or Tensor without axes, optional
        What 'mean' divides by in place of its own divisor; see `normalizer`.
    class_prior : Tensor, shape (V_r,), optional
        Added to the logits of this rank's classes, after ``softcap``. On every rank or on none.
    sample_weight, where : Tensor, shape (...), optional
        As for `cross_entropy`, the same on every rank.
    {options}

    Returns
    -------
    Tensor
        In nats: of the rows' shape, or a scalar; float64 for float64 logits, otherwise float32. Differentiable in this
        rank's logits, and with ``create_graph=True`` on every rank twice: the second time by an all-reduce.

    Raises
    ------
    TypeError, ValueError, IndexError
        For what does not fit, on the rank that passes it; a RuntimeError on the others.
    ValueError
        On every rank, where the ranks' rows, targets or options differ, or their ``vocab_range`` are not each class
        once.
    RuntimeError
        Where a rank is gone, or does not come within the group's timeout.

    Notes
    -----
    Eq. 5 and 6 of the note: of a block of classes a rank knows the largest logit m and the sum R of the others'
    e^(z - m); the target's logit is on one rank. From these, in the order of ranks and in float64, come the row's: with
    no subtraction that could cancel, and so within the accuracy contract. 16 bytes a row for logits of 32 bits and
    fewer, 8 for each of those numbers otherwise; class weights together with label smoothing take 4 (8) more, and
    ``focal`` with either of them 4. 80 bytes say what must be the same everywhere; and where a message has more rows
    than any of the latest sixteen, the ranks exchange one before it that says so.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> logits = torch.zeros(2, 4, requires_grad=True)  # on one rank: all classes
    >>> loss = crossentropy.torch.vocab_parallel_cross_entropy(logits, torch.tensor([0, 3]), reduction="mean")
    >>> loss.backward()
    >>> loss.detach(), logits.grad[0]
    (tensor(1.3863), tensor([-0.3750,  0.1250,  0.1250,  0.1250]))
    >>> dist.destroy_process_group()
    """
    group = shards.group_of(group)
    with shards.RefusalsTold(group):
        first = shards.first_of(vocab_range, _classes_of(vocab_parallel_logits))
        numbers = ignore_index, label_smoothing, normalizer, OPTIONS["reduction"].rule(reduction, "reduction")
        options, divisor = calls.options_given("vocab_parallel_cross_entropy", extras, _OWN, *numbers)
        weights = calls.weights_given(weight, class_prior, sample_weight, where)
    loss, _ = loss_and_divisor(vocab_parallel_logits, target, weights, options, group, first)
    return loss if divisor is None else loss / divisor


_OWN = calls.keywords_of(vocab_parallel_cross_entropy)


def loss_and_divisor(logits, target, weights: Weights, options: Options, group, first: int = -1):
    """(the loss, what its mean divides by or, of rows' losses, None) of logits whose classes are last."""
    with shards.RefusalsTold(group):
        options = shard_losses.checked(logits, target, weights, options)
    kind, arguments = vocab_parallel_ops.LOSSES, (logits, target, *weights, *options)
    return vocab_parallel_ops.found(*kind, vocab_parallel_ops.Losses, arguments, first, group)


def vocab_parallel_log_probs(
    vocab_parallel_logits: torch.Tensor,
    index: torch.Tensor,
    *,
    group: Any = None,
    vocab_range: tuple[int, int] | None = None,
    ignore_index: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = 0.0,
    class_prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """log p of a chosen class of each row, as `token_log_probs`, of logits whose classes are spread over ranks.

    Parameters
    ----------
    vocab_parallel_logits, group, vocab_range
        As for `vocab_parallel_cross_entropy`.
    index : Tensor, shape (...)
        A class for each row, among those of all ranks: any integer dtype, the same on every rank.
    ignore_index, logit_scale, softcap, class_prior
        As for `token_log_probs`; ``class_prior`` of this rank's classes.

    Returns
    -------
    Tensor
        Of the rows' shape, in nats, differentiable once in this rank's logits; float64 for float64, otherwise float32.

    Raises
    ------
    TypeError, ValueError, IndexError, RuntimeError
        As `vocab_parallel_cross_entropy`.

    Notes
    -----
    How the ranks' numbers are merged is derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> crossentropy.torch.vocab_parallel_log_probs(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor([-1.3863, -1.3863])
    >>> dist.destroy_process_group()
    """
    more = ignore_index, logit_scale, softcap, class_prior
    return _log_probs(vocab_parallel_logits, index, group, vocab_range, *more)[0]


def vocab_parallel_entropy(
    vocab_parallel_logits: torch.Tensor,
    *,
    group: Any = None,
    vocab_range: tuple[int, int] | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = 0.0,
    class_prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """The entropy of the softmax of each row, as `entropy`, of logits whose classes are spread over ranks.

    Parameters
    ----------
    vocab_parallel_logits, group, vocab_range
        As for `vocab_parallel_cross_entropy`.
    logit_scale, softcap, class_prior
        As for `entropy`; ``class_prior`` of this rank's classes.

    Returns
    -------
    Tensor
        Of the rows' shape, in nats, differentiable once in this rank's logits; float64 for float64, otherwise float32.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `vocab_parallel_cross_entropy`.

    Notes
    -----
    How the ranks' numbers are merged is derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> crossentropy.torch.vocab_parallel_entropy(torch.zeros(2, 4))
    tensor([1.3863, 1.3863])
    >>> dist.destroy_process_group()
    """
    return _log_probs(vocab_parallel_logits, None, group, vocab_range, None, logit_scale, softcap, class_prior)[1]


def vocab_parallel_log_probs_and_entropy(
    vocab_parallel_logits: torch.Tensor,
    index: torch.Tensor,
    *,
    group: Any = None,
    vocab_range: tuple[int, int] | None = None,
    ignore_index: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = 0.0,
    class_prior: torch.Tensor | None = None,
) -> TokenLogProbs:
    """`vocab_parallel_log_probs` and `vocab_parallel_entropy` at once: one read of the logits and one exchange.

    Parameters
    ----------
    vocab_parallel_logits, index, group, vocab_range, ignore_index, logit_scale, softcap, class_prior
        As for `vocab_parallel_log_probs`.

    Returns
    -------
    TokenLogProbs
        Named tuple (log_prob, entropy), in nats.

    Raises
    ------
    TypeError, ValueError, IndexError, RuntimeError
        As `vocab_parallel_cross_entropy`.

    Examples
    --------
    >>> import torch, torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> crossentropy.torch.vocab_parallel_log_probs_and_entropy(torch.zeros(1, 4), torch.tensor([0]))
    TokenLogProbs(log_prob=tensor([-1.3863]), entropy=tensor([1.3863]))
    >>> dist.destroy_process_group()
    """
    more = ignore_index, logit_scale, softcap, class_prior
    return TokenLogProbs(*_log_probs(vocab_parallel_logits, index, group, vocab_range, *more))


def _log_probs(logits, index, group, vocab_range, ignore_index, logit_scale, softcap, prior):
    group = shards.group_of(group)
    with shards.RefusalsTold(group):
        first = shards.first_of(vocab_range, _classes_of(logits))
        ignore_index = None if ignore_index is None else shard_losses.index_of(ignore_index)
        numbers = [OPTIONS[name].rule(x, name) for name, x in (("logit_scale", logit_scale), ("softcap", softcap))]
        settings = Settings(-1, ignore_index, *numbers)
        shard_log_probs.check(logits, index, prior)
    kind, arguments = vocab_parallel_ops.LOG_PROBS, (logits, index, prior, *settings)
    return vocab_parallel_ops.found(*kind, vocab_parallel_ops.LogProbs, arguments, first, group)


def _classes_of(logits) -> int:
    """How many classes this rank has."""
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"vocab_parallel_logits must be a tensor, got {type(logits).__name__}")
    if logits.dtype not in calls.FLOATS:
        raise TypeError(f"vocab_parallel_logits must be float32, float64, bfloat16 or float16, got {logits.dtype}")
    shard_losses.require_plain(logits, "vocab_parallel_logits", logits.device)
    if not logits.dim():
        raise ValueError("vocab_parallel_logits must have shape (..., V_r), got a scalar")
    return logits.shape[-1]
