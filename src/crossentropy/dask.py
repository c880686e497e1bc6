"""Losses and evaluations of Dask arrays: lazily, chunk by chunk, on any of Dask's schedulers.

logits = dask.array.from_zarr("logits.zarr")
crossentropy.dask.cross_entropy(logits, targets).compute()
print(crossentropy.dask.evaluate(logits, targets).compute())
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any, SupportsIndex, Unpack

import numpy as np

from . import _arrays, _check, _mapped, _settings, blocks
from ._backends import registry
from ._options import (
    NUMERIC,
    OPTIONS,
    PER_ROW,
    LossOptions,
    PerRowOptions,
    integer,
    passed,
    reduction_of,
    takes_options,
)
from ._reduction import loss_dtype, rounded
from .evaluation import OF_EVALUATION, Evaluation
from .evaluation.rows import weights_of
from .evaluation.sums import DIGITS, exact_sums, fraction

try:
    import dask.array
    from dask.delayed import delayed
except ImportError as error:
    raise ImportError(f"crossentropy.dask needs Dask ({error}): pip install 'crossentropy[dask]'") from None

da: Any = dask.array  # whose functions have no types

__all__ = ["cross_entropy", "evaluate", "from_memmap"]

CHUNK = 32 << 20  # bytes of rows in a chunk of what has none
MERGED_AT_ONCE = 16
OF_ROWS = tuple(name for name in OPTIONS if OPTIONS[name].over == "rows")


@functools.partial(takes_options, names=tuple(OPTIONS))
def cross_entropy(logits: Any, targets: Any, **options: Unpack[LossOptions]) -> Any:
    """The cross-entropy of Dask arrays, as `crossentropy.cross_entropy` has it of arrays in memory.

    Parameters
    ----------
    logits : dask array, xarray.DataArray, numpy.memmap or ndarray, shape (..., C, ...)
        Chunked along the rows, the classes, or both. A ``numpy.memmap`` is taken as `from_memmap` has it.
    targets : dask array or array_like
        As for `crossentropy.cross_entropy`: chunked as may be.
    {options}

    Returns
    -------
    dask array
        In nats, a number, or one of each row with ``reduction='none'``, in float64 for float64 and integer logits,
        otherwise float32. Nothing is read before its ``compute()``.

    Raises
    ------
    {raises}
        What only the numbers show, as a target that is no class, is raised by ``compute()``.

    Notes
    -----
    Sums are exact and rounded once: chunks of rows give the same bits however they are cut. Of chunks of classes each
    is read by itself (`crossentropy.blocks`), which may round a row's last place otherwise. A task works in one thread,
    since the scheduler has the others, but for a number that `crossentropy.config` names around this call. Its settings
    are those of the tasks, wherever they run.

    Eq. 5 and 6 of the note; how blocks of classes are merged is section 8 of ``docs/derivation.md``.

    Examples
    --------
    >>> import dask.array as da
    >>> logits = da.zeros((4, 3), chunks=(2, 3))
    >>> round(float(crossentropy.dask.cross_entropy(logits, [0, 1, 2, 0])), 6)
    1.098612
    """
    left = passed("cross_entropy", options)
    given = _Given(logits, targets, left)
    reduction, normalizer, empty = reduction_of(left)
    dtype = np.dtype(loss_dtype(np.empty(0, given.dtype)))
    of_row = {name: value for name, value in given.options.items() if name not in ("reduction", "normalizer", "empty")}
    in_blocks = given.x.numblocks[-1] > 1
    found: Any = given.classes_merged(of_row) if in_blocks else None
    if reduction == "none":
        if in_blocks:
            return found.map_blocks(_losses_of, of_row, dtype)
        losses = given.blocks(_losses, of_row, (), dtype)
        return losses if given.asked_for is None else losses.rechunk(given.asked_for)
    sums = np.dtype(np.int64)
    if in_blocks:
        added = tuple(range(given.rows, given.rows + 2))
        chunks = (*((1,) * count for count in found.numblocks), (KINDS,), (DIGITS,))
        how = {"new_axis": added, "chunks": chunks, "dtype": sums, "meta": np.empty((0,) * (given.rows + 2), sums)}
        parts = found.map_blocks(_sums_of, of_row, given.probabilities, **how)
    else:
        parts = given.blocks(_sums, of_row, (KINDS, DIGITS), sums)
    total = parts.sum(axis=tuple(range(given.rows)))
    by = None if reduction == "sum" else normalizer
    how = {"mean": reduction == "mean" and by is None, "by": by, "empty": empty}
    return total.map_blocks(_reduced, **how, result=dtype, drop_axis=[0, 1], dtype=dtype, meta=np.empty((), dtype))


@functools.partial(takes_options, names=PER_ROW)
def evaluate(
    logits: Any,
    targets: Any,
    *,
    top: SupportsIndex | Iterable[SupportsIndex] = (1, 5),
    bins: SupportsIndex = 15,
    confusion: bool | None = None,
    **options: Unpack[PerRowOptions],
) -> Any:
    """An evaluation of Dask arrays, as `crossentropy.Evaluation` has it.

    Parameters
    ----------
    logits, targets
        As for `cross_entropy`; index targets only.
    {options}
    top, bins, confusion
        As for `crossentropy.Evaluation`.

    Returns
    -------
    dask.delayed.Delayed
        Whose ``compute()`` is a `crossentropy.EvaluationResult`, its losses in nats: the same bits however the rows,
        and the classes, are chunked.

    Raises
    ------
    {raises}
        What only the numbers show, as a target that is no class, is raised by ``compute()``.

    Notes
    -----
    A task needs all classes of its rows: where these are in several chunks, it holds a chunk of rows with all of them.

    How blocks of classes are merged is section 8 of ``docs/derivation.md``.

    Examples
    --------
    >>> import dask.array as da
    >>> logits = da.from_array(np.eye(4), chunks=(2, 4))
    >>> crossentropy.dask.evaluate(logits, np.arange(4)).compute().accuracy
    1.0
    """
    left = passed("evaluate", options, ("top", "bins", "confusion"), PER_ROW)
    of_evaluation = {name: value for name, value in left.items() if name in OF_EVALUATION}
    how: dict[str, Any] = {"top": top, "bins": bins, "confusion": confusion}
    Evaluation(**how, **of_evaluation)  # what is wrong is told now
    given = _Given(logits, targets, left)
    if given.probabilities:
        raise TypeError("targets of an evaluation must be classes, integers of the rows' shape, got probabilities")
    parts = given.blocks(_evaluated, given.options, (), np.dtype(object), how=how)
    merged = list(parts.to_delayed().ravel())
    merge = delayed(_merged, pure=True)
    while len(merged) > 1:
        merged = [merge(merged[i : i + MERGED_AT_ONCE]) for i in range(0, len(merged), MERGED_AT_ONCE)]
    return delayed(_result, pure=True)(merged[0])


def from_memmap(array: np.memmap[Any, Any], chunks: Any = "auto") -> Any:
    """A ``numpy.memmap`` as a Dask array whose tasks map the part of the file that they read.

    ``dask.array.from_array`` would copy all of it into memory first, and into each message to another process.

    Parameters
    ----------
    array : numpy.memmap
        Also a view of one, or what ``numpy.load(path, mmap_mode="r")`` gives. Other processes open its file by name.
    chunks : optional
        As Dask takes them. By default some 32 MB of whole rows.

    Returns
    -------
    dask array

    Raises
    ------
    TypeError, ValueError
        For what is no memmap, or lies in no file.

    Examples
    --------
    >>> import tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "logits.npy")
    >>> np.save(path, np.zeros((6, 3)))
    >>> crossentropy.dask.from_memmap(np.load(path, mmap_mode="r"), chunks=(2, 3)).chunks
    ((2, 2, 2), (3,))
    """
    if not isinstance(array, np.memmap):
        raise TypeError(f"array must be a numpy.memmap, got {type(array).__name__}")
    where = _mapped.of_memmap(array)
    if where is None:
        raise ValueError("array must lie in a file that has a name, with no negative strides")
    return _of_file(where, chunks)


def _of_file(where: _mapped.FileArray, chunks: Any = "auto") -> Any:
    if isinstance(chunks, str) and chunks == "auto":
        row = max(int(np.prod(where.shape[1:])) * where.dtype.itemsize, 1)
        chunks = (max(1, CHUNK // row), *where.shape[1:])
    chunks = da.core.normalize_chunks(chunks, where.shape, dtype=where.dtype)
    meta = np.empty((0,) * where.ndim, where.dtype)
    found = da.map_blocks(_read, where=where, chunks=chunks, dtype=where.dtype, meta=meta)
    found.lies_in_file = {found.name: where}
    return found


def _with_whole_rows(x: Any, axis: int) -> Any:
    """A mapped file in chunks of some whole rows where it was cut along the classes, too, and these lie side by side.

    A block of columns touches a page or two of each row, which takes the system longer than to read the row.
    """
    where = getattr(x, "lies_in_file", {}).get(x.name)  # what is assigned to gives an array another name
    if where is None or x.numblocks[axis] == 1 or axis != x.ndim - 1 or where.strides[-1] != where.dtype.itemsize:
        return x
    row = max(where.shape[-1] * where.dtype.itemsize, 1)
    at_once, left = [], max(1, CHUNK // row)  # rows
    for sizes in x.chunks[-2::-1]:  # from the axis before the classes on: no chunk goes past one that was asked for
        at_once.append(tuple(min(left, size - i) for size in sizes for i in range(0, size, left)))
        left = max(1, left // max(sizes, default=1))
    return _of_file(where, (*at_once[::-1], (where.shape[-1],)))


def _read(where: _mapped.FileArray, block_info: Any = None) -> np.ndarray:
    return where.part(tuple(slice(first, last) for first, last in block_info[None]["array-location"]))


# ---------------------------------------------------------------------- what is given, before anything is read


class _Given:
    """Logits with the classes last, targets and options of rows in the same chunks; checked as far as shapes go."""

    def __init__(self, logits: Any, targets: Any, left: dict[str, Any]) -> None:
        x = _as_dask(logits, "logits")
        if x.ndim == 0:
            raise ValueError("logits must have a class axis, got a scalar")
        axis = integer(left.get("axis", -1), "axis")
        if not -x.ndim <= axis < x.ndim:
            raise np.exceptions.AxisError(axis, x.ndim)
        asked_for = tuple(sizes for a, sizes in enumerate(x.chunks) if a != axis % x.ndim)  # chunks of rows
        x = _with_whole_rows(x, axis % x.ndim)
        x = da.moveaxis(x, axis, -1)
        if x.ndim == 1:
            raise ValueError("logits of a Dask array must have rows, got shape (C,)")
        self.asked_for = None if x.chunks[:-1] == asked_for else asked_for
        t = _as_dask(targets, "targets", x.chunks[:-1])
        if t.ndim == x.ndim:
            t = da.moveaxis(t, axis, -1)
        self.dtype, self.rows = x.dtype, x.ndim - 1
        self.probabilities = self._checked(x, t, left)
        self.x = x
        self.targets = t.rechunk(x.chunks if self.probabilities else x.chunks[:-1])
        self.arrays = {}
        for name in OF_ROWS:
            if name in left:
                w = _as_dask(left[name], name, x.chunks[:-1])
                if w.shape != x.shape[:-1] and not np.isnan(x.shape[:-1]).any():
                    raise ValueError(f"{name} must have shape {x.shape[:-1]}, got {w.shape}")
                self.arrays[name] = w.rechunk(x.chunks[:-1])
        self.options = {name: value for name, value in left.items() if name not in (*OF_ROWS, "axis")}

    def _checked(self, x: Any, t: Any, left: dict[str, Any]) -> bool:
        """Whether the targets are probabilities: what `_check` finds of arrays without elements, of these shapes."""
        some = [0 if np.isnan(size) else int(size) for size in x.shape]
        few = _known(x.shape, t.shape, some)
        classes = {name: value for name, value in left.items() if name not in (*OF_ROWS, "axis")}
        like = np.broadcast_to(np.zeros((), x.dtype), some)
        targets = np.broadcast_to(np.zeros((), t.dtype), few)
        _check.floats(like[:0], "logits")
        layouts = _arrays.on_host(targets), _arrays.on_host(like)
        probabilities = _check.are_probabilities(*layouts, len(some) - 1, x.dtype.kind in "iu")
        empty = (0, *some[1:])
        _check.loss(np.zeros(empty, x.dtype), np.zeros((0, *few[1:]), t.dtype), classes)
        return probabilities

    def blocks(self, function: Any, options: dict[str, Any], added: tuple[int, ...], dtype: Any, **more: Any) -> Any:
        """A Dask array of what a function makes of each chunk of rows: one of each row, or with ``added`` axes."""
        rows, classes = tuple(range(self.rows)), self.rows
        arguments = self._arguments()
        of_block = function is not _losses
        new = {classes + 1 + i: size for i, size in enumerate(added)}
        return da.blockwise(
            functools.partial(_of_block, function, tuple(self.arrays), _settings.asked_for(), options, more, self.rows),
            (*rows, *new),
            *arguments,
            new_axes=new,
            adjust_chunks=dict.fromkeys(rows, _one) if of_block else None,
            dtype=dtype,
            meta=np.empty((0,) * (self.rows + len(added)), dtype),
            align_arrays=False,
        )

    def classes_merged(self, options: dict[str, Any]) -> Any:
        """A Dask array of what `crossentropy.blocks` finds of each row, from its blocks of classes one by one."""
        rows, classes = tuple(range(self.rows)), self.rows
        sizes = self.x.chunks[-1]
        ends = np.cumsum([0, *sizes])
        firsts = da.from_array(ends[:-1], chunks=1)
        names = tuple(self.arrays)
        about = functools.partial(_chunk_of_classes, names, _settings.asked_for(), options, int(ends[-1]), self.rows)
        found = da.blockwise(
            about,
            (*rows, classes),
            *self._arguments(),
            firsts,
            (classes,),
            adjust_chunks={classes: _one},
            dtype=blocks.DTYPE,
            meta=np.empty((0,) * (self.rows + 1), blocks.DTYPE),
            align_arrays=False,
        )
        none = np.empty((0,) * self.rows, blocks.DTYPE)
        return da.blockwise(_combined, rows, found, (*rows, classes), dtype=blocks.DTYPE, meta=none)

    def _arguments(self) -> list[Any]:
        """The arrays of a call with their axes: logits, targets, arrays of rows, and where chunks of rows begin."""
        rows, classes = tuple(range(self.rows)), self.rows
        arguments: list[Any] = [self.x, (*rows, classes), self.targets]
        arguments.append((*rows, classes) if self.probabilities else rows)
        for w in self.arrays.values():
            arguments += [w, rows]
        for axis, sizes in enumerate(self.x.chunks[:-1]):
            unknown = np.isnan(sizes).any()
            starts = np.full(len(sizes), -1) if unknown else np.cumsum([0, *sizes[:-1]])
            arguments += [da.from_array(starts.astype(np.int64), chunks=1), (axis,)]
        return arguments


def _one(size: Any) -> int:
    return 1


def _known(shape: tuple[Any, ...], of: tuple[Any, ...], some: list[int]) -> tuple[int, ...]:
    """A shape whose sizes that nobody knows are taken for those of the logits."""
    return tuple(some[i] if np.isnan(size) and i < len(some) else int(size) for i, size in enumerate(of))


def _as_dask(value: Any, name: str, chunks: Any = None) -> Any:
    """The value as a Dask array, without reading what lies in a file."""
    if isinstance(value, da.Array):
        return value
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(value, xarray.DataArray):
        return (value if value.chunks is not None else value.chunk()).data
    if isinstance(value, np.memmap) and (where := _mapped.of_memmap(value)) is not None:
        return _of_file(where)
    array = _check.array(value, name)
    if isinstance(value, list) and not value:
        array = array.astype(np.int64)
    if chunks is None or array.ndim < len(chunks):
        row = max(array[:1].nbytes, 1)
        return da.from_array(array, chunks=(max(1, CHUNK // row), *array.shape[1:]))
    return da.from_array(array, chunks=array.shape if array.size else "auto")


# ---------------------------------------------------------------------- what a task does


def _of_block(
    function: Any,
    names: tuple[str, ...],
    settings: dict[str, Any],
    options: dict[str, Any],
    more: dict[str, Any],
    rows: int,
    x: Any,
    targets: Any,
    *others: Any,
) -> Any:
    """What a function makes of a chunk of rows, under the settings of the call: one thread, unless they name more."""
    of_rows, starts = dict(zip(names, others, strict=False)), others[len(names) :]
    chunks = list(x) if isinstance(x, (list, tuple)) else [x]
    given = np.concatenate(list(targets), axis=-1) if isinstance(targets, (list, tuple)) else targets
    with registry.config(**{"threads": 1, **settings}):
        try:
            return function(chunks, given, {**options, **of_rows}, **more)
        except IndexError:
            classes = sum(chunk.shape[-1] for chunk in chunks)
            raise _located(classes, given, options, starts) from None


def _located(classes: int, targets: Any, options: Any, starts: Any) -> IndexError:
    """The error for the first bad target of a chunk, with its place in the whole."""
    bad = (targets < 0) | (targets >= classes)
    if (ignored := options.get("ignore_index")) is not None:
        bad &= targets != ignored
    at = tuple(map(int, np.argwhere(bad)[0]))
    whole = tuple(i + int(start[0]) for i, start in zip(at, starts, strict=True) if start[0] >= 0)
    return _check.bad_target(whole if len(whole) == len(at) else at, targets[at], classes)


def _whole(chunks: list[Any]) -> Any:
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks, axis=-1)


def _losses(chunks: list[Any], targets: Any, options: dict[str, Any]) -> Any:
    from . import cross_entropy as of_arrays

    return of_arrays(_whole(chunks), targets, reduction="none", **options)


KINDS = 3  # losses, weights, and the counts of what has no digits


def _chunk_of_classes(
    names: tuple[str, ...],
    settings: dict[str, Any],
    options: dict[str, Any],
    classes: int,
    rows: int,
    x: Any,
    targets: Any,
    *others: Any,
) -> np.ndarray:
    """What is found of a block of classes: as `_of_block`, with an axis of one block after those of the rows."""
    of_rows, starts, first = dict(zip(names, others, strict=False)), others[len(names) : -1], int(others[-1][0])
    own = {name: value for name, value in options.items() if OPTIONS[name].over != "classes"}
    for name in options.keys() - own.keys():
        own[name] = np.asarray(options[name])[first : first + x.shape[-1]]
    with registry.config(**{"threads": 1, **settings}):
        try:
            return blocks.chunk(x, targets, first, classes, **own, **of_rows)[..., np.newaxis]
        except IndexError:
            raise _located(classes, targets, options, starts) from None


def _combined(found: Any) -> np.ndarray:
    return blocks.combine(*(block[..., 0] for block in (found if isinstance(found, (list, tuple)) else [found])))


def _of_rows_alone(options: dict[str, Any]) -> dict[str, Any]:
    """What `blocks.aggregate` has still to do: the options that are numbers."""
    return {name: value for name, value in options.items() if name in NUMERIC}


def _losses_of(found: np.ndarray, options: dict[str, Any], dtype: np.dtype[Any]) -> np.ndarray:
    return rounded(blocks.aggregate(found, **_of_rows_alone(options)), dtype.type)


def _sums_of(found: np.ndarray, options: dict[str, Any], probabilities: bool) -> np.ndarray:
    weights = found["sample_weight"] * (1.0 if probabilities else found["class_weight"])
    losses = blocks.aggregate(found, **_of_rows_alone(options))
    return _exact(losses.reshape(-1), weights.reshape(-1), found.ndim)


def _exact(losses: np.ndarray, weights: np.ndarray, rows: int) -> np.ndarray:
    """The exact sums of losses and weights, and how many losses are NaN, and inf; after so many axes of length 1."""
    found = np.zeros((KINDS, DIGITS), np.int64)
    finite = np.isfinite(losses)
    found[0], found[1] = exact_sums(losses[finite])[0], exact_sums(weights)[0]
    found[2, :2] = np.count_nonzero(np.isnan(losses)), np.count_nonzero(np.isposinf(losses))
    return found.reshape((1,) * rows + found.shape)


def _sums(chunks: list[Any], targets: Any, options: dict[str, Any]) -> np.ndarray:
    """The exact sums of a chunk's losses and weights, and how many losses are NaN, inf or -inf."""
    call = _check.loss(_whole(chunks), targets, options)
    backend, row = registry.current(), call.options
    n = int(np.prod(call.rows_shape))
    losses, weights = np.empty(n), np.ones(n)
    if not row.probabilities:
        bad, _ = backend.scan_targets(call.targets, call.x.shape[-1], row.ignore_index, None, None)
        if bad >= 0 and _settings.checks_targets():
            raise IndexError
    if n:
        backend.forward(call.x, call.targets, row, losses, None)
    if not row.probabilities:
        counts, weights = weights_of(call.targets, row)
        weights = weights[counts]
    elif row.sample_weight is not None:
        weights = row.sample_weight
    return _exact(losses, weights, len(call.rows_shape))


