"""Who of a process group holds which classes, and the one message that its ranks exchange for a loss.

Each rank's part of a message is a few bytes a row and, at its end, a `Mark`: how many rows and classes the rank has,
which shards it took the others to have, and digests of what must be the same everywhere. So a rank that came with
other rows, targets or options is an error on every rank and never a wrong number.

Parts of different sizes would end a process of gloo's. So the size is no rank's own number of rows but what all of them
know: the largest of the latest messages. A rank whose rows do not fit sends its mark alone, in a part of that size, and
if they have as many everywhere all send again. Which shards there are is known from the messages before, too: each rank
sends its own classes with every one, and where these are not what somebody took them for, all see it and send again.
"""

from __future__ import annotations

import functools
import weakref
import zlib
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch

from . import private

MAGIC = 0x63726F7373656E74  # "crossent"
LATEST = 16  # messages, of which none to come is smaller than the largest
REFUSED, REFUSED_AT_ONCE = 1, 2  # a rank's arguments: for the shards that it knew of, or whatever these are


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
    problem: int  # 0, or how the rank refuses its arguments

    @property
    def weight_sum(self) -> float:
        """The sum of the class weights of the rank."""
        return float(np.int64(self.weight_bits).view(np.float64))


SIZE = 8 * len(Mark._fields)  # bytes


def mark_of(rows: int, width: int, classes: int, first: int, digests: tuple[int, int], weight_sum: float) -> Mark:
    """The mark of a call, before it is known who else has which classes."""
    return Mark(MAGIC, rows, width, classes, first, 0, *digests, int(np.float64(weight_sum).view(np.int64)), 0)


@dataclass(frozen=True)
class Shards:
    """The classes of each rank of a group."""

    rank: int
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    said: list[tuple[int, int]]  # what each rank's mark says of its own: classes, first

    @property
    def start(self) -> int:
        """The first class of this rank."""
        return self.starts[self.rank]

    @functools.cached_property
    def classes(self) -> int:
        """How many classes there are on all ranks together."""
        return sum(self.counts)

    @functools.cached_property
    def digest(self) -> int:
        """A number that other shards do not have; not 0."""
        return 1 + zlib.crc32(repr((self.starts, self.counts)).encode())


class _Known:
    """What all ranks of a group know from the messages before."""

    def __init__(self) -> None:
        self.sizes: deque[int] = deque(maxlen=LATEST)  # bytes of rows
        self.shards: dict[tuple[int, int], Shards] = {}  # by what a rank has of them


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


def first_of(vocab_range, classes: int) -> int:
    """The first class that is said to be this rank's, or -1."""
    if vocab_range is None:
        return -1
    try:
        first, last = (int(c) for c in vocab_range)
    except (TypeError, ValueError):
        raise TypeError(f"vocab_range must be (first, last), two integers, got {vocab_range!r}") from None
    if first < 0 or last - first != classes:
        raise ValueError(
            f"vocab_range must be the {classes} classes of this rank, (first, first + {classes}), got ({first}, {last})"
        )
    return first


def digest(*arrays) -> int:
    """A number of what arrays hold, None among them."""
    found = 0
    for a in arrays:
        found = zlib.crc32(b"-" if a is None else np.ascontiguousarray(a).data.cast("B") if a.size else b"0", found)
    return found


def refuse(group, problem: Exception):
    """Raise what is wrong with the arguments of this rank, once the others know that something is."""
    mark, device = mark_of(0, 0, 0, -1, (0, 0), 0.0)._replace(problem=REFUSED_AT_ONCE), device_of(None, group)
    try:
        gather(message(None, room_of(group), mark, device), group)
    except RuntimeError as error:  # they are gone, which is not what is wrong here
        raise problem from error
    raise problem


class RefusalsTold:
    """A context in which a rank looks at its arguments: what it raises there, all ranks of the group raise.

    Nothing may be exchanged within. What is traced tells nobody: where the error leads out of a compiler, the call is
    made again without one.
    """

    def __init__(self, group) -> None:
        self.group = group

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, problem, trace) -> None:
        if isinstance(problem, Exception) and not torch.compiler.is_compiling():
            refuse(self.group, problem)


def exchanged(group, mark: Mark, dtype: np.dtype, records, device):
    """(the records of all ranks, (ranks, rows); the shards; the marks), or an error on every rank.

    ``records(shards)`` are this rank's. An exception of it is raised after the others know of it.
    """
    while True:
        part, said, found = prepared(group, mark, records)
        every = gather(message(part, room_of(group), said, device), group)
        shards, marks = read(group, every, said, found)
        if shards is not None:
            return rows_of(every, len_of(group), mark, dtype), shards, marks


def room_of(group) -> int:
    """The bytes of rows in a rank's part of the next message."""
    return max(_of(group).sizes, default=0)


def _of(group) -> _Known:
    found = _known.get(group)
    if found is None:
        found = _known[group] = _Known()
    return found


def prepared(group, mark: Mark, records):
    """(records or None, their mark, what is wrong with its arguments or None)."""
    shards = _of(group).shards.get((mark.classes, mark.first))
    if shards is None or mark.rows * mark.width > room_of(group):
        return None, mark, None
    mark = mark._replace(table=shards.digest)
    try:
        return records(shards), mark, None
    except Exception as error:  # the others must not wait for a rank that has run out of memory, either
        return None, mark._replace(problem=REFUSED), error


