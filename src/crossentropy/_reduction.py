"""From the rows' losses to what a call returns: the divisor of a mean, the sum in a fixed order, the rounding."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from . import _check, _memory, _settings


def row_count(x: np.ndarray) -> int:
    """How many rows logits have whose class axis is last."""
    return x.size // x.shape[-1] if x.shape[-1] else 0


def loss_dtype(x: Any) -> type[np.floating[Any]]:
    """What a loss of such logits is."""
    return np.float64 if x.itemsize == 8 else np.float32


def divisor(backend: ModuleType, call: _check.Loss) -> float | None:
    """What 'mean' divides by, None for the other reductions; raises for a bad target."""
    options = call.options
    if options.probabilities:
        v = options.sample_weight
        by = float(row_count(call.x) if v is None else v.sum())
    else:
        classes = call.x.shape[-1]
        first_bad, by = backend.scan_targets(
            call.targets, classes, options.ignore_index, options.class_weight, options.sample_weight
        )
        if first_bad >= 0:
            if _settings.checks_targets():
                index = _check.index_of(first_bad, call.rows_shape)
                raise _check.bad_target(index, call.targets[first_bad], classes)
            by = by or 1.0  # the bad rows count, as NaN: this is not the mean over no row
    return by if call.reduction == "mean" and call.normalizer is None else call.normalizer


def scaled(g: Any, by: float | None) -> Any:
    """What arrives at a loss over the divisor, as backends take it."""
    return g if by is None else g / by


def rounded(values: np.ndarray, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Rounded once; a loss beyond float32 is inf, as it would be in any float32 arithmetic."""
    if dtype is np.float64:
        return values
    with np.errstate(over="ignore", under="ignore"):
        return _memory.copied(values, dtype)


def reduced(backend: ModuleType, rows: np.ndarray, call: _check.Loss, by: float | None) -> Any:
    """The rows' losses, float64, as the call's reduction has them."""
    dtype = loss_dtype(call.x)
    if call.reduction == "none":
        return rounded(rows.reshape(call.rows_shape), dtype)
    if by == 0:
        return dtype(call.empty)
    total = backend.total(rows)
    return as_scalar(total if by is None else total / by, dtype)


def as_scalar(value: float, dtype: type[np.floating[Any]]) -> Any:
    """One number as a NumPy scalar of the loss's dtype."""
    if dtype is np.float32 and not 2e-38 < abs(value) < 3e38:  # where NumPy would warn
        return rounded(np.array(value), dtype)[()]
    return dtype(value)


def gradient_array(call: _check.Loss, out: Any, grad_output: Any) -> np.ndarray:
    """The array that the gradient goes to, in the shape of the logits."""
    x = np.moveaxis(call.x, -1, call.axis)
    if out is None:
        return _check.result(None, x, {})
    g = {"grad_output": grad_output} if isinstance(grad_output, np.ndarray) else {}
    return _check.result(out, x, call.sources | g)
