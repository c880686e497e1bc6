"""The products of a linear loss by PyTorch's BLAS, for float32 and float64: `linear.products` says what each gives.

They get NumPy's arrays, and work in the same memory.
"""

from __future__ import annotations

import numpy as np
import torch

# Results go to ``out`` throughout, because autocast would round the operands of a call without.


def logits(x: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """out[B, V] = x[B, H] weight[V, H]^T."""
    torch.mm(_tensor(x), _tensor(weight).T, out=_tensor(out))


def hidden(grad: np.ndarray, weight: np.ndarray, out: np.ndarray) -> None:
    """out[B, H] = grad[B, V] weight[V, H]."""
    torch.mm(_tensor(grad), _tensor(weight), out=_tensor(out))


def weight(grad: np.ndarray, x: np.ndarray, out: np.ndarray, add: bool) -> None:
    """out[V, H] = grad[B, V]^T x[B, H], or that added to it."""
    g, x, to = _tensor(grad).T, _tensor(x), _tensor(out)
    if add:
        torch.addmm(to, g, x, out=to)
    else:
        torch.mm(g, x, out=to)


def _tensor(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(a)
