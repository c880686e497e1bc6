"""Blocks of classes: what is found of each by itself, its merging, the loss, and the gradient of a block from that.

A row's classes may lie in several arrays, processes or machines (shards of a vocabulary, chunks of a matrix on disk).
Of each block `chunk` finds a few float64 numbers a row, `combine` merges those of two blocks or more in any order and
association, `aggregate` makes the rows' losses of them, and `gradient` a block's gradient from its own logits and the
numbers of all blocks together:

    >>> chunk, combine, gradient = crossentropy.blocks.chunk, crossentropy.blocks.combine, crossentropy.blocks.gradient
    >>> logits, targets = np.zeros((2, 4), np.float32), np.array([0, 3])
    >>> left, right = chunk(logits[:, :2], targets, 0, 4), chunk(logits[:, 2:], targets, 2, 4)
    >>> whole = combine(left, right)
    >>> crossentropy.blocks.aggregate(whole).round(6)
    array([1.386294, 1.386294])
    >>> gradient(logits[:, 2:], targets, whole, 2, 4)
    array([[ 0.25,  0.25],
           [ 0.25, -0.75]], dtype=float32)

With z_c the logits as options make them, t_c what smoothing and probability targets weigh the classes by, and m the
largest z_c of a block, its numbers are m, R with e^m (1 + R) = sum_c e^(z_c), z_y where the target lies in it,
sum_c t_c and sum_c t_c (m - z_c): sums of terms >= 0, so that nothing cancels in merging them (docs/derivation.md).
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple, SupportsIndex, Unpack

import numpy as np
from numpy.typing import ArrayLike

from . import _check, _device, _memory, _merging, _settings
from ._backends import registry
from ._backends.contract import BlockStatistics, RowNumbers, Statistics
from ._options import NUMERIC, OPTIONS, PER_ROW, PerRowOptions, RowOptions, integer, numeric_of, passed, takes_options
from ._reduction import gradient_array, row_count
from .row_numbers import LOG_PROB_OPTIONS, LogProbOptions, is_transformed, transformed_rows

__all__ = [
    "DTYPE",
    "DTYPE_WITH_ENTROPY",
    "LogProbs",
    "aggregate",
    "chunk",
    "combine",
    "cuts",
    "gradient",
    "identity",
    "log_probs",
    "log_probs_gradient",
]

# What is kept of a row: the numbers of a block; w_y of its target where that lies in the block; v_n, 0 where it does
# not count. With entropies, sum_c e^(z_c - m) (m - z_c), too.
_ALWAYS = (*BlockStatistics._fields, "class_weight", "sample_weight")
DTYPE = np.dtype([(name, np.float64) for name in _ALWAYS])
DTYPE_WITH_ENTROPY = np.dtype([(name, np.float64) for name in (*_ALWAYS, "spread")])
_OVER_CLASSES = tuple(name for name, option in OPTIONS.items() if option.over == "classes")
_OF_BLOCK = tuple(name for name in NUMERIC if name not in ("z_loss", "focal"))  # which come once blocks are merged
_IGNORED = np.iinfo(np.int64).min  # no class of any block


class LogProbs(NamedTuple):
    """Of each row, float64 in nats: the log-probability of its target, and the entropy of its softmax."""

    log_prob: np.ndarray
    entropy: np.ndarray


def identity(rows: SupportsIndex | tuple[int, ...], *, entropy: bool = False) -> np.ndarray:
    """The numbers of a block without classes, which change nothing in `combine`.

    Parameters
    ----------
    rows : int or tuple of int
        The shape of the rows.
    entropy : bool, default False
        As for `chunk`.

    Returns
    -------
    ndarray of DTYPE, or DTYPE_WITH_ENTROPY
        A row of it alone, of which no block is known, has a loss of 0.

    Raises
    ------
    TypeError
        For rows that are no integers.
    ValueError
        For a negative number of rows.

    Notes
    -----
    Why they are neutral: ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> crossentropy.blocks.identity(2)["max"]
    array([-inf, -inf])
    """
    found = np.zeros(rows, DTYPE_WITH_ENTROPY if entropy else DTYPE)
    found["max"] = found["target"] = -np.inf
    return found


def cuts(classes: SupportsIndex, partition: SupportsIndex) -> list[int]:
    """Where so many blocks of nearly the same number of classes start, and the end of the last one.

    Parameters
    ----------
    classes : int
        C, of all blocks together.
    partition : int
        How many blocks there are, at least 1.

    Returns
    -------
    list of int
        ``partition + 1`` class numbers, from 0 to C: block b has the classes from entry b up to entry b + 1.

    Raises
    ------
    TypeError, ValueError
        For what is no integer; for a negative number of classes, or less than one block.

    Examples
    --------
    >>> crossentropy.blocks.cuts(10, 4)
    [0, 2, 5, 7, 10]
    """
    c, parts = integer(classes, "classes"), integer(partition, "partition")
    if parts < 1:
        raise ValueError(f"partition must be positive, got {parts}")
    if c < 0:
        raise ValueError(f"classes must not be negative, got {c}")
    return [c * part // parts for part in range(parts + 1)]


# ---------------------------------------------------------------------- a block by itself


class _Block(NamedTuple):
    """A checked call over a block. ``local`` counts targets that are classes from the block's first one."""

    call: _check.Loss  # with all options
    own: int  # classes of the block
    local: np.ndarray | None  # None for probabilities
    skipped: np.ndarray | None  # rows that do not count; None where there are none
    bad: np.ndarray | None  # rows whose target is no class, let through by check=False
    options: Any  # as backends get them: of z_loss and focal they know nothing

    @property
    def mine(self) -> np.ndarray | None:
        """Whether a target lies in the block."""
        return None if self.local is None else (self.local >= 0) & (self.local < self.own)

    @property
    def given(self) -> np.ndarray:
        """The targets as backends get them."""
        return self.call.targets if self.local is None else self.local


