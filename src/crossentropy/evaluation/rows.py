"""What an evaluation takes from each row: read in blocks that stay in the cache, shared out to threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import _check, _settings
from .._backends import workers
from .._backends.contract import RowNumbers
from .._options import RowOptions
from ..row_numbers import is_transformed, transformed_rows

ROWS_AT_ONCE = 1 << 16  # whose numbers are kept: some megabytes
BLOCK = 1 << 24  # bytes of logits that a thread takes at a time,
SHARES = 16  # or fewer, so that each thread has so many times something to take
COPIED = 1 << 22  # where they have to be copied
READ_TWICE = 1 << 20  # where it reads them twice: half of a core's cache
ALONE_BELOW = 1 << 17  # bytes of logits below which another thread would come too late


class RowsRead(NamedTuple):
    """The numbers of some rows, (n,) each; of a row that does not count they mean nothing."""

    targets: np.ndarray
    counts: np.ndarray  # whether it does
    loss: np.ndarray  # these five are float64
    weight: np.ndarray
    nll: np.ndarray  # -log p of the target
    brier: np.ndarray  # sum over the classes of (p_c - [c = y])^2
    max_prob: np.ndarray
    argmax: np.ndarray  # int64; -1 where the row is undefined
    rank: np.ndarray  # int64


class Beside:
    """Arrays of logits that have different classes of the same rows; a slice of rows is an array of them together."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts, self.dtype = parts, np.result_type(*parts)
        self.shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.concatenate([part[rows] for part in self.parts], axis=-1)


def read_rows(backend: ModuleType, call: _check.Loss, parts: Sequence[np.ndarray] = ()) -> Iterator[RowsRead]:
    """The numbers of all rows, so many at a time that their own arrays stay small.

    With parts the rows lie in these, classes beside classes, and the call has their shape alone.
    """
    targets, x = call.targets, call.x
    if x.ndim == 1 or (x.flags.c_contiguous and not parts):
        x = x.reshape(-1, x.shape[-1])
    if not x.size:
        return
    each = targets.size // len(x)  # rows for an index of the first axis
    step = max(1, ROWS_AT_ONCE // each)
    for first in range(0, len(x), step):
        some, rows = slice(first, first + step), slice(first * each, min(first + step, len(x)) * each)
        logits = Beside([part[some] for part in parts]) if parts else x[some]
        yield _numbers(backend, logits, targets[rows], _of_rows(call.options, rows))


def _reads_once(backend: ModuleType) -> bool:
    """Whether `row_statistics` has squares, too: beyond the contract of a backend, which the native one does."""
    return getattr(backend, "SQUARES", False)


def _of_rows(options: Any, rows: slice) -> Any:
    """The options of these rows alone."""
    v = options.sample_weight
    return options if v is None else options._replace(sample_weight=v[rows])


def _numbers(backend: ModuleType, x: np.ndarray | Beside, targets: np.ndarray, options: Any) -> RowsRead:
    n, each = targets.size, targets.size // len(x)
    values, places = np.empty((5, n)), np.empty((2, n), np.int64)
    squares = np.empty(n)
    size = each * x.shape[-1] * x.dtype.itemsize
    most = READ_TWICE if not _reads_once(backend) else COPIED if isinstance(x, Beside) else BLOCK
    step = max(1, min(most, max(COPIED, len(x) * size // (SHARES * _settings.threads()))) // size)

    def read(first: int) -> None:
        rows = slice(first * each, min(first + step, len(x)) * each)
        to = RowNumbers(*(a[rows] for a in (*values, *places)))
        _read_block(backend, x[first : first + step], targets[rows], _of_rows(options, rows), to, squares[rows])

    _share(read, range(0, len(x), step), len(x) * size)
    loss, _, _, log_prob, max_prob = values
    argmax, rank = places
    counts, weight = weights_of(targets, options)
    with np.errstate(all="ignore"):
        brier = _brier(log_prob, max_prob, squares, rank == 0)
    return RowsRead(targets, counts, loss, weight, -log_prob, brier, max_prob, argmax, rank)


def weights_of(targets: np.ndarray, options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which rows count, and the weight of each that does, by which a mean is divided; of targets that are classes."""
    counts = np.ones(targets.size, bool) if options.ignore_index is None else targets != options.ignore_index
    weight = np.ones(targets.size)
    if options.sample_weight is not None:
        counts &= options.sample_weight != 0
        weight *= options.sample_weight
    if options.class_weight is not None:
        classes = (
            counts & (targets >= 0) & (targets < options.class_weight.size)
        )  # all but what check=False lets through
        weight *= options.class_weight[np.where(classes, targets, 0)]
    return counts, weight


def _brier(log_prob: np.ndarray, max_prob: np.ndarray, squares: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """(1 - p_y)^2 and the other classes' p_c^2.

    squares has p_c^2 of every class but one at the maximum: where the target leads, of all others.
    """
    p, miss = np.exp(log_prob), -np.expm1(log_prob)
    return miss * miss + np.where(leads, squares, np.maximum(max_prob * max_prob + (squares - p * p), 0))


def _read_block(
    backend: ModuleType, x: np.ndarray, targets: np.ndarray, options: Any, to: RowNumbers, squares: np.ndarray
) -> None:
    """The numbers of a block's rows, and their squares."""
    if not is_transformed(options):
        _read_plain(backend, x, targets, options, to, squares)
        return
    call = _check.Loss(x, targets, options, x.shape[:-1], x.ndim - 1, "none", None, np.nan, {})
    for rows, z, plain, _ in transformed_rows(call, targets):
        part = RowNumbers(*(a[rows] for a in to))
        _read_plain(backend, z, targets[rows], plain, part, squares[rows])
    backend.forward(x, targets, options, to.loss, None)


def _read_plain(
    backend: ModuleType, x: np.ndarray, targets: np.ndarray, options: Any, to: RowNumbers, squares: np.ndarray
) -> None:
    """The same of logits as they are. A backend that has no squares finds them in a second pass over the block.

    The loss of doubled logits with the largest class for the target is log(1 + rest), with the sum ``rest`` of
    e^(2 (z_c - m)) over the other classes; theirs are max_prob^2 times that.
    """
    if _reads_once(backend):
        backend.row_statistics(x, targets, options, to, None, squares)
        return
    backend.row_statistics(x, targets, options, to, None)
    backend.forward(x, to.argmax, RowOptions(ignore_index=-1, logit_scale=2.0), squares, None)
    with np.errstate(over="ignore", under="ignore"):
        np.expm1(squares, out=squares)
        flat = None
        for row in np.flatnonzero(~np.isfinite(squares)):  # whose logits, doubled, are past their dtype
            flat = x.reshape(-1, x.shape[-1]) if flat is None else flat
            z = flat[row].astype(np.float64)
            e = np.exp(2 * (z - z.max()))
            e[to.argmax[row]] = 0
            squares[row] = e.sum()
        squares *= to.max_prob * to.max_prob


def _share(read: Any, firsts: range, size: int) -> None:
    """Read all blocks, on as many threads as the settings in force allow, each under these settings."""
    threads = 1 if size < ALONE_BELOW else min(_settings.threads(), len(firsts))
    if threads == 1:
        for first in firsts:
            read(first)
        return
    settings = {**_settings.asked_for(), "threads": 1}
    left, lock = iter(firsts), threading.Lock()

    def work() -> None:
        _settings.enter(settings)
        try:
            while True:
                with lock:
                    first = next(left, None)
                if first is None:
                    return
                read(first)
        finally:
            _settings.leave()

    def stop() -> None:
        nonlocal left
        left = iter(())

    workers.share(work, threads - 1, stop, work)
