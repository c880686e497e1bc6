"""Where the time of a vocabulary-parallel forward goes, step by step, beside what the kernel and the memory would take.

    python benchmarks/vocab_parallel_account.py                   # 2 ranks, 2048 rows, 32000 classes, float32

Each step's own time, without that of the steps within it, in microseconds of the processor time of rank 0's thread: the
median over the rounds, and of the wall clock, in which it waits for other ranks and programs, too. Then the rate at
which the kernel reads this rank's logits, which all ranks do at once, and a part of them that stays in the caches; and
PyTorch's sum of all, one addition a logit, for the rate of the memory.
"""

import argparse
import collections
import functools
import os
import statistics
import tempfile
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import crossentropy.torch as ct
from crossentropy._backends import registry
from crossentropy.torch import private, shard_losses, shards, vocab_parallel, vocab_parallel_ops

STEPS = (
    (vocab_parallel, "loss_and_divisor", "arguments"),
    (shard_losses, "checked", "arguments"),
    (vocab_parallel_ops, "mark_of", "digests of targets and options"),
    (shard_losses, "records", "records: what the kernel is handed"),
    (shards, "exchanged", "the message: memory, mark"),
    (shards, "prepared", "the message: memory, mark"),
    (shards, "gather", "the exchange: marks, waiting"),
    (private, "all_gather", "the exchange: PyTorch's and gloo's work"),
    (shards, "read", "who sent what, and whether it fits"),
    (shard_losses, "results", "the loss"),
    (shard_losses, "_merged", "the loss: ranks' numbers merged"),
)
KERNEL, REST = "the kernel, with targets and records", "the rest: Python between these"


class Account:
    """The own time of steps, from outermost to innermost."""

    def __init__(self):
        self.found, self.within = collections.defaultdict(lambda: [0.0, 0.0]), []

    def measured(self, function, name):
        """The function, whose time counts as that of a step."""

        @functools.wraps(function)
        def timed(*arguments, **options):
            began = time.thread_time(), time.perf_counter()
            self.within.append([0.0, 0.0])
            try:
                return function(*arguments, **options)
            finally:
                took = time.thread_time() - began[0], time.perf_counter() - began[1]
                inner = self.within.pop()
                for i in (0, 1):
                    self.found[name][i] += took[i] - inner[i]
                    if self.within:
                        self.within[-1][i] += took[i]

        return timed

    def rounds(self, function, count):
        """The times of each step in so many calls, which all ranks begin at once."""
        times = collections.defaultdict(list)
        for _ in range(count):
            self.found.clear()
            dist.barrier()
            function()
            for step, took in self.found.items():
                times[step].append(tuple(took))
        return times


def _together(rounds, left_out):
    """The times of all steps but one, round by round."""
    return zip(*(times for step, times in rounds.items() if step != left_out), strict=True)


def shown(name, times):
    """One line."""
    own, wall = ([1e6 * each for each in kind] for kind in zip(*times, strict=True))
    print(f"{name:45s} {statistics.median(own):9.0f} us of processor time {statistics.median(wall):9.0f} of the clock")


def timed(function, rounds):
    """(processor time, wall clock) of each round, which all ranks begin at once."""
    found = []
    for _ in range(rounds):
        dist.barrier()
        own, wall = time.thread_time(), time.perf_counter()
        function()
        found.append((time.thread_time() - own, time.perf_counter() - wall))
    return found


def work(rank, folder, options):
    """What each rank does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=options.ranks)
    first, last = (options.classes * i // options.ranks for i in (rank, rank + 1))
    x = torch.randn(options.rows, last - first).to(getattr(torch, options.dtype))
    y = torch.randint(0, options.classes, (options.rows,), generator=torch.Generator().manual_seed(0))
    some = max(1, 2**22 // max(1, x[0].nbytes))  # 4 MB of them

    @torch.no_grad()
    def forward():
        ct.vocab_parallel_cross_entropy(x, y)

    def block(n):
        call = shard_losses.Call(x[:n], y[:n], ct.bridge.NO_WEIGHTS, ct.bridge.PLAIN)
        there, to = shards.Shards(0, (first,), (options.classes,), []), np.empty(n, call.dtype)
        return lambda: shard_losses.records(call, there, to)

    summed, whole = timed(lambda: x.sum(), options.rounds), timed(forward, options.rounds + 2)[2:]
    account = Account()
    for module, name, step in (*STEPS, (registry.current(), "tell_block", KERNEL)):
        setattr(module, name, account.measured(getattr(module, name), step))
    rounds = account.rounds(account.measured(forward, REST), options.rounds)
    cached = account.rounds(block(some), options.rounds)[KERNEL]
    if rank == 0:
        print(f"{options.ranks} ranks, {options.rows} x {options.classes} {options.dtype}, torch {torch.__version__}")
        for step in dict.fromkeys((KERNEL, *(step for *_, step in STEPS), REST)):
            shown(step, rounds[step])
        beside = [[sum(took[i] for took in each) for i in (0, 1)] for each in _together(rounds, KERNEL)]
        shown("all but the kernel", beside)
        shown("all, nothing measured within", whole)
        for name, times, n in (
            ("the kernel, of all", rounds[KERNEL], options.rows),
            ("the kernel, of what the caches hold", cached, some),
            ("a sum of all", summed, options.rows),
        ):
            rate = x[:n].nbytes / statistics.median(own for own, _ in times)
            print(f"{name:45s} {rate / 1e9:9.1f} GB/s, of {n} rows")
    dist.destroy_process_group()


def main():
    """Fork the ranks, once everything is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ranks", 2), ("rows", 2048), ("classes", 32000), ("rounds", 31)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            work, (folder, options), options.ranks, start_method="fork" if hasattr(os, "fork") else "spawn"
        )


if __name__ == "__main__":
    main()