def _block(logits: Any, targets: Any, start: Any, classes: Any, left: dict[str, Any]) -> _Block:
    first, all_classes = integer(start, "start"), integer(classes, "classes")
    if _device.holds(logits):
        way = "crossentropy.torch.vocab_parallel_cross_entropy takes tensors on a device"
        raise TypeError(f"logits must be on the host, got a CUDA array: {way}")
    given = _check.array(logits, "logits")
    axis = _check.class_axes(given.ndim, (integer(left.get("axis", -1), "axis"),))
    if not axis:
        raise ValueError("logits must have a class axis, got a scalar")
    own = given.shape[axis[0]]
    if all_classes < 1:
        raise ValueError(f"classes must be positive, the number of all, got {all_classes}")
    if own > all_classes:
        raise ValueError(f"classes must be those of all blocks, at least the {own} of logits, got {all_classes}")
    if not 0 <= first <= all_classes - own:
        raise ValueError(f"start must be in [0, {all_classes - own}] for {own} of {all_classes} classes, got {first}")
    nothing = targets is None
    if nothing:
        targets = np.broadcast_to(np.int8(0), np.delete(given.shape, axis[0]))
    if not own:
        given, targets, left = _of_one_class(given, targets, axis[0], left)
    call = _check.loss(given, targets, left)
    call = call._replace(options=call.options._replace(all_classes=all_classes))
    options = call.options._replace(z_loss=0.0, focal=0.0)
    skipped = None if options.sample_weight is None else options.sample_weight == 0
    if options.probabilities:
        return _Block(call, own, None, skipped, None, options)
    if nothing:
        return _Block(call, own, np.full(row_count(call.x), -1), skipped, None, options)
    y, ignored, bad = call.targets, options.ignore_index, None
    local = np.subtract(y, first, dtype=np.int64, casting="unsafe")
    if ignored is not None:
        of_none = y == ignored
        local[of_none] = _IGNORED
        skipped = of_none if skipped is None else skipped | of_none
        options = options._replace(ignore_index=_IGNORED)
    first_bad, _ = registry.current().scan_targets(y, all_classes, ignored, None, options.sample_weight)
    if first_bad >= 0:
        if _settings.checks_targets():
            raise _check.bad_target(_check.index_of(first_bad, call.rows_shape), y[first_bad], all_classes)
        bad = (y < 0) | (y >= all_classes)
    return _Block(call, own, local, skipped, bad, options)


