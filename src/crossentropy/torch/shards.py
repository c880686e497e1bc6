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
import struct
import weakref
import zlib
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch

from . import private

MAGIC = 0x63726F7373656E74  # "crossent"
LATEST = 16  # messages, of which none to come is smaller than the largest
KEPT = 2**20  # bytes of all parts, up to which their memory is kept: more is no matter beside the logits of such rows
REFUSED, REFUSED_AT_ONCE = 1, 2  # a rank's arguments: for the shards that it knew of, or whatever these are


class Mark(NamedTuple):
    """What ends a rank's part of a message, 8 bytes each; up to ``problem`` the same on every rank, if all is well."""

    magic: int
    rows: int
    width: int  # bytes a row
    table: int  # of the shards that the rank took the others to have; 0 for none
    options: int  # digest of what must be the same on every rank beside the targets
    targets: int  # digest of these, and of the weights of rows
    problem: int  # 0, or how the rank refuses its arguments
    classes: int  # of this rank's shard
    first: int  # the class that it begins with, where its caller says so; else -1
    weight_sum: float  # of the class weights of this shard


_SHARED, _SAID = slice(0, 7), slice(7, 9)
_NONE = Mark(*[0] * 9, 0.0)
_MARK = struct.Struct(f"{len(Mark._fields) - 1}qd")
SIZE = _MARK.size  # bytes


def mark_of(rows: int, width: int, classes: int, first: int, digests: tuple[int, int], weight_sum: float) -> Mark:
    """The mark of a call, before it is known who else has which classes."""
    return Mark(MAGIC, rows, width, 0, *digests, 0, classes, first, weight_sum)


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
        self.kept: list[tuple[Parts, Parts]] = []  # memory of the latest message, while no call has it; one at most


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
    mark = mark_of(0, 0, 0, -1, (0, 0), 0.0)._replace(problem=REFUSED_AT_ONCE)
    mine, every = _memory_of(group)
    mine.end_in(mark)
    try:
        gather(mine, every, group, device_of(None, group))
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


def exchanged(group, mark: Mark, dtype: np.dtype, records, device, results):
    """(``results(parts, shards, marks)`` of all ranks' records, the shards), or an error on every rank.

    ``records(shards, to)`` writes this rank's, (N,), and an exception of it is raised after the others know of it. The
    parts, (ranks, N), are lent: their memory is that of the next message, unless this one fails.
    """
    while True:
        mine, every = _memory_of(group)
        said, problem = prepared(group, mark, dtype, records, mine)
        mine.end_in(said)
        gather(mine, every, group, device)
        shards, marks = read(group, every, said, problem)
        if shards is not None:
            found = results(every.records(mark.rows, dtype), shards, marks)
            if every.tensor.numel() <= KEPT:
                _of(group).kept[:] = [(mine, every)]
            return found, shards


def _memory_of(group) -> tuple[Parts, Parts]:
    """(the part of this rank, those of all) of the next message: what is kept, where that fits and nobody has it."""
    room, ranks, kept = room_of(group), len_of(group), _of(group).kept
    try:
        found = kept.pop()
    except IndexError:
        found = None
    if found is None or found[0].room != room:
        found = part_of(group), Parts(_zeros(ranks * (room + SIZE)), ranks)
    return found


def room_of(group) -> int:
    """The bytes of rows in a rank's part of the next message."""
    return max(_of(group).sizes, default=0)


def _of(group) -> _Known:
    found = _known.get(group)
    if found is None:
        found = _known[group] = _Known()
    return found


def prepared(group, mark: Mark, dtype: np.dtype, records, mine: Parts) -> tuple[Mark, Exception | None]:
    """(the mark of this rank's records, which are written if they can be; what is wrong with its arguments or None)."""
    shards = _of(group).shards.get((mark.classes, mark.first))
    if shards is None or mark.rows * mark.width > mine.room:
        return mark, None
    mark = mark._replace(table=shards.digest)
    try:
        records(shards, mine.records(mark.rows, dtype)[0])
    except Exception as error:  # the others must not wait for a rank that has run out of memory, either
        return mark._replace(problem=REFUSED), error
    return mark, None


