"""What can go wrong between ranks, for torch_ranks.py: each is a function of the rank, which says what it saw."""

import os
import signal
import time

import torch
import torch.distributed as dist

RANKS = 2
TIMEOUT = 4  # seconds
CLASSES = 50

FAULTS = {}


def fault(function):
    """A function that says what became of a call that goes wrong; each begins with one that does not."""
    FAULTS[function.__name__] = lambda rank: _said(function, rank)
    return function


def _said(function, rank):
    from crossentropy.torch import vocab_parallel_cross_entropy

    x = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(rank))
    y = torch.arange(6) * 10
    vocab_parallel_cross_entropy(x, y)
    began = time.monotonic()
    try:
        found = f"a loss: {function(rank, x, y).tolist()}"
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    return [found, time.monotonic() - began]


def _loss(*arguments, **options):
    from crossentropy.torch import vocab_parallel_cross_entropy

    return vocab_parallel_cross_entropy(*arguments, **options)


@fault
def killed(rank, x, y):
    """One process is no more."""
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return _loss(x, y)


@fault
def late(rank, x, y):
    """One comes after the others have given up."""
    if rank == 1:
        time.sleep(TIMEOUT + 2)
        return torch.zeros(0)
    return _loss(x, y)


@fault
def other_rows(rank, x, y):
    """Fewer rows on one, of numbers that both have had before."""
    _loss(x[:3], y[:3])
    return _loss(x[: 6 - 3 * rank], y[: 6 - 3 * rank])


@fault
def other_new_rows(rank, x, y):
    """Fewer rows on one, that nobody has seen before."""
    return _loss(x[: 4 + rank], y[: 4 + rank])


@fault
def more_rows_than_before(rank, x, y):
    """More rows on one than there is room for in a message."""
    return _loss(x, y) if rank else _loss(x.repeat(100, 1), y.repeat(100))


@fault
def rows_in_turn(rank, x, y):
    """After ranks with different rows have told each other so, all goes on; and so does a loss of any rows in turn."""
    for mine in (3 + rank, 6, 2 - rank, 600):
        try:
            _loss(x.repeat(100, 1)[:mine], y.repeat(100)[:mine])
            assert mine in (6, 600)
        except ValueError:
            assert mine not in (6, 600)
    return _loss(x[:3], y[:3])


@fault
def other_targets(rank, x, y):
    """Targets that differ, but lie on the same rank."""
    return _loss(x, y + rank)


@fault
def other_owner(rank, x, y):
    """A target that each takes for the other's."""
    return _loss(x, torch.where(y == 50, 49 + 2 * (1 - rank), y))


@fault
def ignored_on_one(rank, x, y):
    """A row that counts on one rank alone."""
    return _loss(x, torch.where((y == 20) & (rank == 1), -100, y))


@fault
def bad_target(rank, x, y):
    """A target that is no class, on one rank."""
    return _loss(x, y + 1000 * rank)


@fault
def bad_shape(rank, x, y):
    """Targets of another shape, on one rank."""
    return _loss(x, y if rank == 0 else y.reshape(2, 3))


@fault
def bad_weight(rank, x, y):
    """A negative class weight, on one rank."""
    return _loss(x, y, torch.full((CLASSES,), 1.0 - 2 * rank))


@fault
def other_options(rank, x, y):
    """Another number for an option."""
    return _loss(x, y, z_loss=0.5 * rank)


@fault
def other_dtype(rank, x, y):
    """Logits of another dtype, whose numbers take more bytes."""
    return _loss(x if rank == 0 else x.double(), y)


@fault
def overlapping_ranges(rank, x, y):
    """Shards that overlap by a class."""
    return _loss(x, y, vocab_range=(49 * rank, 49 * rank + 50))


@fault
def a_range_on_one(rank, x, y):
    """A range that one rank alone says."""
    return _loss(x, y, vocab_range=(0, 50) if rank == 0 else None)


@fault
def other_function(rank, x, y):
    """Entropies on one rank, losses on the other."""
    from crossentropy.torch import vocab_parallel_entropy

    return _loss(x, y) if rank == 0 else vocab_parallel_entropy(x)


@fault
def goes_on_after_a_bad_target(rank, x, y):
    """An error of arguments leaves the group as it was."""
    try:
        _loss(x, y + 1000 * rank)
    except (IndexError, RuntimeError):
        dist.barrier()
        return _loss(x, y)
