"""Linear cross-entropy: the loss of hidden states against a vocabulary, without the logits of all rows at once."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, SupportsIndex, Unpack

import numpy as np
from numpy.typing import ArrayLike

from .. import _check, _device, _foreign
from .._backends import registry
from .._options import LINEAR, LinearOptions, passed, takes_options
from . import calls, engine, log_probs, products
from .calls import GRADIENTS

__all__ = [
    "LinearLogProbs",
    "LinearLogProbsAndGrad",
    "LinearLossAndGrad",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "linear_log_probs",
    "linear_log_probs_and_grad",
]


class LinearLossAndGrad(NamedTuple):
    """A loss, and its gradients on hidden states, weight and bias: None for one that was not asked for."""

    loss: Any
    hidden: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None


@functools.partial(takes_options, names=LINEAR)
def linear_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    rows: int | None = None,
    **options: Unpack[LinearOptions],
) -> Any:
    """Cross-entropy of targets against the softmax of ``hidden @ weight.T + bias``, whose logits are never all there.

    Parameters
    ----------
    hidden : array_like, shape (..., H)
        float16, bfloat16, float32, float64, or integers (taken as float64); any strides and byte order.
    weight : array_like, shape (V, H)
        As that of `torch.nn.Linear`, of the dtype of ``hidden``; any strides: the transpose of an (H, V) array will do.
    targets : array_like
        Classes: any integer dtype, of the rows' shape (hidden without its last axis). Or probabilities: floating, of
        shape (..., V).
    bias : array_like, shape (V,), optional
        Of any of the four floating dtypes.
    rows : int, optional
        Rows of logits at once. By default 512, fewer where their logits take more than the larger of 64 MiB and half
        of the weight's bytes, but at least 128; chunks are of about equal length.
    {options}

    Returns
    -------
    scalar, or ndarray of the rows' shape with ``reduction='none'``
        In nats; float64 for float64 and integers, otherwise float32.

    Raises
    ------
    {raises}

    Notes
    -----
    Eq. 5 and 6 of the note, of logits that are a linear layer's. Logits are float32 (float64 for float64) whatever the
    operands are; of these the loss is within the limits of `cross_entropy`. Rows that do not count are not read.

    The memory that it takes is that of ``rows`` rows of logits. Products are those of NumPy's BLAS, on its threads, or
    the package's own (``docs/performance.md``).

    Examples
    --------
    >>> hidden, weight = np.ones((3, 2)), np.zeros((5, 2))  # 3 rows of 2 features, 5 classes
    >>> round(float(crossentropy.linear_cross_entropy(hidden, weight, [0, 4, 2])), 6)
    1.609438
    """
    if _device.holds(hidden):
        of_device = registry.device_backend("hidden").linear_cross_entropy
        return of_device(hidden, weight, targets, bias=bias, rows=rows, **options)
    left = passed("linear_cross_entropy", options, ("bias", "rows"), LINEAR)
    layer = calls.layer(hidden, weight, bias, rows)
    loss = engine.loss(layer, calls.loss(layer, targets, left), products.for_arrays(layer.hidden.dtype))
    return _foreign.returned(loss, hidden)


@functools.partial(takes_options, names=LINEAR)
def linear_cross_entropy_and_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    rows: int | None = None,
    wrt: str | Iterable[str] = GRADIENTS,
    grad_output: ArrayLike = 1.0,
    out: Mapping[str, np.ndarray] | LinearLossAndGrad | None = None,
    accumulate: bool = False,
    **options: Unpack[LinearOptions],
) -> LinearLossAndGrad:
    """The loss of `linear_cross_entropy`, and its gradients on hidden states, weight and bias: three products.

    Parameters
    ----------
    hidden, weight, targets, bias, rows
        As for `linear_cross_entropy`.
    {options}
    wrt : str or iterable of str, default ``('hidden', 'weight', 'bias')``
        The gradients that are wanted; the others take no time.
    grad_output : float, or array_like of the rows' shape with ``reduction='none'``; default 1
        The gradient that arrives at the loss (back-propagation).
    out : mapping of str to ndarray, or LinearLossAndGrad, optional
        Where to put gradients, by name; one that it lacks is a new array. Each is of its parameter's shape and (native)
        dtype, or of float32 for parameters of 16 bits, writeable, and shares memory with nothing else.
    accumulate : bool, default False
        Add to the arrays of ``out`` in place of overwriting them: the gradient of several batches.

    Returns
    -------
    LinearLossAndGrad
        Named tuple (loss, hidden, weight, bias): the loss in nats as `linear_cross_entropy` returns it (not multiplied
        by ``grad_output``), gradients of the shape and dtype of their parameters, None where not wanted or without a
        bias.

    Raises
    ------
    {raises}

    Notes
    -----
    The gradient on the logits, ``docs/derivation.md`` section 3, times the weight, and its transpose times hidden. It
    is right on confident rows, too, whose gradient is small: at the target it is the sum of the others, not p - 1. Sums
    over rows and classes are float32 (float64 for float64, and for the bias), rounded once.

    Examples
    --------
    >>> hidden, weight, targets = np.ones((6, 2)), np.zeros((4, 2)), np.array([0, 0, 2, 1, 1, 3])
    >>> found = crossentropy.linear_cross_entropy_and_grad(hidden, weight, targets)
    >>> found.hidden.shape, found.weight.shape, found.bias
    ((6, 2), (4, 2), None)
    >>> total = np.zeros((4, 2))
    >>> for batch in (slice(0, 4), slice(4, 6)):  # micro-batches: hidden's gradients apart, the weight's added up
    ...     found = crossentropy.linear_cross_entropy_and_grad(
    ...         hidden[batch], weight, targets[batch], normalizer=6, out={"weight": total}, accumulate=True
    ...     )
    >>> total * 12
    array([[-1., -1.],
           [-1., -1.],
           [ 1.,  1.],
           [ 1.,  1.]])
    """
    if _device.holds(hidden):
        of_device = registry.device_backend("hidden").linear_cross_entropy_and_grad
        rest = {
            "bias": bias,
            "rows": rows,
            "wrt": wrt,
            "grad_output": grad_output,
            "out": out,
            "accumulate": accumulate,
        }
        return LinearLossAndGrad(*of_device(hidden, weight, targets, **rest, **options))
    more = ("bias", "rows", "wrt", "grad_output", "out", "accumulate")
    left = passed("linear_cross_entropy_and_grad", options, more, LINEAR)
    layer = calls.layer(hidden, weight, bias, rows)
    call = calls.loss(layer, targets, left)
    g = _check.grad_output(grad_output, call)
    to = calls.gradients(layer, calls.wanted(wrt), out, accumulate, call.sources | _arrays_of(grad_output=grad_output))
    by = products.for_arrays(layer.hidden.dtype)
    found = LinearLossAndGrad(engine.loss_and_gradients(layer, call, by, to, g), *to.results)
    return _foreign.returned(found, hidden)


# ---------------------------------------------------------------------- log-probabilities of chosen classes


class LinearLogProbs(NamedTuple):
    """The log-probability of a chosen class, and the entropy over the classes, of each row."""

    log_prob: Any
    entropy: Any


class LinearLogProbsAndGrad(NamedTuple):
    """Those, and gradients on hidden states, weight and bias: None for one that was not asked for."""

    log_prob: Any
    entropy: Any
    hidden: np.ndarray | None
    weight: np.ndarray | None
    bias: np.ndarray | None


def linear_log_probs(
    hidden: ArrayLike,
    weight: ArrayLike,
    index: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    rows: int | None = None,
    ignore_index: SupportsIndex | None = None,
) -> LinearLogProbs:
    """log p of a chosen class, and the entropy of p, for each row of ``hidden @ weight.T + bias``.

    What policy gradients, preferences and distillation need of a language model: how likely its tokens were, and how
    sure it was.

    Parameters
    ----------
    hidden, weight, bias, rows
        As for `linear_cross_entropy`.
    index : array_like
        A class for each row: any integer dtype, of the rows' shape.
    ignore_index : int, optional
        Rows with this index are not read: both of their numbers, and their gradient, are 0.

    Returns
    -------
    LinearLogProbs
        Named tuple (log_prob, entropy) of arrays of the rows' shape, in nats: log p_y <= 0, -sum_c p_c log p_c >= 0;
        float64 for float64 and integers, otherwise float32.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `linear_cross_entropy`; for probabilities as ``index``, too.

    Notes
    -----
    Of logits that are a linear layer's; the entropy is derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> found = crossentropy.linear_log_probs(np.ones((3, 2)), np.zeros((4, 2)), [0, 0, 2])
    >>> np.exp(found.log_prob).round(6), np.exp(found.entropy).round(6)
    (array([0.25, 0.25, 0.25]), array([4., 4., 4.]))
    """
    if _device.holds(hidden):
        of_device = registry.device_backend("hidden").linear_log_probs
        return LinearLogProbs(*of_device(hidden, weight, index, bias=bias, rows=rows, ignore_index=ignore_index))
    layer, call = _chosen(hidden, weight, index, bias, rows, ignore_index)
    found = log_probs.log_probs(layer, call, products.for_arrays(layer.hidden.dtype))
    return _foreign.returned(LinearLogProbs(*found), hidden)


def linear_log_probs_and_grad(
    hidden: ArrayLike,
    weight: ArrayLike,
    index: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    rows: int | None = None,
    ignore_index: SupportsIndex | None = None,
    grad_log_prob: ArrayLike = 1.0,
    grad_entropy: ArrayLike = 0.0,
    wrt: str | Iterable[str] = GRADIENTS,
    out: Mapping[str, np.ndarray] | LinearLogProbsAndGrad | None = None,
    accumulate: bool = False,
) -> LinearLogProbsAndGrad:
    """What `linear_log_probs` returns, and the gradients of a weighted sum of it.

    Parameters
    ----------
    hidden, weight, index, bias, rows, ignore_index
        As for `linear_log_probs`.
    grad_log_prob, grad_entropy : float, or array_like of the rows' shape; default 1 and 0
        The gradients that arrive at the two results (back-propagation).
    wrt, out, accumulate
        As for `linear_cross_entropy_and_grad`.

    Returns
    -------
    LinearLogProbsAndGrad
        Named tuple (log_prob, entropy, hidden, weight, bias), of which the first two are in nats.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `linear_log_probs`; for gradients and ``out`` that do not fit.

    Notes
    -----
    On the logits the gradients are delta_cy - p_c, and -p_c (log p_c + entropy): ``docs/derivation.md``, section 2.

    Examples
    --------
    >>> hidden, weight = np.ones((3, 2)), np.zeros((4, 2))
    >>> found = crossentropy.linear_log_probs_and_grad(hidden, weight, [0, 0, 2], grad_log_prob=np.ones(3))
    >>> found.weight
    array([[ 1.25,  1.25],
           [-0.75, -0.75],
           [ 0.25,  0.25],
           [-0.75, -0.75]])
    """
    given = {"grad_log_prob": grad_log_prob, "grad_entropy": grad_entropy}
    if _device.holds(hidden):
        of_device = registry.device_backend("hidden").linear_log_probs_and_grad
        rest = {"bias": bias, "rows": rows, "ignore_index": ignore_index, "wrt": wrt, "out": out}
        return LinearLogProbsAndGrad(*of_device(hidden, weight, index, accumulate=accumulate, **rest, **given))
    layer, call = _chosen(hidden, weight, index, bias, rows, ignore_index)
    g = [_check.grad_output(value, call, name) for name, value in given.items()]
    to = calls.gradients(layer, calls.wanted(wrt), out, accumulate, call.sources | _arrays_of(**given))
    found = log_probs.log_probs(layer, call, products.for_arrays(layer.hidden.dtype), to, g)
    return _foreign.returned(LinearLogProbsAndGrad(*found, *to.results), hidden)


def _chosen(
    hidden: Any, weight: Any, index: Any, bias: Any, rows: Any, ignore_index: Any
) -> tuple[calls.Layer, _check.Loss]:
    """A checked call whose targets are classes."""
    layer = calls.layer(hidden, weight, bias, rows)
    left = {"reduction": "none"} | ({} if ignore_index is None else {"ignore_index": ignore_index})
    call = calls.loss(layer, index, left)
    if call.options.probabilities:
        raise TypeError(f"index must be integers (classes), got {call.targets.dtype}")
    return layer, call


def _arrays_of(**given: Any) -> dict[str, np.ndarray]:
    return {name: a for name, a in given.items() if isinstance(a, np.ndarray)}
