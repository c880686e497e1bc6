"""Calls of the kernels from compiled code: a Task described there, and what a call does before and after its kernel.

What Python does in `tasks.described` is done here by functions that are put together from the fields of a Task, one for
each of its kinds, since Numba would take long to compile a Task that is made of its fields.
"""

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.extending import intrinsic, overload

from ..._options import NUMERIC
from . import kernels
from .compiling import INNER, inner
from .exponentials import fma
from .layout import F32, F64
from .memory import address
from .rows import SCRATCH, plus, sum_of
from .tasks import _ARRAYS, _CHANGED, _ODD, _PLAIN, CHANGES, Task

FIRST = np.int64  # the first row, as a number and no literal, so that kernels are those that Python calls
LARGEST = np.finfo(np.float64).max


@intrinsic
def keep(_, arrays):
    """Nothing; but the arrays are in use up to here, whose addresses a Task has."""
    return types.void(arrays), lambda context, builder, signature, args: context.get_dummy_value()


def address_or_0(array):
    """The address of an array; 0 for None."""


@overload(address_or_0, jit_options=INNER)
def _address_or_0(array):
    return (lambda array: 0) if isinstance(array, types.NoneType) else (lambda array: address(array))


def target_size(targets):
    """The bytes of a target, negative where they are signed; 0 for None."""


@overload(target_size, jit_options=INNER)
def _target_size(targets):
    if isinstance(targets, types.NoneType):
        return lambda targets: 0
    size = targets.dtype.bitwidth // 8 * (-1 if targets.dtype.signed else 1)
    return lambda targets: size


@inner
def element_of(x):
    """The code of an array's element type."""
    return F32 if x.itemsize == 4 else F64


@inner
def is_direct(x):
    """Whether kernels may read and write rows where they lie."""
    size = x.itemsize
    return np.int64(address(x) % size == 0 and x.strides[0] % size == 0 and x.strides[1] == size)


@inner
def ratio_of(a, c):
    """(a / c, what that is short of), or (a, 0) without a cap."""
    if c == 0:
        return a, 0.0
    high = a / c
    return (high, fma(-high, c, a) / c) if high < np.inf else (LARGEST, 0.0)


# What a field of a Task is in a call; those that are not named are 0. `dimensions`: rows, and the row strides of each
# array.
_VALUES = {
    "x.address": "address(x)",
    "x.row_strides": "address(dimensions) + 8",
    "x.stride": "x.strides[1]",
    "x.element": "element_of(x)",
    "x.direct": "is_direct(x)",
    "x.ratio": "ratio",
    "x.ratio_low": "ratio_low",
    "x.scale": "logit_scale",
    "x.cap": "softcap",
    "x.prior": "address_or_0(class_prior)",
    "out.address": "address_or_0(out)",
    "out.row_strides": "address(dimensions) + 16",
    "dims": "1",
    "shape": "address(dimensions)",
    "rows": "x.shape[0]",
    "classes": "x.shape[1]",
    "targets": "address_or_0(targets)",
    "target_size": "target_size(targets)",
    "has_ignored": "has_ignored",
    "ignored": "ignored",
    "class_weight": "address_or_0(class_weight)",
    "sample_weight": "address_or_0(sample_weight)",
    "row_scale": "address_or_0(row_scale)",
    "loss": "address_or_0(loss)",
}
_VALUES |= {name: name for name in NUMERIC if name in Task._fields}
_OF_OUT = {"out.stride": "out.strides[1]", "out.element": "element_of(out)", "out.direct": "is_direct(out)"}

ARRAYS = "targets", "class_weight", "sample_weight", "class_prior", "row_scale", "loss"
ARGUMENTS = ", ".join(("x", "out", "dimensions", *ARRAYS, "has_ignored", "ignored", *NUMERIC))


def _describer(arrays, has_out):
    """A compiled function of ARGUMENTS, which gives a Task of a kind."""
    values = _VALUES | (_OF_OUT if has_out else {})
    if arrays is _CHANGED and has_out:
        values |= {"out.direct": "0"}  # every number of it is multiplied by a slope
    fields = [
        (f"{name}.{field}", of)
        for name, kind in zip(Task._fields, arrays, strict=False)
        for field, of in kind.__annotations__.items()
    ]
    fields += [(name, of) for name, of in list(Task.__annotations__.items())[_ARRAYS:]]
    lines = [f"def described({ARGUMENTS}):", f"    task = np.zeros({len(fields)}, np.int64)"]
    lines += ["    reals = task.view(np.float64)", "    ratio, ratio_low = ratio_of(logit_scale, softcap)"]
    for n, (name, of) in enumerate(fields):
        if name in values:
            lines.append(f"    {'task' if of is int else 'reals'}[{n}] = {values[name]}")
    lines.append("    return task")
    names = dict(globals())
    exec("\n".join(lines), names)
    return inner(names["described"])


