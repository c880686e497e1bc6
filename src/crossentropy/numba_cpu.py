"""The Numba backend by its public name: ``crossentropy.config(backend=crossentropy.numba_cpu)`` takes it, too."""

from ._backends.numba import (
    backward,
    binary,
    distillation,
    forward,
    forward_backward,
    forward_backward_hessian,
    forward_block,
    log_probs_backward,
    log_softmax,
    log_softmax_backward,
    logsumexp,
    row_statistics,
    scan_targets,
    softmax,
    total,
)
from .numba_rows import cross_entropy_grad_row, cross_entropy_row, log_softmax_row, logsumexp_row

__all__ = [
    "backward",
    "binary",
    "cross_entropy_grad_row",
    "cross_entropy_row",
    "distillation",
    "forward",
    "forward_backward",
    "forward_backward_hessian",
    "forward_block",
    "log_probs_backward",
    "log_softmax",
    "log_softmax_backward",
    "log_softmax_row",
    "logsumexp",
    "logsumexp_row",
    "row_statistics",
    "scan_targets",
    "softmax",
    "total",
]
