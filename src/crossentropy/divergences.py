"""Targets that are a teacher's logits: the divergence of a student's softmax from a teacher's, and its gradient."""

from __future__ import annotations

import functools
from typing import Any, Literal, SupportsIndex, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _device, _foreign, _memory
from ._backends import registry
from ._options import passed, takes_options
from ._reduction import divisor, reduced, row_count, scaled
from .api import LossAndGrad

# Of the options of a loss, those that make sense without a target.
OPTIONS = ("axis", "sample_weight", "where", "reduction", "normalizer", "empty")


class DistillationOptions(TypedDict, total=False):
    """The options of `distillation`: ``**options: Unpack[DistillationOptions]``."""

    axis: SupportsIndex
    sample_weight: ArrayLike | None
    where: ArrayLike | None
    reduction: Literal["mean", "sum", "none"]
    normalizer: float | None
    empty: float


@functools.partial(takes_options, names=OPTIONS)
def distillation(
    student_logits: ArrayLike,
    teacher_logits: ArrayLike,
    *,
    temperature: float = 1.0,
    kind: str = "forward",
    beta: float = 0.5,
    grad_output: ArrayLike = 1.0,
    out: np.ndarray | None = None,
    **options: Unpack[DistillationOptions],
) -> LossAndGrad:
    """The divergence of a student's softmax from a teacher's, and its gradient on the student's logits, at once.

    Parameters
    ----------
    student_logits : array_like, shape (..., C, ...)
        float16, bfloat16, float32, float64, or integers (taken as float64); any strides and byte order. Or an array on
        a CUDA device; all other arrays must be there too, and the results are.
    teacher_logits : array_like
        Of the same shape, of any of these dtypes. (Where its dtype is the wider one, the student's logits are converted
        to it first.)
    {options}
    temperature : float > 0, default 1
        T: the softmaxes are those of the logits over T, and the loss is multiplied by T^2, so that its gradient keeps
        its size whatever T is (Hinton et al. 2015).
    kind : {'forward', 'reverse', 'js'}
        With p_s and p_t, the softmaxes of student and teacher: 'forward', KL(p_t || p_s); 'reverse', KL(p_s || p_t);
        'js', the generalised Jensen-Shannon divergence beta KL(p_t || m) + (1 - beta) KL(p_s || m) with m = beta p_t +
        (1 - beta) p_s (Agarwal et al. 2024; Lin 1991).
    beta : float in (0, 1), default 0.5
        Of 'js'.
    grad_output : float, or array_like of the rows' shape with ``reduction='none'``; default 1
        The gradient that arrives at the loss (back-propagation).
    out : ndarray, optional
        Where to put the gradient: of the shape and (native) dtype of the student's logits, writeable, sharing no memory
        with an input but for ``student_logits`` itself, which the gradient then overwrites.

    Returns
    -------
    LossAndGrad
        Named tuple (loss, grad): the loss in nats, a scalar or of the rows' shape with ``reduction='none'``, float64 if
        one of the logits is float64 or integers, otherwise float32; the gradient of the shape and dtype of the
        student's logits, rounded once. A row with a NaN or +inf, or with -inf alone, in either gives NaN.

    Raises
    ------
    TypeError, ValueError
        For a dtype, shape, axis, option or ``out`` that does not fit.

    Notes
    -----
    'mean' divides by the number of rows, or by the sum of ``sample_weight``. Both arrays are read once, and nothing of
    their size is made but the gradient. Equal logits, also up to a constant in each row, give a loss and gradient of
    exactly 0, and nearly equal ones keep their digits: the loss is within 4 ulp of float32 from 1e-12 on
    (``docs/derivation.md``, section 6). A class that is masked (-inf) in both does not count; one that only the student
    lacks makes 'forward' inf; one that only the teacher lacks makes 'reverse' inf, and its gradient NaN.

    References
    ----------
    Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015. Agarwal et al.: On-policy distillation of
    language models, ICLR 2024. Lin: Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory 37, 1991.

    Examples
    --------
    >>> crossentropy.distillation([[1.0, 0.0]], [[1.0, 0.5]], temperature=2.0)
    LossAndGrad(loss=np.float64(0.030373756319254368), grad=array([[ 0.12056566, -0.12056566]]))
    """
    left = passed(
        "distillation", options, ("temperature", "kind", "beta", "grad_output", "out"), dict.fromkeys(OPTIONS)
    )
    divergence = _check.divergence(temperature, kind, beta)
    if _device.holds(student_logits):
        of_device = registry.device_backend("student_logits").distillation
        return LossAndGrad(
            *of_device(student_logits, teacher_logits, divergence, grad_output=grad_output, out=out, **left)
        )
    call = _check.distillation(student_logits, teacher_logits, left)
    g = _check.grad_output(grad_output, call)
    backend = registry.current()
    by = divisor(backend, call)
    inputs = call.sources | ({"grad_output": grad_output} if isinstance(grad_output, np.ndarray) else {})
    to = _check.result(out, np.moveaxis(call.x, -1, call.axis), inputs, name="student_logits")
    rows, x = _memory.empty_rows(row_count(call.x)), call.x
    wider = call.targets.itemsize > x.itemsize
    if by == 0:
        to[...] = 0
    elif rows.size:
        grad = _check.classes_last(to, call.axis)
        if wider:
            x = _memory.copied(x, call.targets.dtype.newbyteorder("="))
        into: Any = x if wider else grad
        v = call.options.sample_weight
        backend.distillation(x, call.targets, *divergence, v, scaled(g, by), rows, into)
        if wider:
            with np.errstate(over="ignore", under="ignore"):
                grad[...] = into
    if wider and x is call.x:  # no row has been looked at
        x = np.broadcast_to(np.zeros((), call.targets.dtype.newbyteorder("=")), x.shape)
    wide = call._replace(x=x)  # whose loss is of the wider dtype
    found = LossAndGrad(reduced(backend, rows, wide, by), to if out is None else out)
    return _foreign.returned(found, student_logits)
