"""Who of a process group holds which classes, and the one message that its ranks exchange for a loss.

Each rank's part of a message is a few bytes a row and, at its end, a `Mark`: how many rows and classes the rank has,
which shards it took the others to have, and digests of what must be the same everywhere. So a rank that came with
other rows, targets or options is an error on every rank and never a wrong number. At its end, because a message that
is shorter than expected is no error to gloo: its mark is missing then.

What must be known before a message can be sent, its size, is shaken hands on once for each number of rows. Which shards
there are is not asked again: each rank sends its own classes with every message, and where these are not what somebody
took them for, all of them see it and send once more.
"""

from __future__ import annotations

import weakref
import zlib
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch

from . import private

MAGIC = 0x63726F7373656E74  # "crossent"
REMEMBERED = 4096  # numbers of rows, for each group


class Mark(NamedTuple):
    """What ends a rank's part of a message: int64 each."""

    magic: int
    rows: int
    width: int  # bytes a row
    classes: int  # of this rank's shard
    first: int  # the class that it begins with, where its caller says so; else -1
    table: int  # of the shards that the rank took the others to have; 0 for none
    options: int  # digest of what must be the same on every rank beside the targets
    targets: int  # digest of these, and of the weights of rows
    weight_bits: int  # of the float64 sum of the class weights of this shard
    problem: int  # whether the rank refuses its arguments

    @property
    def weight_sum(self) -> float:
        """The sum of the class weights of the rank."""
        return float(np.int64(self.weight_bits).view(np.float64))


SIZE = 8 * len(Mark._fields)  # bytes


def mark_of(rows: int, width: int, classes: int, first: int, digests: tuple[int, int], weight_sum: float) -> Mark:
    """The mark of a call, before it is known who else has which classes."""
    return Mark(MAGIC, rows, width, classes, first, 0, *digests, int(np.float64(weight_sum).view(np.int64)), 0)


class Shards(NamedTuple):
    """The classes of each rank of a group."""

    rank: int
    starts: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def start(self) -> int:
        """The first class of this rank."""
        return self.starts[self.rank]

    @property
    def classes(self) -> int:
        """How many classes there are on all ranks together."""
        return sum(self.counts)

    @property
    def digest(self) -> int:
        """A number that other shards do not have; not 0."""
        return 1 + zlib.crc32(repr((self.starts, self.counts)).encode())


class _Known:
    """What is known of a group's earlier calls."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[int, int], None] = {}
        self.shards: dict[tuple[int, int], Shards] = {}


_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def group_of(group):
    """The process group of a call: the default one for None, that of a mesh of one axis."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        raise ValueError("group must be a process group; none is there: call torch.distributed.init_process_group")
    if group is None:
        return dist.distributed_c10d._get_default_group() if hasattr(dist, "distributed_c10d") else dist.group.WORLD
    if isinstance(group, dist.ProcessGroup):
        if dist.get_rank(group) < 0:
            raise ValueError("group must have this process among its ranks")
        return group
    if hasattr(group, "get_group") and hasattr(group, "mesh_dim_names"):
        if group.ndim != 1:
            raise ValueError(f"group must be a mesh of one axis, got one of {group.ndim}; take one of its axes by name")
        return group.get_group()
    raise TypeError(f"group must be a process group, a mesh of one axis, or None, got {type(group).__name__}")


def place_of(group, vocab_range, classes: int):
    """(the process group, the first class that is said to be this rank's, or -1)."""
    group = group_of(group)
    if vocab_range is None:
        return group, -1
    try:
        first, last = (int(c) for c in vocab_range)
    except (TypeError, ValueError):
        raise TypeError(f"vocab_range must be (first, last), two integers, got {vocab_range!r}") from None
    if first < 0 or last - first != classes:
        raise ValueError(
            f"vocab_range must be the {classes} classes of this rank, (first, first + {classes}), got ({first}, {last})"
        )
    return group, first


def digest(*arrays) -> int:
    """A number of what arrays hold, None among them."""
    found = 0
    for a in arrays:
        found = zlib.crc32(b"-" if a is None else np.ascontiguousarray(a).data.cast("B") if a.size else b"0", found)
    return found


def exchanged(group, mark: Mark, dtype: np.dtype, records, device, problem: Exception | None):
    """(the records of all ranks, (ranks, rows); the shards; the marks), or an error on every rank.

    ``records(shards)`` are this rank's. An exception of it, or ``problem``, is raised after the others know of it.
    """
    shake_hands(group, mark, device, problem)
    while True:
        part, mark, found = prepared(group, mark, records, problem)
        every = gather(message(part, mark.rows * mark.width, mark, device), group)
        shards, marks, changed = read(group, every, mark, found)
        if not changed:
            return rows_of(every, len_of(group), mark, dtype), shards, marks


def prepared(group, mark: Mark, records, problem: Exception | None):
    """(records or None, their mark, what is wrong with its arguments or None)."""
    shards, part = known(group, mark), None
    if shards is not None and problem is None:
        try:
            part = records(shards)
        except Exception as error:  # the others must not wait for a rank that has run out of memory, either
            problem = error
    return part, mark._replace(table=shards.digest if shards else 0, problem=int(problem is not None)), problem


def read(group, every: torch.Tensor, mark: Mark, problem: Exception | None) -> tuple[Shards, list[Mark], bool]:
    """(the shards, the marks, whether somebody took the shards to be others); an error unless all ranks are at one."""
    marks = marks_of(every, len_of(group), mark.rows * mark.width)
    check_sizes(marks, mark)
    shards = shards_of(marks, rank_of(group))
    if any(other.table != shards.digest for other in marks):
        remember(group, mark, shards)
        return shards, marks, True
    if problem is not None:
        raise problem
    check(marks)
    return shards, marks, False


