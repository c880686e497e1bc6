"""Arrays of other libraries on the host: as NumPy's, where NumPy would refuse them or take them for objects; and back.

None of the libraries is imported here: one whose array a caller has is there.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from . import _device

_PLAIN = (list, tuple, int, float)
_WAYS = {  # with a row whose value is missing
    "targets": "fill them with a number that is no class, and pass that as ignore_index",
    "sample_weight": "fill them with 0",
}


def as_array(value: Any, name: str) -> np.ndarray:
    """The value as an array, in the same memory where NumPy can have it; an error that names the argument."""
    if type(value) in _PLAIN:
        return _converted(value, name)
    if _device.is_tensor(value):
        return _of_tensor(value, name)
    for kind in type(value).__mro__[:-1]:
        if reader := _READERS.get(kind.__module__.partition(".")[0]):
            return reader(value, name)
    return _converted(value, name)


def _converted(value: Any, name: str) -> np.ndarray:
    try:
        x = np.asarray(value)
        if x.dtype != object or x.ndim or isinstance(value, np.ndarray):
            return x
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
    except ValueError as error:
        raise ValueError(f"{name} must be an array: {error}") from None
    except (TypeError, RuntimeError, BufferError) as error:  # the library's own, which doesn't know the argument
        raise TypeError(f"{name} must be an array: {error}") from error
    way = f": pass {name}.toarray()" if hasattr(value, "toarray") else ""  # SciPy's sparse arrays
    raise TypeError(f"{name} must be an array, got {type(value).__name__}{way}")


# ---------------------------------------------------------------------- results, as what came in


def returned(found: Any, given: Any) -> Any:
    """A result (arrays and scalars, in tuples and dicts) as arrays of the library that ``given`` is from.

    That is PyTorch, or one with the array API standard's ``__array_namespace__``; NumPy's own otherwise.
    """
    if isinstance(given, (np.ndarray, np.generic)) or type(given) in _PLAIN:
        return found
    if _device.is_tensor(given):
        return _each(found, _as_tensor)
    if not hasattr(given, "__array_namespace__"):
        return found
    xp, device = given.__array_namespace__(), getattr(given, "device", None)

    def of_library(a: np.ndarray) -> Any:
        try:
            return xp.asarray(a, device=device)
        except (TypeError, ValueError):  # JAX's, which may be a sharding that this shape does not have
            return xp.asarray(a)

    return _each(found, of_library)


def _each(found: Any, convert: Any) -> Any:
    """Convert what is NumPy's, wherever it stands."""
    if isinstance(found, (np.ndarray, np.generic)):
        return convert(np.asarray(found))
    if isinstance(found, dict):
        return {name: _each(value, convert) for name, value in found.items()}
    return type(found)(*(_each(value, convert) for value in found)) if isinstance(found, tuple) else found


def _as_tensor(a: np.ndarray) -> Any:
    """In the same memory."""
    torch = sys.modules["torch"]
    if a.dtype.name == "bfloat16":
        return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(a)


# ---------------------------------------------------------------------- PyTorch and JAX


def loses_gradient(name: str) -> TypeError:
    """The error for a tensor that is part of a graph."""
    return TypeError(
        f"{name} requires grad, which this function would lose: call that of crossentropy.torch, or pass "
        f"{name}.detach()"
    )


def _of_tensor(tensor: Any, name: str) -> np.ndarray:
    """A view of a dense tensor on the CPU."""
    torch = sys.modules["torch"]
    if tensor.requires_grad:
        raise loses_gradient(name)
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} must lie on the CPU, or on a CUDA device, got a tensor on {tensor.device}")
    if tensor.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got a nested one: pass {name}.to_padded_tensor(padding)")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}: pass {name}.to_dense()")
    tensor = tensor.resolve_conj().resolve_neg()
    if tensor.dtype != torch.bfloat16:
        return _converted(tensor, name)
    try:
        from ml_dtypes import bfloat16
    except ModuleNotFoundError:
        raise TypeError(f"{name} is bfloat16, for which NumPy needs ml_dtypes: pip install ml_dtypes") from None
    return _converted(tensor.view(torch.int16), name).view(bfloat16)


def _of_jax(value: Any, name: str) -> np.ndarray:
    if any(kind.__name__ == "Tracer" for kind in type(value).__mro__):
        raise TypeError(
            f"{name} is traced by JAX and has no values yet: call this function outside of jit, grad and vmap, or "
            "through jax.pure_callback; crossentropy.jax has losses for inside of them"
        )
    if getattr(value, "is_deleted", bool)():
        raise TypeError(f"{name} has no values any more: JAX's array was deleted, or donated to a compiled function")
    devices = value.devices() if hasattr(value, "devices") else ()
    if others := {device.platform for device in devices} - {"cpu"}:
        raise TypeError(f"{name} must lie on the CPU, or on one CUDA device, got an array on {', '.join(others)}")
    return _converted(value, name)


# ---------------------------------------------------------------------- data frames, whose values may be missing


def _require_none_missing(missing: np.ndarray, name: str) -> None:
    if missing.any():
        first = ", ".join(map(str, np.argwhere(missing)[0]))
        way = _WAYS.get(name, "fill them, or leave their rows out")
        raise ValueError(f"{name} must have no missing values, got one at {name}[{first}]: {way}")


def _of_pandas(value: Any, name: str) -> np.ndarray:
    """Series, frames and their arrays, also of pandas' nullable dtypes and of those that PyArrow holds."""
    if not hasattr(value, "isna"):
        return _converted(value, name)
    dtypes = list(value.dtypes) if value.ndim == 2 else [value.dtype]
    kinds = [dtype if isinstance(dtype, np.dtype) else getattr(dtype, "numpy_dtype", None) for dtype in dtypes]
    pairs = zip(dtypes, kinds, strict=True)
    nullable = np.array([kind is not None and not isinstance(dtype, np.dtype) for dtype, kind in pairs])
    if not nullable.any() or any(kind is None or kind.kind not in "biuf" for kind in kinds):
        return _converted(value, name)
    # Only where NA is a value of its own: a NaN in a plain float column is a number, as in any array.
    _require_none_missing(np.asarray(value.isna()) & (nullable if value.ndim == 2 else True), name)
    return np.asarray(value.to_numpy(dtype=np.result_type(*kinds)))


def _of_arrow(value: Any, name: str) -> np.ndarray:
    """PyArrow's arrays, chunked or not, and tables of them."""
    if hasattr(value, "is_null"):
        _require_none_missing(np.asarray(value.is_null()), name)
    elif hasattr(value, "itercolumns") and value.num_columns:
        _require_none_missing(np.stack([np.asarray(c.is_null()) for c in value.itercolumns()], axis=-1), name)
    return _converted(value, name)


def _of_polars(value: Any, name: str) -> np.ndarray:
    """Polars' series and frames."""
    if hasattr(value, "is_null"):
        _require_none_missing(value.is_null().to_numpy(), name)
    elif hasattr(value, "get_columns") and value.width:
        _require_none_missing(np.stack([c.is_null().to_numpy() for c in value.get_columns()], axis=-1), name)
    return _converted(value, name)


_READERS = {"jax": _of_jax, "jaxlib": _of_jax, "pandas": _of_pandas, "polars": _of_polars, "pyarrow": _of_arrow}
