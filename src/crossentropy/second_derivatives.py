"""Second derivatives of the loss, for boosters and Newton methods, with the loss and the gradient at once."""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple, SupportsIndex, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _device, _foreign, _memory
from ._backends import registry
from ._options import passed, takes_options
from ._reduction import divisor, reduced, row_count, scaled

# The options of a loss whose second derivative there is.
OPTIONS = (
    "axis",
    "class_weight",
    "sample_weight",
    "where",
    "ignore_index",
    "label_smoothing",
    "z_loss",
    "reduction",
    "normalizer",
    "empty",
)


_OF_EITHER_SIGN = "with it the second derivative may have either sign, and is none that a step divides by"
_BY_HAND = "pass the logits as it makes them; of a z + b the gradient is a times, the Hessian a^2 times that"
NOT_TAKEN = {
    "logit_scale": _BY_HAND,
    "class_prior": _BY_HAND,
    "margin": _BY_HAND,
    "softcap": _OF_EITHER_SIGN,
    "focal": _OF_EITHER_SIGN,
}


class BoostingOptions(TypedDict, total=False):
    """Those of objectives and metrics of boosters, whose data have the weights of rows: ``Unpack[BoostingOptions]``."""

    class_weight: ArrayLike | None
    ignore_index: SupportsIndex | None
    label_smoothing: float
    z_loss: float


class HessianOptions(BoostingOptions, total=False):
    """The options of `cross_entropy_grad_hess`: ``**options: Unpack[HessianOptions]``."""

    axis: SupportsIndex
    sample_weight: ArrayLike | None
    where: ArrayLike | None
    reduction: Literal["mean", "sum", "none"]
    normalizer: float | None
    empty: float


class LossGradHess(NamedTuple):
    """A loss, its gradient on the logits, and what stands for its Hessian there."""

    loss: Any
    grad: np.ndarray
    hess: np.ndarray


@functools.partial(takes_options, names=OPTIONS)
def cross_entropy_grad_hess(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    hessian: str = "diagonal",
    vector: ArrayLike | None = None,
    out: np.ndarray | None = None,
    hess_out: np.ndarray | None = None,
    **options: Unpack[HessianOptions],
) -> LossGradHess:
    """The loss, its gradient and its second derivative on the logits, at once; no matrix is formed.

    Parameters
    ----------
    logits, targets : array_like
        As for `cross_entropy`.
    {options}
    hessian : {'diagonal', 'upper_bound', 'gauss_newton_product', 'xgboost', 'lightgbm'}
        What stands for the Hessian H of a row, with p the softmax, t the target's weights (a = sum_c t_c + 2 lambda lse
        and b = 2 lambda for ``z_loss`` lambda; 1 and 0 without options), H = a (diag p - p p^T) + b p p^T:

        'diagonal': a p_c (1 - p_c) + b p_c^2, exact also where 1 - p_c is 1e-20.
        'upper_bound': the diagonal of max(a, 0) (I - 1 1^T / C) / 2 + b I, a matrix no less than H whatever p is
        (Boehning 1992): (1 - 1 / C) / 2 for each class.
        'gauss_newton_product': H times ``vector``. (In the logits the Gauss-Newton matrix is the Hessian.)
        'xgboost': max(2 p_c (1 - p_c), 1e-16), as its multi:softprob has it. 'lightgbm': C / (C - 1) p_c (1 - p_c), as
        its multiclass objective has it. Both with a and b as in the diagonal.
    vector : array_like, optional
        Of the shape and dtype of logits, for 'gauss_newton_product' alone.
    out, hess_out : ndarray, optional
        Where to put the gradient and the second derivative: each of the shape and (native) dtype of logits, writeable,
        sharing no memory with an input or each other.

    Returns
    -------
    LossGradHess
        Named tuple (loss, grad, hess): loss, in nats, and gradient as of `cross_entropy_and_grad`; hess of the shape
        and dtype of logits, of the loss as it is reduced: over the rows' number for 'mean'. A booster, which wants each
        row's own, passes ``reduction='sum'`` or 'none'.

    Raises
    ------
    {raises}

    Notes
    -----
    Options that change the logits (``logit_scale``, ``softcap``, ``class_prior``, ``margin``) and ``focal`` are not
    among these. A softcap or focal loss has second derivatives of either sign, by which neither a booster nor a Newton
    step can divide, and neither has a bound as above. The others take the caller a line: of a z + b, with b lowered by
    the margin at the target, the gradient is a times, and the Hessian a^2 times, that of a loss without them.

    Derived in ``docs/derivation.md``, section 5. Within 4 ulp of float32 (8 of float64), with ``z_loss`` in ulps of the
    larger of an entry's two terms; the product in ulps of p_c times the largest difference of two entries of the
    vector. Rows that do not count have a second derivative of 0.

    References
    ----------
    Boehning: Multinomial logistic regression algorithm, Ann. Inst. Statist. Math. 44, 1992.

    Examples
    --------
    >>> crossentropy.cross_entropy_grad_hess([[50.0, 0.0]], [0]).hess
    array([[1.92874985e-22, 1.92874985e-22]])
    """
    more = "hessian", "vector", "out", "hess_out"
    for name in options:
        if name in NOT_TAKEN:
            why = NOT_TAKEN[name]
            raise TypeError(f"cross_entropy_grad_hess() got an unexpected keyword argument {name!r}: {why}")
    left = passed("cross_entropy_grad_hess", options, more, dict.fromkeys(OPTIONS))
    _check.hessian(hessian, vector)
    if _device.holds(logits):
        of_device = registry.device_backend().cross_entropy_grad_hess
        found = of_device(logits, targets, hessian=hessian, vector=vector, out=out, hess_out=hess_out, **left)
        return LossGradHess(*found)
    call = _check.loss(logits, targets, left)
    u = None if vector is None else _check.vector(vector, call)
    backend = registry.current()
    by = divisor(backend, call)
    x = np.moveaxis(call.x, -1, call.axis)
    sources = call.sources if u is None else call.sources | {"vector": u}
    grad = _check.result(out, x, sources, may_be_x=False)
    hess = _check.result(hess_out, x, sources | {"out": grad}, may_be_x=False, called="hess_out")
    rows = _memory.empty_rows(row_count(call.x))
    if by == 0:
        grad[...] = hess[...] = 0
    elif rows.size:
        of_rows = (_check.classes_last(a, call.axis) for a in (grad, hess))
        last = None if u is None else _check.classes_last(u, call.axis)
        scale = scaled(1.0, by)
        backend.forward_backward_hessian(call.x, call.targets, call.options, hessian, last, scale, rows, *of_rows)
    loss = reduced(backend, rows, call, by)
    found = LossGradHess(loss, grad if out is None else out, hess if hess_out is None else hess_out)
    return _foreign.returned(found, logits)
