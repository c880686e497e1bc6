"""The specification: log-softmax, cross-entropy and its gradient in pure Python, one row at a time.

Every backend is tested against this folder. Read it for the mathematics; nothing here is meant to be fast. A row is a
list of C floats, the logits z. Equation numbers are those of the note by R. Boutin that the package completes
(``docs/derivation.md``), "eq. 5-6" being the loss of one observation.

Accuracy. The difference of two logits is carried as an exact pair, sums are exact (``math.fsum``), and nothing that is
small is formed by subtracting what is large: with m = max z and the sum R of e^(z_c - m) over every class but one at
the maximum,

    lse = log sum_c e^(z_c) = m + log1p(R)        p_c = e^(z_c - m) / (1 + R)        1 - p_y = -expm1(-loss)

so that a loss of 1e-22 keeps every digit. Losses and log-probabilities are within 2 ulp of float64, probabilities and
gradients within 3 (tests/test_reference.py, against 400 digits).

Conventions. A product with a weight or probability of exactly 0 is 0, also with an infinite factor. A row with a NaN or
+inf, or with nothing but -inf, gives NaN, but for its logsumexp; a row of weight 0 is never looked at and gives 0.
"""

from .batch import divisor, linear, linear_grad, mean
from .binary import Binary, binary_cross_entropy, binary_cross_entropy_grad, sigmoid, softplus
from .blocks import Block, block, block_grad, block_log_probs_grad, merge_blocks, spread_weights
from .divergences import (
    KINDS,
    Pair,
    distillation,
    distillation_grad,
    divergence,
    divided,
    expm1_less,
    less_log1p,
    log_over_mixture,
    mixture_divergence,
    pair,
    tempered,
)
from .exact import exp_diff, times, total, two_diff, two_sum
from .loss import (
    PLAIN,
    Row,
    Terms,
    Transformed,
    below_max,
    capped,
    cross_entropy,
    cross_entropy_grad,
    largest_terms,
    probabilities,
    scaled,
    smoothed,
    target_weights,
    terms_of,
    transformed,
)
from .row_numbers import (
    Numbers,
    entropy,
    entropy_grad,
    largest,
    log_prob,
    log_probs_grad,
    log_probs_terms,
    numbers_of,
    rank,
)
from .rows import (
    LN2,
    LN2_HIGH,
    LN2_LOW,
    UNDEFINED,
    Partial,
    log_softmax,
    log_softmax_backward,
    log_softmax_terms,
    logsumexp,
    merge,
    partial,
    scaled_term,
    softmax,
    undefined_term,
    weighted_logsumexp,
)
from .second_derivatives import HESSIANS, XGBOOST_LEAST, cross_entropy_hessian, cross_entropy_hessian_product, curvature

__all__ = [
    "HESSIANS",
    "KINDS",
    "LN2",
    "LN2_HIGH",
    "LN2_LOW",
    "PLAIN",
    "UNDEFINED",
    "XGBOOST_LEAST",
    "Binary",
    "Block",
    "Numbers",
    "Pair",
    "Partial",
    "Row",
    "Terms",
    "Transformed",
    "below_max",
    "binary_cross_entropy",
    "binary_cross_entropy_grad",
    "block",
    "block_grad",
    "block_log_probs_grad",
    "capped",
    "cross_entropy",
    "cross_entropy_grad",
    "cross_entropy_hessian",
    "cross_entropy_hessian_product",
    "curvature",
    "distillation",
    "distillation_grad",
    "divergence",
    "divided",
    "divisor",
    "entropy",
    "entropy_grad",
    "exp_diff",
    "expm1_less",
    "largest",
    "largest_terms",
    "less_log1p",
    "linear",
    "linear_grad",
    "log_over_mixture",
    "log_prob",
    "log_probs_grad",
    "log_probs_terms",
    "log_softmax",
    "log_softmax_backward",
    "log_softmax_terms",
    "logsumexp",
    "mean",
    "merge",
    "merge_blocks",
    "mixture_divergence",
    "numbers_of",
    "pair",
    "partial",
    "probabilities",
    "rank",
    "scaled",
    "scaled_term",
    "sigmoid",
    "smoothed",
    "softmax",
    "softplus",
    "spread_weights",
    "target_weights",
    "tempered",
    "terms_of",
    "times",
    "total",
    "transformed",
    "two_diff",
    "two_sum",
    "undefined_term",
    "weighted_logsumexp",
]
