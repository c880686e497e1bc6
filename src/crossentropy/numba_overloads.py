"""The package's functions inside ``@njit``: `cross_entropy` and its gradient, the row functions, by Numba's kernels.

Numba calls `init` by its entry point ``numba_extensions`` when it is first used, in any program where this package is
installed, so that this module loads nothing: what is compiled is loaded with the first call that is compiled.
"""

from __future__ import annotations

import sys
from typing import Any

from . import _options

__all__ = ["init"]

_state = {"asked": False, "registered": False}


def init() -> None:
    """Have Numba know the package's functions, now or as soon as they are loaded (see ``crossentropy.__getattr__``)."""
    _state["asked"] = True
    if "crossentropy.api" in sys.modules:
        register()


def register() -> None:
    """Have Numba know the functions, once it has asked for them."""
    if _state["registered"] or not _state["asked"]:
        return
    _state["registered"] = True
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target
    from numba.extending import overload

    from . import api

    for name in ("cross_entropy", "cross_entropy_and_grad"):
        more = {"grad_output": 1.0, "out": None} if name == "cross_entropy_and_grad" else {}
        overload(getattr(api, name), prefer_literal=True)(_typed(name, ("logits", "targets"), _options.DEFAULTS | more))
    for name in ("log_softmax", "softmax"):
        overload(getattr(api, name), prefer_literal=True)(_typed(name, ("x",), {"axis": -1, "out": None}))
    more = {"axis": -1, "b": None, "keepdims": False, "return_sign": False}
    overload(api.logsumexp, prefer_literal=True)(_typed("logsumexp", ("x",), more))
    # A function may be loaded by Numba itself, which meets its name in a function that is just being compiled; and
    # another thread may be compiling, which must not find half of what Numba knows.
    with global_compiler_lock:
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()


def _signature(required: tuple[str, ...], defaults: dict[str, Any]) -> str:
    return ", ".join([*required, *(f"{name}=DEFAULTS[{name!r}]" for name in defaults)])


def _typed(name: str, required: tuple[str, ...], defaults: dict[str, Any]) -> Any:
    """What Numba asks for an implementation, of the public function's own arguments."""
    signature = _signature(required, defaults)
    names = {"DEFAULTS": defaults, "implementation": _implementation}
    exec(f"def {name}({signature}):\n    return implementation({name!r}, locals(), DEFAULTS, {signature!r})", names)
    return names[name]


def _implementation(name: str, given: dict[str, Any], defaults: dict[str, Any], signature: str) -> Any:
    """The function that Numba compiles for a call with arguments of these types, or a TypingError."""
    from numba import types

    def is_given(value: Any, default: Any) -> bool:
        if isinstance(value, types.Literal) and value.literal_value == default:
            return False
        return isinstance(value, types.Type) and not isinstance(value, (types.NoneType, types.Omitted))

    passed = {key: given[key] for key in defaults if is_given(given[key], defaults[key])}
    required = {key: value for key, value in given.items() if key not in defaults}
    build = _of_loss if name.startswith("cross_entropy") else _of_rows
    lines, names = build(name, passed, **required)
    body = "\n    ".join(lines)
    names["DEFAULTS"] = defaults
    exec(f"def {name}({signature}):\n    {body}", names)
    return names[name]


def _require_matrix(a: Any, called: str) -> None:
    from numba import types

    from ._backends.numba.calls import require

    fits = isinstance(a, types.Array) and a.ndim == 2 and a.dtype in (types.float32, types.float64)
    require(fits, f"{called} must be a two-dimensional array of float32 or float64 in compiled code, got {a}")


def _require_axis(passed: dict[str, Any]) -> None:
    from ._backends.numba.calls import require

    axis = passed.pop("axis", None)
    last = axis is None or getattr(axis, "literal_value", None) == 1
    require(last, f"axis must be -1 or 1, the last axis, in compiled code, got {axis}")


def _require_out(out: Any, x: Any, called: str) -> None:
    from ._backends.numba.calls import require

    _require_matrix(out, "out")
    require(out.dtype == x.dtype, f"out must have the dtype of {called}, {x.dtype}, got {out.dtype}")
    require(out.mutable, "out must be writeable")


