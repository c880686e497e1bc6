"""A Task: all that a kernel works on, described on Python's side and packed into memory that compiled code reads."""

import struct
import sys
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..._arrays import merged_rows
from ..contract import RowNumbers
from .layout import BF16, F16, F32, F64, ChangedRows, OddRows, Rows


class Task(NamedTuple):
    """What a kernel works on; addresses are 0 where there is nothing.

    A new numeric option of a loss is one more float with a default here, by its own name; it is used in losses.py. What
    transforms each logit is a field of `layout.ChangedRows`.
    """

    x: Rows | OddRows | ChangedRows
    q: Rows | OddRows  # probability targets, the grad_output of log_softmax_backward, or the weights of a logsumexp
    out: Rows | OddRows
    dims: int
    shape: int  # the address of int64 (dims,): the rows' dimensions
    rows: int
    classes: int
    targets: int  # address
    target_size: int  # bytes, negative where signed
    has_ignored: int
    ignored: int  # ignore_index as int64; of an uint64 the bits
    class_weight: int  # address of float64 (classes,)
    sample_weight: int  # address of float64 (rows,)
    row_scale: int  # address of float64: one number, or (rows,)
    row_scale_step: int  # 0 for one number, else 1
    loss: int  # address of float64 (rows,)
    sign: int  # address of float64 (rows,), for a weighted logsumexp
    logsumexp: int  # address of float64 (rows,), as those that follow: RowNumbers
    entropy: int
    log_prob: int  # 0 without targets that are classes, as is rank
    max_prob: int
    argmax: int  # address of int64 (rows,)
    rank: int
    entropy_scale: int  # as row_scale, for what arrives at entropies; row_scale at log-probabilities
    entropy_scale_step: int
    statistics: int  # address of float64 (rows, WIDTH): contract.Statistics of each row
    parts: int  # address of float64 (rows, len(BlockStatistics._fields)): contract.BlockStatistics of each row
    all_classes: int  # of rows of which x has a block of classes; 0: x has them whole
    bypasses: int  # whether stores to out bypass the caches
    stop: int  # address of an int64 that is not 0 once the call is to end
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    margin: float = 0.0
    focal: float = 0.0


_TYPES = {int: types.int64, float: types.float64}
_FORMATS = {int: "q", float: "d"}
_ARRAYS = 3  # the first fields
# Of each kind of task: the types of its arrays. A kernel is told the kind by the type of its argument ``odd``, so that
# each kind is compiled for itself: None, a bool, an int.
_PLAIN, _ODD, _CHANGED = (Rows, Rows, Rows), (OddRows, OddRows, OddRows), (ChangedRows, OddRows, OddRows)


def _kinds(arrays):
    """For each field of a Task, in order, the type of its array, or int or float."""
    return [*arrays, *list(Task.__annotations__.values())[_ARRAYS:]]


def _packer(arrays):
    kinds = [kind for array in arrays for kind in array.__annotations__.values()] + _kinds(arrays)[_ARRAYS:]
    return struct.Struct("=" + "".join(_FORMATS[kind] for kind in kinds))


_PACKERS = {arrays[0]: _packer(arrays) for arrays in (_PLAIN, _ODD, _CHANGED)}


def packed(task: Task) -> np.ndarray:
    """The numbers of a Task, 8 bytes each, as `task_at` reads them."""
    numbers = [number for array in task[:_ARRAYS] for number in array]
    return np.frombuffer(_PACKERS[type(task.x)].pack(*numbers, *task[_ARRAYS:]), np.int64)


@intrinsic
def task_at(_, address, odd):
    """The Task whose numbers lie at an address; ``odd`` says by its type of what kind it is.

    Numba would take long to compile a Task as an argument, or one made of an array's numbers in compiled code.
    """
    arrays = _PLAIN if isinstance(odd, types.NoneType) else _ODD if isinstance(odd, types.Boolean) else _CHANGED

    def type_of(record, kinds):
        numba_types = [_TYPES.get(kind) or type_of(kind, kind.__annotations__.values()) for kind in kinds]
        return types.BaseTuple.from_types(numba_types, record)

    kind = type_of(Task, _kinds(arrays))

    def code(context, builder, signature, args):
        to = context.get_value_type(kind).as_pointer()
        return builder.load(builder.inttoptr(args[0], to), align=8)

    return kind(types.int64, odd), code


# ---------------------------------------------------------------------- arrays described

_ELEMENTS = {"float16": F16, "bfloat16": BF16, "float32": F32, "float64": F64}
_NONE = OddRows(*[0] * len(OddRows._fields))


def address_of(a) -> int:
    """The address of an array, 0 where there is none."""
    return 0 if a is None else a.__array_interface__["data"][0]


def _described(a, row_strides, real) -> OddRows:
    """An array (..., classes), its row strides at an address, for kernels whose lanes are of dtype ``real``."""
    at, dtype, size, stride = address_of(a), a.dtype, a.itemsize, a.strides[-1]
    swapped, one_class = not dtype.isnative, a.shape[-1] == 1
    native = dtype == real and not swapped and (stride == size or one_class)
    strides = a.strides[:-1] if one_class else a.strides
    direct = native and at % size == 0 and not any(each % size for each in strides)
    return OddRows(at, row_strides, stride, _ELEMENTS[dtype.name], swapped, direct)


