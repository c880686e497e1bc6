"""The batch: its divisor and mean (algorithm 1's cost), and the linear layer that its logits may come from."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from .exact import total


def divisor(targets: Sequence[Any], weights: Sequence[float], class_weight: Sequence[float] | None) -> float:
    """What 'mean' divides by: sum_n v_n w_{y_n} over index targets, sum_n v_n over probability targets.

    >>> crossentropy.reference.divisor([0, 1, 1], [1.0, 1.0, 0.0], [2.0, 3.0])
    5.0
    """
    index = [isinstance(target, int) for target in targets]
    return math.fsum(
        v * (class_weight[target] if is_index and class_weight is not None else 1.0)
        for v, target, is_index in zip(weights, targets, index, strict=True)
        if v != 0
    )


def mean(losses: Sequence[float], by: float, empty: float = math.nan) -> float:
    """c(b) of algorithm 1: the sum of the rows' losses over the divisor; ``empty`` where no row counts.

    >>> crossentropy.reference.mean([1.0, 2.0], 2.0)
    1.5
    """
    return total(losses) / by if by else empty


def linear(
    hidden: Sequence[float], weight: Sequence[Sequence[float]], bias: Sequence[float] | None = None
) -> list[float]:
    """The logits of a row of hidden states: z_c = sum_k W_ck x_k + beta_c.

    >>> crossentropy.reference.linear([1.0, 2.0], [[1.0, 0.0], [1.0, 1.0]], [0.5, 0.0])
    [1.5, 3.0]
    """
    betas = bias if bias is not None else [0.0] * len(weight)
    return [total([*map(operator.mul, w, hidden), beta]) for w, beta in zip(weight, betas, strict=True)]


def linear_grad(
    grad: Sequence[Sequence[float]], hidden: Sequence[Sequence[float]], weight: Sequence[Sequence[float]]
) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """The gradients on rows of hidden states, weight and bias, G W, G^T X and sum_n G_n, from the rows G on logits.

    >>> crossentropy.reference.linear_grad([[1.0, -1.0]], [[1.0, 2.0]], [[1.0, 0.0], [1.0, 1.0]])
    ([[0.0, -1.0]], [[1.0, 2.0], [-1.0, -2.0]], [1.0, -1.0])
    """
    classes, by_class = list(zip(*weight, strict=True)), list(zip(*grad, strict=True))
    columns = list(zip(*hidden, strict=True))
    on_hidden = [[total(list(map(operator.mul, g, w))) for w in classes] for g in grad]
    on_weight = [[total(list(map(operator.mul, g, x))) for x in columns] for g in by_class]
    return on_hidden, on_weight, [total(g) for g in by_class]
