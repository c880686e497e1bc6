"""The CUDA backend by its public name: the public functions, for arrays that lie on a device."""

from ._backends.cuda import (
    backward,
    cross_entropy,
    cross_entropy_and_grad,
    forward,
    log_softmax,
    log_softmax_backward,
    log_softmax_forward,
    logsumexp,
    numbers_of,
    restored,
    restored_log_softmax,
    softmax,
    unavailable,
)

__all__ = [
    "backward",
    "cross_entropy",
    "cross_entropy_and_grad",
    "forward",
    "log_softmax",
    "log_softmax_backward",
    "log_softmax_forward",
    "logsumexp",
    "numbers_of",
    "restored",
    "restored_log_softmax",
    "softmax",
    "unavailable",
]