def _options_as_fields(options) -> dict:
    """The options of a loss (`crossentropy._options.RowOptions`) as fields of a Task: their only crossing.

    Weights become addresses and an index that is ignored two integers. All others are numbers, which keep their names,
    so that one without a field in Task is an error.
    """
    given = options._asdict()
    for name in ("probabilities", *CHANGES):  # whether targets are `q` or `targets`; what `_changed` makes fields of
        given.pop(name)
    ignored = given.pop("ignore_index")
    given["has_ignored"] = ignored is not None
    given["ignored"] = 0 if ignored is None else ignored - (2**64 if ignored >= 2**63 else 0)
    for name in ("class_weight", "sample_weight"):
        given[name] = address_of(given[name])
    return given


_NO_OPTIONS = {"has_ignored": 0, "ignored": 0, "class_weight": 0, "sample_weight": 0, "all_classes": 0}


CHANGES = ("logit_scale", "softcap", "class_prior")  # the options that transform each logit: fields of ChangedRows


def changes(options) -> bool:
    """Whether each logit is transformed; then the lanes are float64, whatever the logits are."""
    return options is not None and (options.logit_scale != 1 or options.softcap != 0 or options.class_prior is not None)


def _changed(x: OddRows, options) -> ChangedRows:
    """The logits with what transforms them: u = z a / c as the product with a pair, so that it is rounded once.

    They are `direct` where they are neighbours, whatever their type.
    """
    a, c = options.logit_scale, options.softcap
    ratio = Fraction(a) / Fraction(c) if c else Fraction(a)
    high = float(min(ratio, Fraction(sys.float_info.max)))
    return ChangedRows(*x, high, float(ratio - Fraction(high)), a, c, address_of(options.class_prior))


NUMBERS = RowNumbers._fields[1:]  # the loss has a field of its own


def _scale(given):
    """(array, step) of what is one number, or one for each row."""
    return (np.array([given]), 0) if isinstance(given, float) else (given, 1)


class Described(NamedTuple):
    """A Task in memory, and what must live as long as a kernel may work on it."""

    address: int
    odd: bool | int | None  # what `task_at` is told
    stop: np.ndarray  # int64: not 0 ends the call
    held: tuple


def described(
    x, bypass_from, q=None, out=None, targets=None, options=None, row_scale=None, loss=None, statistics=None, sign=None,
    numbers=None, entropy_scale=None, parts=None,
) -> Described:  # fmt: skip
    """The Task of one call; a result of ``bypass_from`` bytes or more, if not in place, bypasses the caches."""
    changed = changes(options)
    real = np.dtype(np.float64 if x.itemsize == 8 or changed else np.float32)
    arrays = [x, q, out]
    given = [a for a in arrays if a is not None]
    merged = merged_rows(x.shape[:-1], [a.strides for a in given]) or [(1, [0] * len(given))]
    sizes, strides = zip(*merged, strict=True)
    dimensions = np.array([sizes, *zip(*strides, strict=True)], np.int64)  # the sizes, then each array's strides
    shape = address_of(dimensions)
    at = iter(range(shape + 8 * len(merged), shape + dimensions.nbytes, 8 * len(merged)))
    rows = [_NONE if a is None else _described(a, next(at), real) for a in arrays]
    plain = not changed and all(a is None or each.direct for a, each in zip(arrays, rows, strict=True))
    if changed:  # every number of x and out passes through a buffer, where it is transformed, or times a slope
        logits = _described(x, rows[0].row_strides, x.dtype)
        rows = [_changed(logits, options), rows[1], rows[2]._replace(direct=0)]
    elif plain:
        rows = [Rows(*each[: len(Rows._fields)]) for each in rows]
    scales, steps = zip(*map(_scale, (row_scale, entropy_scale)), strict=True)
    stop = np.zeros(1, np.int64)
    of_rows = {name: None if numbers is None else getattr(numbers, name) for name in NUMBERS}
    task = packed(
        Task(
            *rows,
            dims=len(merged),
            shape=shape,
            rows=x.size // x.shape[-1],
            classes=x.shape[-1],
            targets=address_of(targets),
            target_size=0 if targets is None else targets.itemsize * (1 if targets.dtype.kind == "u" else -1),
            row_scale=address_of(scales[0]),
            row_scale_step=steps[0],
            entropy_scale=address_of(scales[1]),
            entropy_scale_step=steps[1],
            **{name: address_of(a) for name, a in of_rows.items()},
            loss=address_of(loss),
            sign=address_of(sign),
            statistics=address_of(statistics),
            parts=address_of(parts),
            bypasses=out is not None and out.nbytes >= bypass_from and address_of(out) != address_of(x),
            stop=address_of(stop),
            **(_NO_OPTIONS if options is None else _options_as_fields(options)),
        )
    )
    held = (task, dimensions, *arrays, targets, options, scales, loss, statistics, sign, numbers, parts)
    return Described(address_of(task), 1 if changed else None if plain else True, stop, held)