def _reduced(sums: np.ndarray, mean: bool, by: float | None, empty: float, result: np.dtype[Any]) -> Any:
    """The loss of all rows from the sums of all chunks."""
    total, weight = (fraction(digits) for digits in sums[:2])
    nans, infs = map(int, sums[2, :2])
    if mean and not weight:
        return np.asarray(empty, result)
    if nans or infs:
        return np.asarray(np.nan if nans else np.inf, result)
    divisor = weight if mean else by
    with np.errstate(over="ignore", under="ignore"):
        value = total if divisor is None else total / type(total)(divisor)
        return np.asarray(float(value), np.float64).astype(result)


def _evaluated(chunks: list[Any], targets: Any, options: dict[str, Any], how: dict[str, Any]) -> np.ndarray:
    """The evaluation of a chunk of rows."""
    of_rows = {name: options[name] for name in OF_ROWS if name in options}
    evaluation = Evaluation(**how, **{name: value for name, value in options.items() if name not in OF_ROWS})
    if len(chunks) == 1:
        evaluation.update(chunks[0], targets, **of_rows)
    else:
        evaluation.update_beside(chunks, targets, **of_rows)
    found = np.empty((1,) * targets.ndim, object)
    found[...] = evaluation
    return found


def _merged(parts: list[np.ndarray]) -> np.ndarray:
    evaluations = [part.item() for part in parts]
    found = np.empty(1, object)
    found[0] = _like(evaluations[0]).merge_state(evaluations)
    return found


def _like(evaluation: Evaluation) -> Evaluation:
    """Another one of the same options that has seen nothing."""
    import copy

    return copy.copy(evaluation).reset()


def _result(part: np.ndarray) -> Any:
    return part.item().compute()