def read(group, every: Parts, mark: Mark, problem: Exception | None) -> tuple[Shards | None, list[Mark]]:
    """(the shards, or None where all send again; the marks); an error unless all ranks are at one.

    What is kept of a message for the next one depends on what every rank has got alone.
    """
    marks, of_group = every.marks(), _of(group)
    shards, said = of_group.shards.get((mark.classes, mark.first)), [other[_SAID] for other in marks]
    alike = all(other[_SHARED] == mark[_SHARED] for other in marks)
    if alike and not mark.problem and shards is not None and shards.said == said and shards.digest == mark.table:
        of_group.sizes.append(room_for(mark))
        return shards, marks
    if any(other.magic != MAGIC for other in marks):
        raise RuntimeError(f"another rank called another function: logits have {mark.rows} rows on this one")
    refused([rank for rank, other in enumerate(marks) if other.problem == REFUSED_AT_ONCE])
    _same(marks, "rows", "logits must have the same number of rows on every rank")
    _same(marks, "width", "logits must have one dtype, and options be the same, on every rank")
    of_group.sizes.append(room_for(mark))
    if shards is None or shards.said != said:
        shards = of_group.shards[mark.classes, mark.first] = shards_of(marks, rank_of(group))
    if any(other.table != shards.digest for other in marks):
        return None, marks
    if problem is not None:
        raise problem
    refused([rank for rank, other in enumerate(marks) if other.problem])
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


class Parts:
    """Parts of a message on the host, one of each rank after the other: room for rows' records, and the mark."""

    def __init__(self, tensor: torch.Tensor, count: int) -> None:
        self.tensor = tensor
        self._bytes = tensor.numpy().reshape(count, -1)
        self.room = self._bytes.shape[1] - SIZE
        self._marks = range(self.room, tensor.numel(), self.room + SIZE)  # where they begin
        self._latest: tuple[Any, np.ndarray] = None, self._bytes  # (rows, dtype) of records, and these

    def records(self, rows: int, dtype: np.dtype) -> np.ndarray:
        """The records of so many rows, (parts, rows)."""
        if self._latest[0] != (rows, dtype):
            self._latest = (rows, dtype), self._bytes[:, : rows * dtype.itemsize].view(dtype)
        return self._latest[1]

    def end_in(self, mark: Mark) -> None:
        """Put this mark at the end of each part."""
        for at in self._marks:
            _MARK.pack_into(self._bytes, at, *mark)

    def marks(self) -> list[Mark]:
        """The marks that end the parts."""
        return [Mark._make(_MARK.unpack_from(self._bytes, at)) for at in self._marks]


def part_of(group) -> Parts:
    """The part of a rank, of nothing yet."""
    return Parts(_zeros(room_of(group) + SIZE), 1)


def _zeros(size: int) -> torch.Tensor:
    """Bytes on the host, whatever the default device is, which calls in and out of inference mode may write."""
    with torch.inference_mode(False):
        return torch.from_numpy(np.zeros(size, np.uint8))


def room_for(mark: Mark) -> int:
    """The bytes for the rows of such a message: whole numbers of 8 bytes, so that marks are aligned."""
    return -(-mark.rows * mark.width // 8) * 8


def gather(mine: Parts, every: Parts, group, device) -> None:
    """All parts, in the order of ranks: the one collective of a forward."""
    every.end_in(_NONE)  # a part that is cut short must not end in the mark of another call
    on_host = device.type == "cpu"
    parts = every.tensor if on_host else every.tensor.to(device)
    try:
        private.all_gather(parts, mine.tensor if on_host else mine.tensor.to(device), group=group)
        if not on_host:
            every.tensor.copy_(parts)
    except RuntimeError as error:
        raise RuntimeError(
            f"the ranks' exchange failed on rank {rank_of(group)} of {len_of(group)}: another one is gone or late "
            f"({error})"
        ) from error


def device_of(x: torch.Tensor, group) -> torch.device:
    """Where messages of such logits, None of any, lie: on the host wherever the group can send from there."""
    import torch.distributed as dist

    if (x is not None and not x.is_cuda) or "cpu:" in str(dist.get_backend_config(group)):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device()) if x is None else x.device


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