def _of_one_class(given: np.ndarray, targets: Any, axis: int, left: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """A block without classes as one of a class that nobody looks at, since kernels know no empty rows."""
    shape = tuple(1 if a == axis else size for a, size in enumerate(given.shape))
    t = _check.array(targets, "targets")
    if t.shape == given.shape:
        t = np.broadcast_to(np.zeros((), t.dtype), shape)
    empty = {name: np.zeros(1) for name in _OVER_CLASSES if name in left and np.shape(left[name]) == (0,)}
    return np.broadcast_to(np.zeros((), given.dtype), shape), t, left | empty


@functools.partial(takes_options, names=PER_ROW)
def chunk(
    logits: ArrayLike,
    targets: ArrayLike | None,
    start: SupportsIndex,
    classes: SupportsIndex,
    *,
    entropy: bool = False,
    partition: SupportsIndex | None = None,
    **options: Unpack[PerRowOptions],
) -> np.ndarray:
    """What is found of a block of classes by itself, in one pass over its logits.

    Parameters
    ----------
    logits : array_like, shape (..., C_b, ...)
        The logits of the block's classes, as for `crossentropy.cross_entropy`; there may be none.
    targets : array_like or None
        Classes of whole rows, in [0, classes): one that lies in another block is none of this one's. Or the
        probabilities of the block's own classes, like ``logits``. None for no targets.
    start : int
        Which class of all the block's first one is.
    classes : int
        C, of all blocks together.
    entropy : bool, default False
        Whether entropies and exact log-probabilities are to be made of the result, too (`log_probs`).
    partition : int, optional
        The parts of nearly the same size that all classes are in (`cuts`), of which the block has some whole. Each is
        found by itself, and the result has an axis of these parts before that of the rows: concatenated over all
        blocks and merged by ``combine(*parts)`` it has the same bits however many blocks there are.
    {options}

        What is over classes (``class_weight``, ``class_prior``) is over those of the block. ``z_loss`` and ``focal``
        are for `aggregate` and `gradient` alone, and taken so that one set of options does for all three.

    Returns
    -------
    ndarray of DTYPE, or of DTYPE_WITH_ENTROPY, of the rows' shape
        Named float64 numbers: ``max``, the largest logit m (-inf of none, NaN of an undefined row); ``rest``, R with
        e^m (1 + R) the sum of e^(z_c); ``target``, the target's logit, -inf where it lies in another block; ``mass``,
        the sum of what smoothing and probability targets weigh the classes by, t_c, and ``distance``, that of
        t_c (m - z_c); ``class_weight``, w_y where the target lies in the block, else 0; ``sample_weight``, v_n, 0 for
        a row that does not count. With ``entropy`` also ``spread``, the sum of e^(z_c - m) (m - z_c).
        With ``partition`` of shape (parts, ...).

    Raises
    ------
    {raises}

    Notes
    -----
    What is kept of a block is derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> found = crossentropy.blocks.chunk(np.zeros((1, 3)), [5], 3, 6)
    >>> float(found["max"][0]), float(found["rest"][0]), float(found["target"][0])
    (0.0, 2.0, 0.0)
    """
    left = passed("chunk", options, ("entropy", "partition"), PER_ROW)
    if partition is not None:
        return _parts(logits, targets, start, classes, entropy, partition, left)
    if entropy and "margin" in left:
        raise ValueError("margin is the loss's own: chunk(entropy=True) takes none")
    b = _block(logits, targets, start, classes, left)
    n = row_count(b.call.x)
    found = identity(n, entropy=entropy)
    if n and b.own:
        for name, values in _found(b, entropy).items():
            found[name] = values
        found["class_weight"] = _weights_of_targets(b)
    found["sample_weight"] = 1 if b.options.sample_weight is None else b.options.sample_weight
    if b.skipped is not None:
        found[b.skipped] = identity((), entropy=entropy)
    return found.reshape(b.call.rows_shape)


def columns(
    logits: Any, targets: Any, start: Any, classes: Any, options: dict[str, Any], *, entropy: bool = False
) -> dict[str, Any]:
    """The same numbers by name, but for sample_weight, and class_weight only where there are weights of classes.

    Of rows that do not count they may be any.
    """
    b = _block(logits, targets, start, classes, options)
    if not (row_count(b.call.x) and b.own):
        return _columns(identity(b.call.rows_shape, entropy=entropy))
    found = _found(b, entropy)
    if b.options.class_weight is not None:
        found["class_weight"] = _weights_of_targets(b)
    return found


def columns_of_classes(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray | None, start: int, classes: int, options: dict[str, Any]
) -> dict[str, Any]:
    """`columns` of arguments that are checked already, without any weights, for calls that this would be much of.

    x are logits with the classes last, y int64 (N,) classes; ``counts`` says which rows do, None that all do.
    """
    if not x.size:
        return _columns(identity(y.shape))
    local = y - start
    if counts is not None:
        local[~counts] = _IGNORED
    numbers = tuple([(name, options[name]) for name in _OF_BLOCK if name in options])
    return _statistics(x, local, _of_numbers(numbers, classes, None if counts is None else _IGNORED))


@functools.lru_cache
def _of_numbers(numbers: tuple[tuple[str, float], ...], classes: int, ignored: int | None) -> Any:
    return RowOptions(**dict(numbers), all_classes=classes, ignore_index=ignored)


def _parts(logits: Any, targets: Any, start: Any, classes: Any, entropy: bool, partition: Any, left: Any) -> np.ndarray:
    """The numbers of each part of a block, of a fixed partition of all classes."""
    b = _block(logits, targets, start, classes, left)
    at, first = cuts(classes, partition), integer(start, "start")
    last = first + b.own
    if first not in at or last not in at:
        told = f"partition={len(at) - 1} cuts {at[-1]} classes at {', '.join(map(str, at))}"
        raise ValueError(f"{told}, got a block from {first} to {last}")
    x = _check.array(logits, "logits")
    axis, found = integer(left.get("axis", -1), "axis"), []
    for a, z in itertools.pairwise(at):
        if first <= a and z <= last:
            here = slice(a - first, z - first)
            index = (slice(None),) * (axis % x.ndim) + (here,)
            t = targets if b.local is not None else _check.array(targets, "targets")[index]
            own: dict[str, Any] = {
                name: np.asarray(value)[here] if name in _OVER_CLASSES else value for name, value in left.items()
            }
            found.append(chunk(x[index], t, a, classes, entropy=entropy, **own))
    return np.stack(found) if found else identity((0, *b.call.rows_shape), entropy=entropy)


def _found(b: _Block, entropy: bool) -> dict[str, np.ndarray]:
    """The numbers of a block that has rows and classes, by name."""
    o, n, found = b.options, row_count(b.call.x), dict[str, np.ndarray]()
    if not entropy or o.probabilities or o.label_smoothing > 0:
        found = _statistics(b.call.x, b.given, o)
    if entropy:
        _find_spread(b, found, n)
    if b.bad is not None:
        found["max"][b.bad] = np.nan
    return found


def _weights_of_targets(b: _Block) -> Any:
    """w_y of the targets that lie in the block, 0 of others; of probabilities, too."""
    w, mine = b.options.class_weight, b.mine
    if mine is None or b.local is None:
        return 0.0
    if w is None:
        return mine
    found = np.zeros(len(mine))
    found[mine] = w[b.local[mine]]
    return found


def _statistics(x: np.ndarray, given: np.ndarray, o: Any) -> dict[str, np.ndarray]:
    """What backends find of a block that has rows and classes."""
    parts = _memory.empty_rows(row_count(x), len(BlockStatistics._fields))
    registry.current().forward_block(x, given, o, parts)
    found = dict(zip(BlockStatistics._fields, parts.T, strict=True))
    if o.probabilities or o.label_smoothing:  # else nothing but the target weighs anything
        _find_mass_of_nothing(x, given, o, found)
    return found


def _find_mass_of_nothing(x: np.ndarray, given: np.ndarray, o: Any, found: dict[str, np.ndarray]) -> None:
    """The mass of rows of which the block has nothing but -inf: what these weigh in the loss is lost to no row."""
    lost = np.flatnonzero(found["max"] == -np.inf)
    if not lost.size:
        return
    w = 1.0 if o.class_weight is None else o.class_weight
    floor = o.label_smoothing / o.all_classes
    for row in lost if o.probabilities else ():
        q = given[np.unravel_index(row, x.shape[:-1])].astype(np.float64)
        found["mass"][row] = (w * ((1 - o.label_smoothing) * q + floor)).sum()
    if not o.probabilities:
        found["mass"][lost] = floor * (x.shape[-1] if o.class_weight is None else o.class_weight.sum())
    found["distance"][lost] = np.where(found["mass"][lost] == 0, 0, np.inf)


def _find_spread(b: _Block, found: dict[str, np.ndarray], n: int) -> None:
    """The sums of e^(z_c - m) (m - z_c), maxima, targets, and rests, of which no digit may be lost here."""
    backend, call = registry.current(), b.call
    values, places = _memory.empty((5, n), np.dtype(np.float64)), _memory.empty((2, n), np.dtype(np.int64))
    to, saved = RowNumbers(*values, *places), _memory.empty_rows(n, len(Statistics._fields))
    given, mine = b.options, b.mine
    plain = RowOptions(logit_scale=given.logit_scale, softcap=given.softcap, class_prior=given.class_prior)
    target = found["target"] = np.full(n, -np.inf)
    if not is_transformed(plain):
        if mine is not None and b.local is not None:
            here = np.flatnonzero(mine)
            target[here] = call.x[(*_check.indices_of(here, call.rows_shape), b.local[here])]
        backend.row_statistics(call.x, None, plain, to, saved)
    else:
        for rows, x, of_rows, _ in transformed_rows(call._replace(options=plain), None):
            if mine is not None and b.local is not None:
                here = np.flatnonzero(mine[rows])
                target[rows.start + here] = x[here, b.local[rows][here]]
            backend.row_statistics(x, None, of_rows, RowNumbers(*(a[rows] for a in to)), saved[rows])
    m, rest, distance = saved.T
    nothing = to.logsumexp == -np.inf
    found["max"], found["rest"] = np.where(nothing, -np.inf, m), np.where(nothing, 0, rest)
    found["spread"] = np.where(nothing, 0, distance * (1 + rest))


# ---------------------------------------------------------------------- blocks together


def combine(*blocks: np.ndarray) -> np.ndarray:
    """The numbers of blocks together, from theirs.

    Associative and commutative up to rounding, with `identity` exactly neutral: what Dask calls the combination of a
    reduction, Ray its accumulation, MPI an operation. The blocks are of the same rows and of different classes.

    Parameters
    ----------
    *blocks : ndarray
        From `chunk`, `identity` or `combine`, of one shape and dtype. All at once is rounded least.

    Returns
    -------
    ndarray
        Of the same shape and dtype.

    Raises
    ------
    TypeError, ValueError
        For what is none of these, or of another shape or dtype than the first one.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> found = crossentropy.blocks.chunk(np.zeros((1, 3)), [5], 3, 6)
    >>> bool(crossentropy.blocks.combine(crossentropy.blocks.identity(1), found) == found)
    True
    """
    first = _blocks(blocks[0] if blocks else None)
    for block in blocks[1:]:
        if (a := _blocks(block)).shape != first.shape or a.dtype != first.dtype:
            raise ValueError(f"blocks must be alike, got {first.dtype.names} {first.shape}, {a.dtype.names} {a.shape}")
    if len(blocks) == 1:
        return first.copy()
    found = np.empty(first.shape, first.dtype)
    to = found.reshape(-1)
    for name, values in _merging.merged([_columns(block) for block in blocks]).items():
        to[name] = values
    return found


def _columns(block: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of rows by name."""
    rows = block.reshape(-1)
    return {name: rows[name] for name in block.dtype.names or ()}


def _blocks(value: Any, name: str = "blocks") -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype not in (DTYPE, DTYPE_WITH_ENTROPY):
        told = f"of dtype {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise TypeError(f"{name} must be what chunk, identity or combine has returned, got {told}")
    return value


@functools.partial(takes_options, names=PER_ROW)
def aggregate(blocks: np.ndarray, **options: Unpack[PerRowOptions]) -> np.ndarray:
    """The rows' losses, from the numbers of all their classes.

    Parameters
    ----------
    blocks : ndarray
        From `combine`, or from `chunk` over all classes.
    {options}

        Those that `chunk` got; ``label_smoothing``, ``z_loss`` and ``focal`` are what there is still to do.

    Returns
    -------
    ndarray of float64, of the rows' shape
        In nats; 0 for a row that does not count, NaN for one that is undefined. Their mean is their sum over
        ``(blocks["sample_weight"] * blocks["class_weight"]).sum()``; with probability targets, over
        ``blocks["sample_weight"].sum()``.

    Raises
    ------
    TypeError, ValueError
        For what is no blocks; for numbers outside their rules.

    Notes
    -----
    The loss of eq. 5 and 6 of the note, from the numbers of blocks: ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> crossentropy.blocks.aggregate(crossentropy.blocks.chunk([[50.0, 0.0]], [0], 0, 2))
    array([1.92874985e-22])
    """
    b, numbers = _blocks(blocks), numeric_of(passed("aggregate", options, (), PER_ROW))
    loss = _merging.losses(_columns(b), *(numbers.get(name, 0.0) for name in _merging.OPTIONS))
    v = b["sample_weight"]
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        return np.where(v == 0, 0, v * loss.reshape(b.shape))


def log_probs(blocks: np.ndarray) -> LogProbs:
    """The log-probabilities of the targets and the entropies, from the numbers of all classes.

    Parameters
    ----------
    blocks : ndarray
        From `combine` or `chunk`, with ``entropy=True``.

    Returns
    -------
    LogProbs
        Named tuple (log_prob, entropy) of float64, of the rows' shape, in nats, as `crossentropy.row_statistics` has
        them: 0 for rows that do not count, NaN for those that are undefined. Without targets log_prob is -inf.

    Raises
    ------
    TypeError, ValueError
        For what is no blocks, or blocks without entropy.

    Notes
    -----
    Derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> crossentropy.blocks.log_probs(crossentropy.blocks.chunk([[0.0, 0.0]], [1], 0, 2, entropy=True))
    LogProbs(log_prob=array([-0.69314718]), entropy=array([0.69314718]))
    """
    b = _with_entropy(blocks, "blocks")
    counts, known = b["sample_weight"] != 0, np.isfinite(b["max"])
    with np.errstate(invalid="ignore"):
        log_sum = np.log1p(b["rest"])
        both = (b["target"] - b["max"]) - log_sum, b["spread"] / (1 + b["rest"]) + log_sum
    return LogProbs(*(np.where(counts, np.where(known, values, np.nan), 0) for values in both))


def _with_entropy(value: Any, name: str) -> np.ndarray:
    if _blocks(value, name).dtype != DTYPE_WITH_ENTROPY:
        raise ValueError(f"{name} must be of chunk(..., entropy=True)")
    return value


# ---------------------------------------------------------------------- the gradient of a block


@functools.partial(takes_options, names=PER_ROW)
def gradient(
    logits: ArrayLike,
    targets: ArrayLike,
    statistics: np.ndarray,
    start: SupportsIndex,
    classes: SupportsIndex,
    *,
    grad_output: ArrayLike = 1.0,
    out: np.ndarray | None = None,
    **options: Unpack[PerRowOptions],
) -> np.ndarray:
    """The gradient on a block's logits of the sum of the rows' losses, each times what arrives at it.

    Parameters
    ----------
    logits, targets, start, classes
        As for `chunk`.
    statistics : ndarray
        The numbers of all blocks together, from `combine`.
    {options}
    grad_output : float, or array_like of the rows' shape; default 1
        What arrives at the losses: over the divisor for a mean.
    out : ndarray, optional
        As for `crossentropy.cross_entropy_and_grad`; it may be ``logits``.

    Returns
    -------
    ndarray
        Of the shape and dtype of the block's logits, rounded once.

    Raises
    ------
    {raises}

    Notes
    -----
    Derived in ``docs/derivation.md``, section 8.

    Examples
    --------
    >>> found = crossentropy.blocks.chunk([[0.0, 0.0]], [1], 0, 2)
    >>> crossentropy.blocks.gradient([[0.0, 0.0]], [1], found, 0, 2)
    array([[ 0.5, -0.5]])
    """
    b = _block(logits, targets, start, classes, passed("gradient", options, ("grad_output", "out"), PER_ROW))
    s = _of_rows(statistics, b)
    to = _write(b, _columns(s), grad_output, logits, out)
    return to if out is None else out


def write_gradient(
    logits: Any, targets: Any, of: _merging.Numbers, start: Any, classes: Any, options: dict[str, Any], g: Any, out: Any
) -> None:
    """The same into ``out``, from numbers by name, (N,) each; what arrives is a float, or of the rows' shape."""
    _write(_block(logits, targets, start, classes, options), of, g, logits, out)


def _write(b: _Block, of: _merging.Numbers, grad_output: Any, logits: Any, out: Any) -> np.ndarray:
    g, to = _arriving(b, {"grad_output": grad_output}, logits, out)
    if b.own and row_count(b.call.x):
        _write_gradient(b, of, g["grad_output"], _check.classes_last(to, b.call.axis))
    return to


def _write_gradient(b: _Block, of: _merging.Numbers, g: float | np.ndarray, grad: np.ndarray) -> None:
    """The gradient of a block that has rows and classes; g arrives at their losses."""
    o, given, mine = b.call.options, b.given, b.mine
    saved, scale, at_target = _merging.start_of(of, mine, o.all_classes, o.label_smoothing, o.z_loss, o.focal)
    if b.bad is not None:
        saved[b.bad, 0] = np.nan
    if at_target is None or mine is None:
        registry.current().backward(b.call.x, given, saved, b.options, g, grad)
        return
    here = np.flatnonzero(mine)
    places = (*_check.indices_of(here, b.call.rows_shape), given[here])
    slope = _slope(b.call.x[places].astype(np.float64), o)  # before the gradient is written over the logits
    registry.current().backward(b.call.x, np.where(mine, -1, given), saved, b.options, g * scale, grad)
    arriving = np.broadcast_to(g, mine.shape)[here]
    if o.sample_weight is not None:
        arriving = arriving * o.sample_weight[here]
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        value = at_target[here] * arriving * slope
        value = np.where(np.isfinite(of["max"][here]), value, np.nan)
        grad[places] = np.where(arriving == 0, 0, value) if o.sample_weight is not None else value


def _slope(z: np.ndarray, options: Any) -> Any:
    """The derivative of logits as options transform them on what was given."""
    scale, cap = options.logit_scale, options.softcap
    if not cap:
        return scale
    e = np.exp(-2 * np.abs(z * scale) / cap)
    s = 2 * e / (1 + e)
    return np.where(np.isnan(z), z, scale * s * (2 - s))


def _of_rows(statistics: Any, b: _Block) -> np.ndarray:
    s = _blocks(statistics, "statistics")
    if s.shape != b.call.rows_shape:
        raise ValueError(f"statistics must have the rows' shape, {b.call.rows_shape}, got {s.shape}")
    return s.reshape(-1)


def _arriving(b: _Block, arriving: dict[str, Any], logits: Any, out: Any) -> tuple[dict[str, Any], np.ndarray]:
    """What arrives, checked, and the array that the gradient goes to."""
    call = b.call._replace(reduction="none")
    g = {name: _check.grad_output(value, call, name) for name, value in arriving.items()}
    if not b.own:
        given = _check.floats(logits, "logits")[0]
        return g, _check.result(out, given, {})
    sources = call.sources | {name: a for name, a in g.items() if isinstance(a, np.ndarray)}
    return g, gradient_array(call._replace(sources=sources), out, None)


@functools.partial(takes_options, names=LOG_PROB_OPTIONS)
def log_probs_gradient(
    logits: ArrayLike,
    index: ArrayLike | None,
    statistics: np.ndarray,
    start: SupportsIndex,
    classes: SupportsIndex,
    *,
    grad_log_prob: ArrayLike = 0.0,
    grad_entropy: ArrayLike = 0.0,
    out: np.ndarray | None = None,
    **options: Unpack[LogProbOptions],
) -> np.ndarray:
    """The gradient on a block's logits of weighted log-probabilities and entropies.

    Parameters
    ----------
    logits, index, start, classes
        As `chunk` got them, ``index`` for its targets.
    statistics : ndarray
        The numbers of all blocks together, of ``chunk(..., entropy=True)``.
    {options}
    grad_log_prob, grad_entropy : float, or array_like of the rows' shape; default 0
        What arrives at the two.
    out : ndarray, optional
        As for `gradient`.

    Returns
    -------
    ndarray
        Of the shape and dtype of the block's logits, rounded once.

    Raises
    ------
    {raises}

    Notes
    -----
    From the derivative of the softmax: ``docs/derivation.md``, section 2.

    Examples
    --------
    >>> found = crossentropy.blocks.chunk([[0.0, 0.0]], [1], 0, 2, entropy=True)
    >>> crossentropy.blocks.log_probs_gradient([[0.0, 0.0]], [1], found, 0, 2, grad_log_prob=1.0)
    array([[-0.5,  0.5]])
    """
    more = ("grad_log_prob", "grad_entropy", "out")
    left = passed("log_probs_gradient", options, more, LOG_PROB_OPTIONS)
    b = _block(logits, index, start, classes, left)
    if b.local is None:
        raise TypeError("index must be classes, integers of the rows' shape, got probabilities")
    s = _of_rows(_with_entropy(statistics, "statistics"), b)
    g, to = _arriving(b, {"grad_log_prob": grad_log_prob, "grad_entropy": grad_entropy}, logits, out)
    if not (b.own and len(s)):
        return to if out is None else out
    backend, grad = registry.current(), _check.classes_last(to, b.call.axis)
    with np.errstate(invalid="ignore"):
        m = np.where(np.isfinite(s["max"]), s["max"], np.nan)
        saved = np.stack([m, s["rest"], s["spread"] / (1 + s["rest"])], 1)
    if b.bad is not None:
        saved[b.bad, 0] = np.nan
    if not is_transformed(b.options):
        backend.log_probs_backward(b.call.x, b.local, saved, b.options, g["grad_log_prob"], g["grad_entropy"], grad)
        return to if out is None else out
    for rows, x, of_rows, slope in transformed_rows(b.call._replace(options=b.options), b.local):
        arrived = [a if isinstance(a, float) else a[rows] for a in g.values()]
        of_block = of_rows._replace(all_classes=b.options.all_classes)
        backend.log_probs_backward(x, b.local[rows], saved[rows], of_block, *arrived, x)
        with np.errstate(all="ignore"):
            np.multiply(x, slope, out=x, where=x != 0)
            grad[_check.indices_of(np.arange(rows.start, rows.stop), b.call.rows_shape)] = x
    return to if out is None else out
