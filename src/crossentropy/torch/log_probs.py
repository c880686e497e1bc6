"""The log-probability of a chosen class and the entropy of each row of logits, differentiable, in one read of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from .._options import OPTIONS
from . import calls, private
from .log_probs_ops import LogProbs, Settings, composed, forward, log_probs


class TokenLogProbs(NamedTuple):
    """The log-probability of a chosen class, and the entropy over the classes, of each row."""

    log_prob: torch.Tensor
    entropy: torch.Tensor


def token_log_probs(
    logits: torch.Tensor,
    index: torch.Tensor,
    *,
    dim: int = -1,
    ignore_index: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = 0.0,
    class_prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """log p of a chosen class of each row: ``log_softmax(logits, dim).gather(dim, index)`` without the log-softmax.

    What policy gradients and preference losses need of a language model: how likely its tokens were.

    Parameters
    ----------
    logits : Tensor, shape (..., C, ...)
        float32, float64, bfloat16 or float16, in any strides.
    index : Tensor
        A class for each row: any integer dtype, of the shape of ``logits`` without ``dim``.
    dim : int, default -1
        The class axis.
    ignore_index : int, optional
        Rows with this index are not read: their numbers, and their gradient, are 0.
    logit_scale, softcap, class_prior
        As for `crossentropy.cross_entropy`: the probabilities are of softcap(logit_scale z) + class_prior.

    Returns
    -------
    Tensor
        Of the rows' shape, in nats, differentiable in the logits; float64 for float64, otherwise float32.

    Raises
    ------
    TypeError, ValueError, IndexError
        For what does not fit; an index that is no class.

    Notes
    -----
    Forward and backward read the logits once each, and the one array of their size that is made is the gradient, g
    (delta_cy - p_c) (``docs/derivation.md``, section 2). Values are within 1.5 ulp of float32, 2 of float64, whatever
    dtype the logits are of.

    Examples
    --------
    >>> import torch, crossentropy.torch
    >>> crossentropy.torch.token_log_probs(torch.zeros(2, 4), torch.tensor([0, 2]))
    tensor([-1.3863, -1.3863])
    """
    return _call("token_log_probs", logits, index, dim, ignore_index, logit_scale, softcap, class_prior)[0]


def entropy(
    logits: torch.Tensor,
    *,
    dim: int = -1,
    logit_scale: float = 1.0,
    softcap: float | None = 0.0,
    class_prior: torch.Tensor | None = None,
) -> torch.Tensor:
    """The entropy of the softmax of each row, -sum_c p_c log p_c, with full relative accuracy where one class leads.

    Parameters
    ----------
    logits, dim, logit_scale, softcap, class_prior
        As for `token_log_probs`.

    Returns
    -------
    Tensor
        Of the rows' shape, in nats, differentiable in the logits; float64 for float64, otherwise float32.

    Raises
    ------
    TypeError, ValueError
        For what does not fit.

    Notes
    -----
    Its gradient is -p_c (log p_c + h) (``docs/derivation.md``, section 2). Values are within 2 ulp of float32, 4 of
    float64.

    Examples
    --------
    >>> import torch, crossentropy.torch
    >>> crossentropy.torch.entropy(torch.zeros(2, 4))
    tensor([1.3863, 1.3863])
    """
    return _call("entropy", logits, None, dim, None, logit_scale, softcap, class_prior)[1]


def token_log_probs_and_entropy(
    logits: torch.Tensor,
    index: torch.Tensor,
    *,
    dim: int = -1,
    ignore_index: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = 0.0,
    class_prior: torch.Tensor | None = None,
) -> TokenLogProbs:
    """`token_log_probs` and `entropy` at once: one read of the logits forward, and one backward.

    Parameters
    ----------
    logits, index, dim, ignore_index, logit_scale, softcap, class_prior
        As for `token_log_probs`.

    Returns
    -------
    TokenLogProbs
        Named tuple (log_prob, entropy), in nats.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `token_log_probs`.

    Examples
    --------
    The loss of a policy gradient, with a bonus for entropy:

    >>> import torch, crossentropy.torch
    >>> logits, tokens = torch.zeros(3, 4, requires_grad=True), torch.tensor([0, 2, -100])
    >>> found = crossentropy.torch.token_log_probs_and_entropy(logits, tokens, ignore_index=-100)
    >>> loss = -(torch.tensor([1.0, -0.5, 0.0]) * found.log_prob + 0.01 * found.entropy).sum() / 2
    >>> loss.backward()
    >>> found.entropy.detach()
    tensor([1.3863, 1.3863, 0.0000])
    """
    found = _call("token_log_probs_and_entropy", logits, index, dim, ignore_index, logit_scale, softcap, class_prior)
    return TokenLogProbs(*found)


def _call(function, logits, index, dim, ignore_index, logit_scale, softcap, prior):
    if has_torch_function_variadic(*(t for t in (logits, index, prior) if t is not None)):
        given = {"dim": dim, "logit_scale": logit_scale, "softcap": softcap, "class_prior": prior}
        places, public = (logits,), globals()[function]
        if index is not None:
            places, given["ignore_index"] = (logits, index), ignore_index
        found = handle_torch_function(public, (logits, index, prior), *places, **given)
        return {"token_log_probs": (found, None), "entropy": (None, found)}.get(function, found)
    settings = _checked(logits, index, dim, ignore_index, logit_scale, softcap, prior)
    ours = logits.is_cpu or logits.is_meta  # on a device by PyTorch's operations, as wherever tensors are not plain
    if not ours or private.is_wrapper(logits) or logits.layout is not torch.strided or calls.is_pytorchs(prior):
        return composed(logits, index, prior, settings)
    if private.is_traced(logits, index, prior):
        return log_probs(logits, index, prior, *settings)[:2]
    if not (logits.requires_grad and torch.is_grad_enabled()):
        return forward(logits, index, prior, settings)[:2]
    return LogProbs.apply(logits, index, prior, settings)


def _checked(logits, index, dim, ignore_index, logit_scale, softcap, prior) -> Settings:
    for name, t in (("logits", logits), ("index", index), ("class_prior", prior)):
        if not isinstance(t, torch.Tensor) and (name == "logits" or t is not None):
            raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
    if logits.dtype not in calls.FLOATS:
        raise TypeError(f"logits must be float32, float64, bfloat16 or float16, got {logits.dtype}")
    if not logits.dim() or type(dim) is not int or not -logits.dim() <= dim < logits.dim():
        raise IndexError(f"dim must be an axis of logits of shape {tuple(logits.shape)}, got {dim!r}")
    dim %= logits.dim()
    classes, rows = logits.shape[dim], (*logits.shape[:dim], *logits.shape[dim + 1 :])
    if classes == 0:
        raise ValueError(f"logits must have at least one class, got shape {tuple(logits.shape)} with dim={dim}")
    if index is not None:
        if index.dtype not in calls.INTEGERS:
            raise TypeError(f"index must have an integer dtype, got {index.dtype}")
        if tuple(index.shape) != rows:
            raise ValueError(f"index must have the shape of logits without dim, {rows}, got {tuple(index.shape)}")
        if index.device != logits.device:
            raise ValueError(f"index must be on the device of logits, {logits.device}, got {index.device}")
    if prior is not None and (tuple(prior.shape) != (classes,) or not prior.is_floating_point()):
        raise ValueError(f"class_prior must be floating of shape ({classes},), got {prior.dtype} {tuple(prior.shape)}")
    if ignore_index is not None:
        ignore_index = calls.as_number(int, ignore_index)
        if type(ignore_index) is not int or not -(2**63) <= ignore_index < 2**63:
            raise ValueError(f"ignore_index must be an integer of 64 bits, got {ignore_index!r}")
    scale, cap = (
        OPTIONS[name].rule(value, name) for name, value in (("logit_scale", logit_scale), ("softcap", softcap))
    )
    return Settings(dim, ignore_index, scale, cap)
