"""Log-probabilities of chosen classes and entropies on tensors: by the kernels, by PyTorch's operations, as operators.

The gradient is computed in one pass from the logits and three numbers of each row; where it is to be differentiated
itself (create_graph), PyTorch's operations compute it.
"""

from __future__ import annotations

from collections import namedtuple

import torch
from torch.library import custom_op

from .. import autograd
from . import cache, private
from .bridge import array, loss_dtype, on_torchs_threads, tensor

Settings = namedtuple("Settings", ["dim", "ignore_index", "logit_scale", "softcap"])

_CALL = "Tensor input, Tensor? index, Tensor? class_prior, int dim, int? ignore_index, float logit_scale, float softcap"
_KEPT = _CALL.replace("class_prior,", "class_prior, Tensor statistics,")


def _named(index, prior, settings: Settings) -> tuple:
    """(index, options) as the package's functions take them."""
    options = settings._asdict()
    options["axis"] = options.pop("dim")
    if index is None:
        del options["ignore_index"]
    if prior is not None:
        options["class_prior"] = array(prior)
    return None if index is None else array(index), options


def forward(input, index, prior, settings: Settings):
    """(log_prob, entropy, statistics); a log_prob of no elements without an index."""
    index, options = _named(index, prior, settings)
    with on_torchs_threads(input):
        (log_prob, entropy), saved = autograd.log_probs_forward(array(input), index, **options)
    statistics = tensor(autograd.numbers_of(saved)[0])
    log_prob = input.new_empty(0, dtype=loss_dtype(input)) if log_prob is None else tensor(log_prob)
    return log_prob, tensor(entropy), statistics


def backward(arriving, input, index, prior, statistics, settings: Settings):
    """The gradient on the logits of what arrives at the two, None for nothing."""
    index, options = _named(index, prior, settings)
    out = cache.empty_like(input)
    with on_torchs_threads(input):
        saved = autograd.restored_log_probs(array(statistics), array(input), index, **options)
        autograd.log_probs_backward(saved, *(0.0 if g is None else array(g) for g in arriving), out=array(out))
    return out


def composed(input, index, prior, settings: Settings):
    """(log_prob, entropy) in PyTorch's operations; a log_prob of None without an index."""
    z = input.movedim(settings.dim, -1).to(loss_dtype(input))
    counts = None
    if index is not None and settings.ignore_index is not None:
        counts = index != settings.ignore_index
        z = torch.where(counts.unsqueeze(-1), z, 0)  # ignored rows may hold NaN, which must not reach the gradient
    z = z * settings.logit_scale
    if settings.softcap:
        z = settings.softcap * torch.tanh(z / settings.softcap)
    if prior is not None:
        z = z + prior.to(z.dtype)
    log_p = torch.log_softmax(z, -1)
    p = log_p.exp()
    entropy = -(p * torch.where(p > 0, log_p, 0)).sum(-1)
    if index is None:
        return None, entropy
    y = index.long() if counts is None else torch.where(counts, index, 0).long()
    log_prob = log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    if counts is None:
        return log_prob, entropy
    return torch.where(counts, log_prob, 0), torch.where(counts, entropy, 0)


def derivative(arriving, input, index, prior, settings: Settings):
    """The gradient on the logits, which can be differentiated further."""
    view = input.view_as(input)  # where the logits are computed from another input of the graph, theirs alone
    with torch.enable_grad():
        values = composed(view, index, prior, settings)
    pairs = [(value, g) for value, g in zip(values, arriving, strict=True) if value is not None and g is not None]
    outputs, grads = zip(*pairs, strict=True)
    (found,) = torch.autograd.grad(outputs, (view,), grads, create_graph=True)
    return found


# ---------------------------------------------------------------------- operators


@custom_op("crossentropy::log_probs", mutates_args=(), schema=f"({_CALL}) -> (Tensor, Tensor, Tensor)")
def log_probs(input, index, class_prior, *settings):
    """(log_prob, entropy, statistics)."""
    return forward(input, index, class_prior, Settings(*settings))


@log_probs.register_fake
def _(input, index, class_prior, *settings):
    dim, real = settings[0] % input.dim(), loss_dtype(input)
    rows, count = (*input.shape[:dim], *input.shape[dim + 1 :]), 1
    for size in rows:
        count = count * size
    log_prob = input.new_empty(0 if index is None else rows, dtype=real)
    statistics = input.new_empty((count, autograd.FIELDS), dtype=torch.float64)
    return log_prob, input.new_empty(rows, dtype=real), statistics


@custom_op(
    "crossentropy::log_probs_backward",
    mutates_args=(),
    schema=f"(Tensor? grad_log_prob, Tensor? grad_entropy, {_KEPT}) -> Tensor",
)
def log_probs_backward(grad_log_prob, grad_entropy, input, index, class_prior, statistics, *settings):
    """The gradient on the logits."""
    return backward((grad_log_prob, grad_entropy), input, index, class_prior, statistics, Settings(*settings))


@log_probs_backward.register_fake
def _(grad_log_prob, grad_entropy, input, index, class_prior, statistics, *settings):
    return torch.empty_like(input)


def _save(ctx, inputs, output):
    input, index, prior, *settings = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(input, index, prior, output[2])
    ctx.settings, ctx.has_index = Settings(*settings), index is not None


def _backward(ctx, grad_log_prob, grad_entropy, _):
    input, index, prior, statistics = ctx.saved_tensors
    arriving = grad_log_prob if ctx.has_index else None, grad_entropy
    if torch.is_grad_enabled():
        found = derivative(arriving, input, index, prior, ctx.settings)
    else:
        found = log_probs_backward(*arriving, input, index, prior, statistics, *ctx.settings)
    return found, *[None] * (2 + len(Settings._fields))


log_probs.register_autograd(_backward, setup_context=_save)


# ---------------------------------------------------------------------- eager calls


class LogProbs(torch.autograd.Function):
    """(log_prob, entropy); PyTorch does less for a Function than for an operator before a kernel runs."""

    @staticmethod
    def forward(ctx, input, index, prior, settings):  # noqa: D102
        log_prob, entropy, statistics = forward(input, index, prior, settings)
        ctx.save_for_backward(input, index, prior)
        ctx.statistics, ctx.settings = statistics, settings
        ctx.set_materialize_grads(False)
        return log_prob, entropy

    @staticmethod
    def backward(ctx, *arriving):  # noqa: D102
        input, index, prior = ctx.saved_tensors
        if index is None:
            arriving = None, arriving[1]
        if all(g is None for g in arriving):
            found = None
        elif torch.is_grad_enabled():
            found = derivative(arriving, input, index, prior, ctx.settings)
        elif any(g is not None and private.needs_operator(g) for g in arriving):
            found = log_probs_backward(*arriving, input, index, prior, ctx.statistics, *ctx.settings)
        else:
            found = backward(arriving, input, index, prior, ctx.statistics, ctx.settings)
        return found, None, None, None
