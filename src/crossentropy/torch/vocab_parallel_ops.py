"""What ranks do together for numbers of rows whose classes are spread over them: eagerly, as operators, in autograd.

A forward is three steps: the records of this rank's classes, the exchange, the numbers from all records. Traced, they
are two operators with PyTorch's own collective between them, so that a compiler sees what is sent. The backward takes
the numbers of the whole rows to this rank's classes, and sends nothing.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch.library import custom_op

from . import private, shard_log_probs, shard_losses, shard_second, shards
from .bridge import Options, weights_of
from .log_probs_ops import Settings
from .ops import COUNT, OPTIONS, WEIGHTS


class _LogProbs(NamedTuple):
    """Log-probabilities and entropies."""

    name = "vocab_parallel_log_probs"
    schema = "Tensor input, Tensor? index, Tensor? prior, int dim, int? ignore_index, float logit_scale, float softcap"
    tensors = 3
    of = shard_log_probs

    @staticmethod
    def call(arguments):
        """The call of an operator's arguments."""
        return shard_log_probs.Call(*arguments[:3], Settings(*arguments[3:]))


class _Losses(NamedTuple):
    """The loss, and what a mean divides by."""

    name = "vocab_parallel_cross_entropy"
    schema = f"Tensor input, Tensor target, {WEIGHTS}, {OPTIONS}"
    tensors = 2 + COUNT
    of = shard_losses

    @staticmethod
    def call(arguments):
        """The call of an operator's arguments."""
        weights, options = weights_of(arguments[2 : 2 + COUNT]), Options(*arguments[2 + COUNT :])
        return shard_losses.Call(*arguments[:2], weights, options)


def mark_of(call, first: int) -> shards.Mark:
    """What is known of a message before the rows are read."""
    rows, width, classes = call.rows_shape.numel(), call.dtype.itemsize, call.input.shape[-1]
    return shards.mark_of(rows, width, classes, first, call.digests(), call.weight_sum())


def exchanged(kind, call, first: int, group, keeps: bool = True):
    """(the numbers of all rows, this rank's shards), eagerly; ``keeps``: what a backward needs, too."""
    with shards.RefusalsTold(group):
        mark, device = mark_of(call, first), shards.device_of(call.input, group)
    records, results = functools.partial(kind.of.records, call), functools.partial(kind.of.results, call, keeps=keeps)
    return shards.exchanged(group, mark, call.dtype, records, device, results)


def _operators(kind):
    """The operators of a kind: a message, the results from all of them, and the gradient."""
    place = "int first, str group_name"

    @custom_op(f"crossentropy::{kind.name}_message", mutates_args=(), schema=f"({kind.schema}, {place}) -> Tensor")
    def message(*arguments):
        *given, first, name = arguments
        call, group = kind.call(given), private.group_named(name)
        mine, records = shards.part_of(group), functools.partial(kind.of.records, call)
        mine.end_in(shards.prepared(group, mark_of(call, first), call.dtype, records, mine)[0])
        return mine.tensor.to(call.input.device)

    @message.register_fake
    def _(*arguments):
        return arguments[0].new_empty(private.unknown_size(shards.SIZE), dtype=torch.uint8)

    @custom_op(
        f"crossentropy::{kind.name}_results",
        mutates_args=(),
        schema=f"(Tensor every, {kind.schema}, {place}) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    def results(every, *arguments):
        *given, first, name = arguments
        call, group = kind.call(given), private.group_named(name)
        parts = shards.Parts(every.cpu(), shards.len_of(group))
        mark, problem = parts.marks()[shards.rank_of(group)], None
        if mark.problem:  # which the operator before has not raised, so that the others know
            records = functools.partial(kind.of.records, call)
            problem = shards.prepared(group, mark_of(call, first), call.dtype, records, shards.part_of(group))[1]
        found, marks = shards.read(group, parts, mark, problem)
        if found is None:  # on every rank alike
            numbers, found = exchanged(kind, call, first, group)
        else:
            numbers = kind.of.results(call, parts.records(mark.rows, call.dtype), found, marks)
        return *numbers, torch.tensor([found.start, found.classes])

    @results.register_fake
    def _(every, *arguments):
        return *kind.of.like_results(kind.call(arguments[:-2])), torch.empty(2, dtype=torch.int64)

    @custom_op(
        f"crossentropy::{kind.name}_backward",
        mutates_args=(),
        schema=f"(Tensor? g, Tensor? h, Tensor statistics, Tensor place, {kind.schema}) -> Tensor",
    )
    def backward(g, h, statistics, place, *arguments):
        return kind.of.gradient(kind.call(arguments), statistics, (g, h), *place.tolist())

    @backward.register_fake
    def _(g, h, statistics, place, *arguments):
        return torch.empty_like(arguments[0])

    return message, results, backward


class Place(NamedTuple):
    """Where a call is made: this rank's first class, where its caller says so (else -1), and the group."""

    first: int
    name: str
    ranks: int


def gathered(operators, place: Place, arguments) -> torch.Tensor:
    """What all ranks send, by operators that can be traced: outside of what is differentiated, for Dynamo's sake.

    (The size of a message is known when it is sent, and Dynamo takes no such size inside of a Function.)
    """
    given = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments]
    return private.all_gather_traced(operators[0](*given, place.first, place.name), place.ranks, place.name)