def _of_loss(name: str, passed: dict[str, Any], logits: Any, targets: Any) -> tuple[list[str], dict[str, Any]]:
    """The lines of a loss, of the options that are passed alone."""
    import numpy as np
    from numba import types

    from ._backends.numba import calls, kernels
    from ._options import ARRAYS, NUMERIC, OPTIONS, REDUCTIONS, WEIGHTS
    from .api import LossAndGrad

    require = calls.require
    _require_matrix(logits, "logits")
    fits = isinstance(targets, types.Array) and targets.ndim == 1 and isinstance(targets.dtype, types.Integer)
    require(fits, f"targets must be a one-dimensional array of integers (classes) in compiled code, got {targets}")
    _require_axis(passed)
    reduction = passed.pop("reduction", None)
    reduction = "mean" if reduction is None else getattr(reduction, "literal_value", reduction)
    told = f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, a constant in compiled code, got {reduction}"
    require(reduction in REDUCTIONS, told)
    require("normalizer" not in passed or reduction == "mean", "normalizer goes with reduction='mean'")
    for key, kind in passed.items():
        if key in OPTIONS and OPTIONS[key].over:
            real = (
                isinstance(kind, types.Array)
                and kind.ndim == 1
                and isinstance(kind.dtype, (types.Float, types.Boolean))
            )
            require(real, f"{key} must be a one-dimensional array of floats in compiled code, got {kind}")
        elif key == "ignore_index":
            require(isinstance(kind, types.Integer), f"ignore_index must be an integer, got {kind}")
        elif key != "out":
            require(
                isinstance(kind, (types.Float, types.Integer)), f"{key} must be a number in compiled code, got {kind}"
            )
    wants_grad = name == "cross_entropy_and_grad"
    out = passed.get("out")
    if out is not None:
        _require_out(out, logits, "logits")
    odd = calls.kind_of_call(logits, (out or logits.copy(layout="C")) if wants_grad else None, passed)
    single = logits.dtype == types.float32
    names = {
        "np": np,
        "inf": np.inf,
        "calls": calls,
        "total": kernels.total,
        "LossAndGrad": LossAndGrad,
        "real": np.float32 if single else np.float64,
        "lanes": np.float64 if odd == 1 and odd is not True else (np.float32 if single else np.float64),
    }
    lines = ["if targets.size != logits.shape[0]:"]
    lines += ["    raise ValueError('targets must have the shape of logits without the class axis')"]
    lines += ["if logits.shape[1] == 0 and logits.shape[0] != 0:"]
    lines += ["    raise ValueError('logits must have at least one class')"]
    for key in passed:
        limits = OPTIONS[key].limits if key in OPTIONS else None
        if limits is not None:
            lines += [f"if not ({limits.condition(key)}):", f"    raise ValueError('{key} must be {limits.told}')"]
    lines += ["classes_of_rows = np.ascontiguousarray(targets)"]
    for key in (*ARRAYS, "where"):
        lines += [f"{key}_ = np.ascontiguousarray({key}).astype(np.float64)" if key in passed else f"{key}_ = None"]
        if key in passed:
            each, size = ("class", 1) if OPTIONS[key].over == "classes" else ("row", 0)
            rule = "are_weights" if OPTIONS[key].entries is WEIGHTS else "are_priors"
            lines += [f"if {key}_.size != logits.shape[{size}]:"]
            lines += [f"    raise ValueError('{key} must have a number for each {each}')"]
            lines += [f"if not calls.{rule}({key}_):"]
            lines += [f"    raise ValueError('{key} must be {OPTIONS[key].entries.told}')"]
    if "where" in passed:
        lines += ["sample_weight_ = where_" + " * sample_weight_" * ("sample_weight" in passed)]
    ignored = "np.int64(ignore_index)" if "ignore_index" in passed else "0"
    has_ignored = int("ignore_index" in passed)
    weights = f"{has_ignored}, {ignored}, class_weight_, sample_weight_"
    lines += [f"by = calls.divisor(classes_of_rows, logits.shape[1], {weights})"]
    if reduction != "mean":
        lines += ["by = 1.0"]
    elif "normalizer" in passed:
        lines += ["by = np.float64(normalizer)"]
    lines += ["losses = np.empty(logits.shape[0], np.float64)", "scale = np.ones(1)"]
    if wants_grad:
        lines += ["grad = out" if out is not None else "grad = np.empty(logits.shape, logits.dtype)"]
        lines += ["if grad.shape != logits.shape:", "    raise ValueError('out must have the shape of logits')"]
        g = "grad_output" if "grad_output" in passed else "1.0"
        lines += [f"scale[0] = {g} / by if by != 0 else 0.0"]
    numbers = [f"np.float64({key})" if key in passed else repr(float(OPTIONS[key].default)) for key in NUMERIC]
    arrays = "classes_of_rows, class_weight_, sample_weight_, class_prior_, scale, losses"
    rest = f"({arrays}, {has_ignored}, {ignored}, {', '.join(numbers)})"
    spreads = "label_smoothing" in passed or None
    call = f"calls.run_losses({odd!r}, {spreads!r}, logits, {'grad' if wants_grad else 'None'}, {rest}, lanes)"
    if wants_grad:  # with no row that counts there may be any numbers in the logits
        lines += ["if by == 0:", "    grad[:] = 0", "else:", f"    {call}"]
    else:
        lines += ["if by != 0:", f"    {call}"]
    if reduction == "none":
        lines += ["loss = losses.astype(real)"]
    else:
        empty = "real(empty)" if "empty" in passed else "real(np.nan)"
        lines += [f"loss = real(total(losses) / by) if by != 0 else {empty}"]
    return [*lines, "return LossAndGrad(loss, grad)" if wants_grad else "return loss"], names


def _of_rows(name: str, passed: dict[str, Any], x: Any) -> tuple[list[str], dict[str, Any]]:
    """The lines of a row function."""
    import numpy as np
    from numba import types

    from ._backends.numba import calls, kernels

    _require_matrix(x, "x")
    _require_axis(passed)
    names = {"np": np, "calls": calls, "kernel": getattr(kernels, name)}
    names["real"] = np.float32 if x.dtype == types.float32 else np.float64
    out = passed.pop("out", None)
    for key, kind in passed.items():
        calls.require(False, f"{key} is not for compiled code, got {kind}")
    if name == "logsumexp":
        lines = ["losses = np.full(x.shape[0], -np.inf)"]
        odd = calls.kind_of_call(x, None, passed)
        return [*lines, f"calls.write_rows(kernel, {odd!r}, x, None, losses)", "return losses.astype(real)"], names
    if out is not None:
        _require_out(out, x, "x")
    odd = calls.kind_of_call(x, out or x.copy(layout="C"), passed)
    lines = ["result = out" if out is not None else "result = np.empty(x.shape, x.dtype)"]
    lines += ["if result.shape != x.shape:", "    raise ValueError('out must have the shape of x')"]
    return [*lines, f"calls.write_rows(kernel, {odd!r}, x, result, None)", "return result"], names