# By the kind as `task_at` is told it: None, a bool, an int; and whether there is a result like x.
_DESCRIBERS = {
    (kind, has_out): _describer(arrays, has_out)
    for kind, arrays in ((types.none, _PLAIN), (types.boolean, _ODD), (types.int64, _CHANGED))
    for has_out in (False, True)
}


def kind_of_call(x, out, given):
    """The kind of a call's Task: an argument for `task_at`, as a literal of Python's."""
    if any(name in given for name in CHANGES):
        return 1
    arrays = [x] if out is None else [x, out]
    return None if all(a.layout == "C" and a.aligned for a in arrays) else True


def described(odd, x, out, dimensions, rest):
    """A Task as `task_at` reads it; ``rest``: the ARGUMENTS after ``dimensions``, as a tuple."""


@overload(described, jit_options=INNER)
def _described(odd, x, out, dimensions, rest):
    kind = types.unliteral(odd)
    function = _DESCRIBERS[kind, not isinstance(out, types.NoneType)]
    return lambda odd, x, out, dimensions, rest: function(x, out, dimensions, *rest)


@inner
def dimensions_of(x):
    """The rows of x, and the place for the row strides of x and of a result."""
    found = np.zeros(3, np.int64)
    found[0], found[1] = x.shape[0], x.strides[0]
    return found


@inner
def divisor(targets, classes, has_ignored, ignored, class_weight, sample_weight):
    """The sum of sample weight times class weight over the rows that count; an IndexError for a target that is none."""
    whole, error = 0.0, 0.0
    for n in range(targets.size):
        y, weight = np.int64(targets[n]), 1.0
        if has_ignored and y == ignored:
            continue
        if sample_weight is not None:
            weight = sample_weight[n]
            if weight == 0:
                continue
        if not 0 <= y < classes:
            raise IndexError("targets must be in [0, C) or ignored, C being the classes of logits")
        if class_weight is not None:
            weight *= class_weight[y]
        whole, error = plus(whole, error, weight)
    return sum_of(whole, error)


@inner
def are_weights(w):
    """Whether all are finite and not negative."""
    fits = True
    for value in w:
        fits = fits and 0 <= value < np.inf
    return fits


@inner
def are_priors(b):
    """Whether all are finite or -inf."""
    fits = True
    for value in b:
        fits = fits and value < np.inf
    return fits


@inner
def run_losses(odd, spreads, x, out, rest, like):
    """The losses of all rows, and their gradient unless ``out`` is None; ``like``: the lanes' type."""
    dimensions = dimensions_of(x)
    if out is not None:
        dimensions[2] = out.strides[0]
    if x.size:
        task, memory = described(odd, x, out, dimensions, rest), np.empty(SCRATCH, like)
        if out is None:
            kernels.forward(address(task), odd, FIRST(0), x.shape[0], memory, spreads)
        else:
            kernels.forward_backward(address(task), odd, FIRST(0), x.shape[0], memory, spreads)
        keep((task, memory, dimensions, x, out, rest))


@inner
def write_rows(kernel, odd, x, out, loss):
    """A kernel of rows, whose results go to ``out`` or ``loss``."""
    dimensions = dimensions_of(x)
    if out is not None:
        dimensions[2] = out.strides[0]
    if x.size:
        rest = (None, None, None, None, None, loss, 0, 0, *NOTHING)
        task, memory = described(odd, x, out, dimensions, rest), np.empty(SCRATCH, x.dtype)
        kernel(address(task), odd, FIRST(0), x.shape[0], memory)
        keep((task, memory, dimensions, x, out, loss))


NOTHING = tuple(1.0 if name == "logit_scale" else 0.0 for name in NUMERIC)


def require(holds, message):
    """A TypingError with that message, unless it holds."""
    if not holds:
        raise TypingError(message)
