"""Log-softmax, batched cross-entropy and its gradient, in compiled kernels accurate to the last place.

    >>> import numpy as np, crossentropy
    >>> logits = np.array([[50.0, 0.0], [0.0, 2.0]])
    >>> loss, grad = crossentropy.cross_entropy_and_grad(logits, np.array([0, 1]), reduction="none")

Names are imported when they are first used: ``import crossentropy`` costs little more than ``import numpy``.
"""

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what `_HOME` and `_MODULES` say, for type checkers and editors; a test compares the two
    from . import autograd, blocks, distributions, reference, testing, training
    from ._backends.registry import backends, config, get_config, set_config
    from ._include import get_include
    from ._memory import empty_cache
    from ._options import LinearOptions, LossOptions, PerRowOptions
    from .api import (
        LogAndSign,
        LossAndGrad,
        cross_entropy,
        cross_entropy_and_grad,
        cross_entropy_grad,
        log_softmax,
        logsumexp,
        softmax,
    )
    from .binary import (
        binary_cross_entropy_with_logits,
        binary_cross_entropy_with_logits_and_grad,
        sigmoid_focal_loss,
        sigmoid_focal_loss_and_grad,
    )
    from .divergences import DistillationOptions, distillation
    from .evaluation import Calibration, Evaluation, EvaluationResult
    from .linear import (
        LinearLogProbs,
        LinearLogProbsAndGrad,
        LinearLossAndGrad,
        linear_cross_entropy,
        linear_cross_entropy_and_grad,
        linear_log_probs,
        linear_log_probs_and_grad,
    )
    from .row_numbers import RowStatistics, row_statistics
    from .second_derivatives import HessianOptions, LossGradHess, cross_entropy_grad_hess

__version__ = "0.1.0"

_HOME = {
    "log_softmax": "api",
    "softmax": "api",
    "logsumexp": "api",
    "cross_entropy": "api",
    "cross_entropy_and_grad": "api",
    "cross_entropy_grad": "api",
    "LogAndSign": "api",
    "LossAndGrad": "api",
    "binary_cross_entropy_with_logits": "binary",
    "binary_cross_entropy_with_logits_and_grad": "binary",
    "sigmoid_focal_loss": "binary",
    "sigmoid_focal_loss_and_grad": "binary",
    "distillation": "divergences",
    "DistillationOptions": "divergences",
    "cross_entropy_grad_hess": "second_derivatives",
    "HessianOptions": "second_derivatives",
    "LossGradHess": "second_derivatives",
    "Calibration": "evaluation",
    "Evaluation": "evaluation",
    "EvaluationResult": "evaluation",
    "linear_cross_entropy": "linear",
    "linear_cross_entropy_and_grad": "linear",
    "linear_log_probs": "linear",
    "linear_log_probs_and_grad": "linear",
    "LinearLogProbs": "linear",
    "LinearLogProbsAndGrad": "linear",
    "LinearLossAndGrad": "linear",
    "LinearOptions": "_options",
    "LossOptions": "_options",
    "PerRowOptions": "_options",
    "RowStatistics": "row_numbers",
    "row_statistics": "row_numbers",
    "empty_cache": "_memory",
    "get_include": "_include",
    "backends": "_backends.registry",
    "config": "_backends.registry",
    "get_config": "_backends.registry",
    "set_config": "_backends.registry",
}
# What needs more than NumPy, or is for those who look under the functions: imported when it is named, as the others.
_OPTIONAL = (
    "bench",
    "boosting",
    "cuda",
    "jax",
    "keras",
    "native",
    "numba_cpu",
    "numba_overloads",
    "numba_rows",
    "sklearn",
    "torch",
)
_MODULES = ("autograd", "blocks", "distributions", "reference", "testing", "training")

__all__ = [
    "Calibration",
    "DistillationOptions",
    "Evaluation",
    "EvaluationResult",
    "HessianOptions",
    "LinearLogProbs",
    "LinearLogProbsAndGrad",
    "LinearLossAndGrad",
    "LinearOptions",
    "LogAndSign",
    "LossAndGrad",
    "LossGradHess",
    "LossOptions",
    "PerRowOptions",
    "RowStatistics",
    "__version__",
    "autograd",
    "backends",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_and_grad",
    "blocks",
    "config",
    "cross_entropy",
    "cross_entropy_and_grad",
    "cross_entropy_grad",
    "cross_entropy_grad_hess",
    "distillation",
    "distributions",
    "empty_cache",
    "get_config",
    "get_include",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "linear_log_probs",
    "linear_log_probs_and_grad",
    "log_softmax",
    "logsumexp",
    "reference",
    "row_statistics",
    "set_config",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_and_grad",
    "softmax",
    "testing",
    "training",
]

if not TYPE_CHECKING:  # a checker would take it for saying that every name exists

    def __getattr__(name):
        if name in _HOME:
            value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
            if overloads := sys.modules.get("crossentropy.numba_overloads"):  # Numba has asked for the functions
                overloads.register()
        elif name in _MODULES or name in _OPTIONAL:
            value = importlib.import_module(f".{name}", __name__)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