def read(group, every: torch.Tensor, mark: Mark, problem: Exception | None) -> tuple[Shards | None, list[Mark]]:
    """(the shards, or None where all send again; the marks); an error unless all ranks are at one.

    What is kept of a message for the next one depends on what every rank has got alone.
    """
    marks, of_group = marks_of(every, len_of(group)), _of(group)
    if any(other.magic != MAGIC for other in marks):
        raise RuntimeError(f"another rank called another function: logits have {mark.rows} rows on this one")
    refused([rank for rank, other in enumerate(marks) if other.problem == REFUSED_AT_ONCE])
    if any(other[1:3] != mark[1:3] for other in marks):
        _same(marks, "rows", "logits must have the same number of rows on every rank")
        _same(marks, "width", "logits must have one dtype, and options be the same, on every rank")
    of_group.sizes.append(mark.rows * mark.width)
    shards = of_group.shards.get((mark.classes, mark.first))
    said = [other[3:5] for other in marks]
    if shards is None or shards.said != said:
        shards = of_group.shards[mark.classes, mark.first] = shards_of(marks, rank_of(group))
    if any(other.table != shards.digest for other in marks):
        return None, marks
    if problem is not None:
        raise problem
    refused([rank for rank, other in enumerate(marks) if other.problem])
    if any(other[6:8] != mark[6:8] for other in marks):
        _same(marks, "options", "the shape of logits' rows and the options must be the same on every rank")
        _same(marks, "targets", "target, and weights of rows, must be the same on every rank")
    return shards, marks


def refused(ranks: list[int]) -> None:
    """Raise where there are ranks that refuse their arguments."""
    if ranks:
        raise RuntimeError(f"another rank refused its arguments: {ranks}, which raised what is wrong")


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


def message(records: np.ndarray | None, room: int, mark: Mark, device) -> torch.Tensor:
    """The part of this rank: its rows' records, where it has them, in room for so many bytes, and the mark."""
    part = np.empty(room + SIZE, np.uint8)
    used = 0 if records is None else records.nbytes
    if records is not None:
        part[:used] = records.view(np.uint8).reshape(-1)
    part[used:room] = 0
    part[room:] = np.array(mark, np.int64).view(np.uint8)
    return torch.from_numpy(part).to(device)


def gather(mine: torch.Tensor, group) -> torch.Tensor:
    """All parts, in the order of ranks: the one collective of a forward."""
    every = mine.new_empty(len_of(group) * mine.numel())
    every.view(len_of(group), -1)[:, -SIZE:] = 0  # a part that is cut short must not end in the mark of another call
    try:
        private.all_gather(every, mine, group=group)
    except RuntimeError as error:
        raise RuntimeError(
            f"the ranks' exchange failed on rank {rank_of(group)} of {len_of(group)}: another one is gone or late "
            f"({error})"
        ) from error
    return every


def device_of(x: torch.Tensor, group) -> torch.device:
    """Where messages of such logits, None of any, lie: on the host wherever the group can send from there."""
    import torch.distributed as dist

    if (x is not None and not x.is_cuda) or "cpu:" in str(dist.get_backend_config(group)):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if x is None else x.device


def rows_of(every: torch.Tensor, ranks: int, mark: Mark, dtype: np.dtype) -> np.ndarray:
    """The records of all ranks, (ranks, rows)."""
    parts = every.cpu().numpy().reshape(ranks, -1)[:, : mark.rows * mark.width]
    return np.ascontiguousarray(parts).view(dtype).reshape(ranks, mark.rows)


def marks_of(every: torch.Tensor, ranks: int) -> list[Mark]:
    """The marks of all ranks, which end their parts."""
    parts = every.cpu().numpy().reshape(ranks, -1)[:, -SIZE:]
    return [Mark(*numbers) for numbers in np.ascontiguousarray(parts).view(np.int64).tolist()]


def shards_of(marks: list[Mark], rank: int) -> Shards:
    """Who has which classes, as the ranks say: in the order of ranks, or where they say their shards begin."""
    said = [(mark.classes, mark.first) for mark in marks]
    counts, firsts = tuple(mark.classes for mark in marks), [mark.first for mark in marks]
    if not any(counts):
        raise ValueError("logits must have at least one class on some rank, got none")
    if all(first < 0 for first in firsts):
        return Shards(rank, tuple(accumulate(counts, initial=0))[:-1], counts, said)
    if any(first < 0 for first in firsts):
        ranks = [other for other, first in enumerate(firsts) if first < 0]
        raise ValueError(f"vocab_range must be given on every rank or on none, got none on ranks {ranks}")
    reached = 0
    for first, count in sorted(zip(firsts, counts, strict=True)):
        if count and first != reached:
            ranges = [(a, a + n) for a, n in zip(firsts, counts, strict=True)]
            raise ValueError(f"vocab_range must be every class once over all ranks, got {ranges}")
        reached += count
    return Shards(rank, tuple(firsts), counts, said)


def _same(marks: list[Mark], field: str, told: str) -> None:
    values = [getattr(mark, field) for mark in marks]
    if any(value != values[0] for value in values):
        ranks = [rank for rank, value in enumerate(values) if value != values[0]]
        got = f"{values} on ranks 0 to {len(values) - 1}" if field in ("rows", "width") else f"others on ranks {ranks}"
        raise ValueError(f"{told}, got {got}")