def known(group, mark: Mark) -> Shards | None:
    """The shards of the latest call in which this rank had these classes."""
    return _known[group].shards.get((mark.classes, mark.first))


def shake_hands(group, mark: Mark, device, problem: Exception | None) -> None:
    """Once for each size of a message: whether it is the same on each rank, and who has which classes."""
    of_group = _known.setdefault(group, _Known())
    size = mark.rows, mark.width
    if size in of_group.sizes:
        return
    mark = mark._replace(problem=int(problem is not None))
    every = gather(message(None, 0, mark, device), group)
    marks = marks_of(every, len_of(group), 0)
    if problem is not None:
        raise problem
    check_sizes(marks, mark)
    check(marks)
    remember(group, mark, shards_of(marks, rank_of(group)))
    if len(of_group.sizes) >= REMEMBERED:
        del of_group.sizes[next(iter(of_group.sizes))]
    of_group.sizes[size] = None


def remember(group, mark: Mark, shards: Shards) -> None:
    """Keep these shards for later calls."""
    _known[group].shards[mark.classes, mark.first] = shards


def named(group) -> tuple[str, int]:
    """(the name that traced programs have for a group, its number of ranks)."""
    return group.group_name, group.size()


def rank_of(group) -> int:
    """The rank of this process in a group."""
    return group.rank()


def len_of(group) -> int:
    """How many ranks a group has."""
    return group.size()


# ---------------------------------------------------------------------- messages


def message(records: np.ndarray | None, size: int, mark: Mark, device) -> torch.Tensor:
    """The part of this rank: so many bytes of its rows' records, where it has them, and the mark."""
    part = np.zeros(size + SIZE, np.uint8)
    if records is not None and size:
        part[:size] = np.ascontiguousarray(records).view(np.uint8).reshape(-1)
    part[size:] = np.array(mark, np.int64).view(np.uint8)
    return torch.from_numpy(part).to(device)


def gather(mine: torch.Tensor, group) -> torch.Tensor:
    """All parts, in the order of ranks: the one collective of a forward."""
    every = mine.new_zeros(len_of(group) * mine.numel())  # a part cut short must not end in a mark of another call
    try:
        private.all_gather(every, mine, group=group)
    except RuntimeError as error:
        raise RuntimeError(
            f"the ranks' exchange failed on rank {rank_of(group)} of {len_of(group)}: another one is gone or late, or "
            f"came with another number of rows ({error})"
        ) from error
    return every


def device_of(x: torch.Tensor, group) -> torch.device:
    """Where messages of such logits lie: on the host wherever the group can send from there."""
    import torch.distributed as dist

    if x.is_cuda and "cpu:" not in str(dist.get_backend_config(group)):
        return x.device
    return torch.device("cpu")


def rows_of(every: torch.Tensor, ranks: int, mark: Mark, dtype: np.dtype) -> np.ndarray:
    """The records of all ranks, (ranks, rows)."""
    parts = every.cpu().numpy().reshape(ranks, -1)[:, : mark.rows * mark.width]
    return np.ascontiguousarray(parts).view(dtype).reshape(ranks, mark.rows)


def marks_of(every: torch.Tensor, ranks: int, size: int) -> list[Mark]:
    """The marks of all ranks, which lie behind so many bytes."""
    parts = every.cpu().numpy().reshape(ranks, -1)[:, size:]
    return [Mark(*numbers) for numbers in np.ascontiguousarray(parts).view(np.int64).tolist()]


def shards_of(marks: list[Mark], rank: int) -> Shards:
    """Who has which classes, as the ranks say: in the order of ranks, or where they say their shards begin."""
    counts, said = tuple(mark.classes for mark in marks), [mark.first for mark in marks]
    if not any(counts):
        raise ValueError("logits must have at least one class on some rank, got none")
    if all(first < 0 for first in said):
        return Shards(rank, tuple(accumulate(counts, initial=0))[:-1], counts)
    if any(first < 0 for first in said):
        ranks = [other for other, first in enumerate(said) if first < 0]
        raise ValueError(f"vocab_range must be given on every rank or on none, got none on ranks {ranks}")
    reached = 0
    for first, count in sorted(zip(said, counts, strict=True)):
        if count and first != reached:
            ranges = [(a, a + n) for a, n in zip(said, counts, strict=True)]
            raise ValueError(f"vocab_range must be every class once over all ranks, got {ranges}")
        reached += count
    return Shards(rank, tuple(said), counts)


def check_sizes(marks: list[Mark], mine: Mark) -> None:
    """Raise unless all ranks came with rows, and as many."""
    if any(mark.magic != MAGIC for mark in marks):
        raise RuntimeError(
            f"logits must have the same number of rows on every rank; another rank came with others, or to another "
            f"function, got {mine.rows} here"
        )
    _same(marks, "rows", "logits must have the same number of rows on every rank")
    _same(marks, "width", "logits must have one dtype, and options be the same, on every rank")


def check(marks: list[Mark]) -> None:
    """Raise, on every rank alike, unless all came with arguments that are right and the same."""
    if refused := [rank for rank, mark in enumerate(marks) if mark.problem]:
        raise RuntimeError(f"another rank refused its arguments: {refused}, which raised what is wrong")
    _same(marks, "options", "the shape of logits' rows and the options must be the same on every rank")
    _same(marks, "targets", "target, and weights of rows, must be the same on every rank")


def _same(marks: list[Mark], field: str, told: str) -> None:
    values = [getattr(mark, field) for mark in marks]
    if any(value != values[0] for value in values):
        ranks = [rank for rank, value in enumerate(values) if value != values[0]]
        got = f"{values} on ranks 0 to {len(values) - 1}" if field in ("rows", "width") else f"others on ranks {ranks}"
        raise ValueError(f"{told}, got {got}")
