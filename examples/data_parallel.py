"""A batch over two processes and two micro-batches each, whose gradient is that of the one big batch.

python examples/data_parallel.py
"""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from crossentropy.torch import cross_entropy, normalizer

RANKS, MICRO_BATCHES, ROWS, CLASSES = 2, 2, 48, 50


def layer() -> torch.nn.Linear:
    """The same on every rank."""
    torch.manual_seed(1)
    return torch.nn.Linear(16, CLASSES)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """All rows, of which the first third does not count: the ranks' numbers of tokens differ."""
    torch.manual_seed(0)
    x, y = torch.randn(ROWS, 16), torch.randint(0, CLASSES, (ROWS,))
    y[: ROWS // 3] = -100
    return x, y


def gradient_of(rank: int, mean_of_means: bool) -> torch.Tensor:
    """The gradient of a step on the ranks' parts of the batch, under DistributedDataParallel."""
    model = torch.nn.parallel.DistributedDataParallel(layer())
    x, y = (part.chunk(RANKS)[rank].chunk(MICRO_BATCHES) for part in batch())
    # One all-reduce of a count. DDP and FSDP divide gradients by the number of ranks, which is made up for here.
    by = normalizer(y) / RANKS
    for i in range(MICRO_BATCHES):
        last = i == MICRO_BATCHES - 1
        model.require_backward_grad_sync = last
        if mean_of_means:
            loss = cross_entropy(model(x[i]), y[i], reduction="sum") / max(1, (y[i] != -100).sum()) / MICRO_BATCHES
        else:
            loss = cross_entropy(model(x[i]), y[i], normalizer=by)
        loss.backward()
    return model.module.weight.grad


def work(rank: int, folder: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found = [gradient_of(rank, mean_of_means) for mean_of_means in (True, False)]
    if rank == 0:
        whole = layer()
        cross_entropy(whole(batch()[0]), batch()[1]).backward()
        largest = whole.weight.grad.abs().max()
        off = [((grad - whole.weight.grad).abs().max() / largest).item() for grad in found]
        print(f"mean of means: the gradient is off by {off[0]:.0%} of its largest entry")
        print(f"one divisor for all: the gradients differ by {off[1]:.1e} of it")
        assert off[1] < 1e-6
    dist.destroy_process_group()


def main() -> None:
    """Two processes that meet by a file."""
    start = "fork" if hasattr(os, "fork") else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, args=(folder,), nprocs=RANKS, start_method=start)


if __name__ == "__main__":
    main()
