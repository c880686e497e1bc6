"""Errors in units of the last place, the limits of the accuracy contract, and assertions by them."""

from __future__ import annotations

import contextlib

import numpy as np

from .. import reference

# mantissa bits with the implicit one, exponent of the smallest normal number
FORMATS = {"float16": (11, -14), "bfloat16": (8, -126), "float32": (24, -126), "float64": (53, -1022)}

# Limits by dtype of the logits; the reference, to which results are compared here, is allowed 1 more.
LIMITS = {
    "float32": {"loss": 1.5, "log_softmax": 1.5, "grad": 3},
    "float64": {"loss": 2, "log_softmax": 2, "grad": 5},
    "float16": {"loss": 1.5, "log_softmax": 0.51, "grad": 0.51},
    "bfloat16": {"loss": 1.5, "log_softmax": 0.51, "grad": 0.51},
}


def dtypes() -> dict[str, np.dtype]:
    """The dtypes of logits that can be had here, by name: bfloat16 is that of ml_dtypes.

    Examples
    --------
    >>> sorted(crossentropy.testing.dtypes())[:3]
    ['bfloat16', 'float16', 'float32']
    """
    found = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
    with contextlib.suppress(ModuleNotFoundError):
        import ml_dtypes

        found["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    return found


def result_dtype(dtype, what) -> str:
    """The dtype whose ulp a result is judged in: losses of 16-bit logits are float32.

    Examples
    --------
    >>> crossentropy.testing.result_dtype(np.dtype(np.float16), 'loss')
    'float32'
    """
    return "float32" if what == "loss" and dtype.itemsize == 2 else dtype.name


def spacing(values, name):
    """One ulp at each value; the subnormal spacing below the normal range."""
    bits, least = FORMATS[name]
    # In float64 for what is that: a long double's exponent takes ten times as long, and no ulp is less than 2^-1074.
    real = np.float64 if getattr(values, "dtype", None) == np.float64 else np.longdouble
    _, exponent = np.frexp(np.abs(np.asarray(values, real)))
    return np.ldexp(real(1), np.maximum(exponent - 1, least) - (bits - 1))


def largest_error(got, expected, name, unit_at=None) -> float:
    """The largest error in ulps of the format at ``unit_at`` (by default at the expected value).

    A wrong pattern of inf and NaN gives inf.

    Examples
    --------
    >>> crossentropy.testing.largest_error([1.0], [1.0 + 2**-51], 'float64')
    2.0
    """
    got, expected = np.asarray(got, np.longdouble), np.asarray(expected, np.longdouble)
    bits, least = FORMATS[name]
    with np.errstate(over="ignore"):  # where long double is double
        beyond = np.ldexp(2 - np.ldexp(np.longdouble(1), -bits), 1 - least)  # rounds to inf from here on
    expected = np.where(np.abs(expected) >= beyond, np.copysign(np.inf, expected), expected)
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True) or not np.isfinite(got[finite]).all():
        return np.inf
    if not finite.any():
        return 0.0
    unit = spacing(expected if unit_at is None else np.maximum(np.abs(expected), unit_at), name)
    return float((np.abs(got[finite] - expected[finite]) / unit[finite]).max())


def within(got, expected, dtype, what, unit_at=None, times=1) -> None:
    """Assert that a result is within the contract, so many times, plus 1 ulp for what the reference may be off.

    Examples
    --------
    >>> crossentropy.testing.within([1.0], [1.0 + 2**-52], np.dtype(np.float64), 'loss')
    """
    name = result_dtype(dtype, what)
    limit = times * LIMITS[dtype.name][what] + (1 if LIMITS[dtype.name][what] > 1 else 0.01)
    error = largest_error(got, expected, name, unit_at)
    require(error <= limit, f"{what} of {dtype.name}: {error:.2f} ulp, allowed {limit}")


def same(got, expected) -> None:
    """Assert that two arrays are equal, NaN for NaN; widened, since bfloat16 NaNs are unequal in NumPy's assertion.

    Examples
    --------
    >>> crossentropy.testing.same(np.array([1.0, np.nan]), np.array([1.0, np.nan]))
    """
    got, expected = np.asarray(got), np.asarray(expected)
    require(got.dtype == expected.dtype, f"dtype {got.dtype}, not {expected.dtype}")
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(np.float64))


def require(condition, message="") -> None:
    """As ``assert``, which python -O leaves out."""
    if not condition:
        raise AssertionError(message)


def near(got, expected, rel) -> None:
    """Assert equality but for a relative difference."""
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rel, atol=0)


@contextlib.contextmanager
def refuses(error, message):
    """Assert that the block raises this error, with this in its message."""
    try:
        yield
    except error as raised:
        require(message in str(raised), f"{message!r} is not in {str(raised)!r}")
    else:
        raise AssertionError(f"no {error.__name__}: {message}")


def exact(x, targets, rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses, gradients and the largest term of each gradient entry, by the reference.

    Parameters
    ----------
    x : ndarray, shape (N, C)
    targets : list
        Of N ints, or lists of C floats.
    rows : list of reference.Row
        The options of each.

    Examples
    --------
    >>> rows = [crossentropy.reference.Row()]
    >>> losses, grads, _ = crossentropy.testing.exact(np.zeros((1, 4)), [1], rows)
    >>> grads
    array([[ 0.25, -0.75,  0.25,  0.25]])
    """
    losses, grads, units = [], [], []
    for z, target, row in zip(x.astype(np.float64).tolist(), targets, rows, strict=True):
        losses.append(reference.cross_entropy(z, target, row))
        grads.append(reference.cross_entropy_grad(z, target, row))
        units.append(reference.largest_terms(z, target, row))
    return np.array(losses), np.array(grads), np.array(units)