def numbers(kind, operators, place: Place, every, arguments):
    """(the two numbers of the rows, statistics, (the first class of this rank, all classes))."""
    if every is not None:
        return operators[1](every, *arguments, place.first, place.name)
    found, here = exchanged(kind, kind.call(arguments), place.first, private.group_named(place.name))
    return *found, (here.start, here.classes)


def _gradient(kind, operators, arriving, statistics, place, arguments):
    """The gradient on this rank's logits, whose classes begin at the first of ``place``, of so many."""
    if isinstance(place, torch.Tensor) or any(g is not None and private.needs_operator(g) for g in arriving):
        place = place if isinstance(place, torch.Tensor) else torch.tensor(place)
        return operators[2](*arriving, statistics, place, *arguments)
    return kind.of.gradient(kind.call(arguments), statistics, arriving, *place)


def _keep(ctx, place, *tensors) -> None:
    """Save tensors, and where this rank's classes are: two integers, or traced a tensor of them."""
    traced = isinstance(place, torch.Tensor)
    ctx.save_for_backward(*tensors, *([place] if traced else []))
    ctx.place = None if traced else place


def _kept(ctx):
    """(where this rank's classes are, the tensors)."""
    tensors = ctx.saved_tensors
    return (ctx.place, *tensors) if ctx.place is not None else (tensors[-1], *tensors[:-1])


def once(what: str = "gradient") -> None:
    """Raise where this is to be differentiated."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"the {what} of numbers whose classes are spread over ranks can't be differentiated again: call backward "
            "without create_graph"
        )


LOG_PROBS = _LogProbs, _operators(_LogProbs)
LOSSES = _Losses, _operators(_Losses)


class LogProbs(torch.autograd.Function):
    """(log_prob, entropy), differentiable in the logits."""

    @staticmethod
    def forward(ctx, place, every, *arguments):  # noqa: D102
        log_prob, entropy, statistics, place = numbers(*LOG_PROBS, Place(*place), every, arguments)
        _keep(ctx, place, statistics, *arguments[:3])
        ctx.rest = arguments[3:]
        return log_prob, entropy

    @staticmethod
    def backward(ctx, *arriving):  # noqa: D102
        once()
        place, statistics, *tensors = _kept(ctx)
        if tensors[1] is None:
            arriving = None, arriving[1]
        found = _gradient(*LOG_PROBS, arriving, statistics, place, (*tensors, *ctx.rest))
        return None, None, found, *[None] * (len(tensors) + len(ctx.rest) - 1)


class Losses(torch.autograd.Function):
    """(loss, divisor), the loss differentiable in the logits."""

    @staticmethod
    def forward(ctx, place, every, *arguments):  # noqa: D102
        name = Place(*place).name
        loss, divisor, statistics, place = numbers(*LOSSES, Place(*place), every, arguments)
        ctx.mark_non_differentiable(divisor)
        _keep(ctx, place, statistics, divisor, *arguments[: _Losses.tensors])
        ctx.rest, ctx.group_name = arguments[_Losses.tensors :], name
        return loss, divisor

    @staticmethod
    def backward(ctx, grad_loss, _):  # noqa: D102
        place, statistics, divisor, *tensors = _kept(ctx)
        g = shard_losses.arriving(grad_loss, divisor, Options(*ctx.rest))
        if torch.is_grad_enabled() and not isinstance(place, torch.Tensor) and not private.needs_operator(g):
            found = _Gradient.apply(g, ctx.group_name, place, statistics, *tensors, *ctx.rest)
        else:
            once()
            found = _gradient(*LOSSES, (g, None), statistics, place, (*tensors, *ctx.rest))
        return None, None, found, *[None] * (len(tensors) + len(ctx.rest) - 1)


class _Gradient(torch.autograd.Function):
    """The gradient on the logits from what arrives at the loss, differentiable in both: once, by one all-reduce."""

    @staticmethod
    def forward(ctx, g, name, place, statistics, *arguments):
        ctx.save_for_backward(g, statistics, *arguments[: _Losses.tensors])
        ctx.rest = name, place, arguments[_Losses.tensors :]
        return _gradient(*LOSSES, (g, None), statistics, place, arguments)

    @staticmethod
    def backward(ctx, h):
        once("second derivative")
        (g, statistics, *tensors), (name, place, options) = ctx.saved_tensors, ctx.rest
        call = _Losses.call((*tensors, *options))
        on_g, on_logits = shard_second.gradients(h, g, call, statistics, *place, private.group_named(name))
        return on_g, None, None, None, on_logits, *[None] * (len(tensors) + len(options) - 1)


def found(kind, operators, function, arguments, first: int, group):
    """The two numbers of the rows of checked arguments, by the ``function`` where they are to be differentiated."""
    wants_grad = arguments[0].requires_grad and torch.is_grad_enabled()
    is_traced = private.is_traced(*arguments[: kind.tensors])
    if not (wants_grad or is_traced):
        return exchanged(kind, kind.call(arguments), first, group, keeps=False)[0][:2]
    place = Place(first, *shards.named(group))
    every = gathered(operators, place, arguments) if is_traced else None
    return function.apply(place, every, *arguments) if wants_grad else operators[1](every, *arguments, *place[:2])[:2]
