"""Row functions for a program's own Numba code: logsumexp, log-softmax, cross-entropy and its gradient of one row.

They may be called from any ``@njit`` function, parallel or not, and from Python; rows are one-dimensional arrays of
float32 or float64 with any stride, and any other type is a TypingError. They are as accurate as the rest of the
package, and read a row once from memory.

    >>> from crossentropy.numba_rows import cross_entropy_grad_row
    >>> @numba.njit(parallel=True)
    ... def loss_and_gradient(logits, targets, grad):
    ...     loss, scale = 0.0, 1 / len(logits)
    ...     for n in numba.prange(len(logits)):
    ...         loss += scale * cross_entropy_grad_row(logits[n], targets[n], scale, grad[n])
    ...     return loss
"""

import math

import numpy as np
from numba import njit

from ._backends.numba.compiling import OPTIONS
from ._backends.numba.memory import address
from ._backends.numba.row_arrays import as_row, read_array, require
from ._backends.numba.rows import SCRATCH, parts, read_row, target_gradient, undefined_max, write_exp, write_log_softmax

__all__ = ["cross_entropy_grad_row", "cross_entropy_row", "log_softmax_row", "logsumexp_row"]


@njit(**OPTIONS)
def logsumexp_row(z):
    """Log of the sum of exponentials of one row.

    Parameters
    ----------
    z : 1-d array of float32 or float64
        Logits, of which there may be none; any stride.

    Returns
    -------
    float64
        In nats; NaN where the row has a NaN, else +inf where it has one, and -inf where there is nothing else.

    Raises
    ------
    numba.TypingError
        For another type of ``z``.

    Notes
    -----
    This and the functions below may be called from any ``@njit`` function, parallel or not, and from Python. Derived
    in ``docs/derivation.md``, section 1.

    Examples
    --------
    >>> round(crossentropy.numba_rows.logsumexp_row(np.zeros(4)), 6)
    1.386294
    """
    m, _, log_sum, _ = read_array(z, -1)
    return (m + log_sum[0]) + log_sum[1] if m == m else undefined_max(as_row(z), address(z), z.size, z)


@njit(**OPTIONS)
def cross_entropy_row(z, y):
    """Loss of one row: -log p_y (eq. 6).

    Parameters
    ----------
    z : 1-d array of float32 or float64
        Logits, as for `logsumexp_row`.
    y : int
        The target.

    Returns
    -------
    float64
        In nats, with full relative accuracy where it is small. NaN where the row is undefined, or y no class.

    Raises
    ------
    numba.TypingError
        For other types.

    Examples
    --------
    >>> crossentropy.numba_rows.cross_entropy_row(np.array([50.0, 0.0]), 0)
    1.9287498479639178e-22
    """
    if not 0 <= y < z.size:
        return np.nan
    m, _, log_sum, target = read_array(z, y)
    return (m - target) + (log_sum[0] + log_sum[1])


@njit(**OPTIONS)
def cross_entropy_grad_row(z, y, scale, grad):
    """Loss of one row, and its gradient p - onehot(y) times a factor.

    Parameters
    ----------
    z : 1-d array of float32 or float64
        Logits, as for `logsumexp_row`.
    y : int
        The target.
    scale : float
        What the gradient is multiplied by: 1/N for a mean.
    grad : 1-d array of z's size and dtype
        Where the gradient goes; may be z itself.

    Returns
    -------
    float64
        The loss in nats, as `cross_entropy_row` has it, which ``scale`` does not change. Where that is NaN the gradient
        is.

    Raises
    ------
    ValueError
        If ``grad`` has another size.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 3.

    Examples
    --------
    >>> grad = np.empty(4)
    >>> loss = crossentropy.numba_rows.cross_entropy_grad_row(np.zeros(4), 1, 1.0, grad)
    >>> round(loss, 6), grad
    (1.386294, array([ 0.25, -0.75,  0.25,  0.25]))
    """
    require(z, grad)
    if not 0 <= y < z.size:
        grad[:] = np.nan
        return np.nan
    x_buffer, _, scratch, pad = parts(np.empty(SCRATCH, z.dtype))
    row, at, out, to = as_row(z), address(z), as_row(grad), address(grad)
    m, rest, log_sum, target = read_row(row, at, z.size, y, 0.0, True, x_buffer, pad, 0)
    if math.isnan(m):
        grad[:] = np.nan
        return np.nan
    factor, value = scale / (1 + rest), scale * target_gradient(m, rest, target, 1.0, 0.0, 1.0, z)
    write_exp(row, at, out, to, z.size, m, factor, y, value, False, 0, x_buffer, scratch, pad)
    return (m - target) + (log_sum[0] + log_sum[1])


@njit(**OPTIONS)
def log_softmax_row(z, out):
    """Log of the softmax of one row.

    Parameters
    ----------
    z : 1-d array of float32 or float64
        Logits, as for `logsumexp_row`.
    out : 1-d array of z's size and dtype
        Where the result goes, in nats; may be z itself. NaN throughout where the row is undefined.

    Returns
    -------
    None

    Raises
    ------
    ValueError
        If ``out`` has another size.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 1.

    Examples
    --------
    >>> out = np.empty(2)
    >>> crossentropy.numba_rows.log_softmax_row(np.array([50.0, 0.0]), out)
    >>> out
    array([-1.92874985e-22, -5.00000000e+01])
    """
    require(z, out)
    if z.size == 0:
        return
    x_buffer, _, scratch, pad = parts(np.empty(SCRATCH, z.dtype))
    row, at = as_row(z), address(z)
    m, _, log_sum, _ = read_row(row, at, z.size, -1, 0.0, False, x_buffer, pad, 0)
    write_log_softmax(row, at, as_row(out), address(out), z.size, m, log_sum, False, 0, x_buffer, scratch)
