"""The vocabulary-parallel loss beside the one of Megatron-LM, whose three all-reduces are written out here.

    python benchmarks/vocab_parallel.py                         # 2 ranks, 2048 rows, 32000 classes, float32
    python benchmarks/vocab_parallel.py --ranks 4 --rows 256 --classes 128256 --dtype bfloat16

All contenders take turns, round by round, in the same processes (gloo); the time of a round is that of the slowest
rank. The least of all rounds and the median are printed; then the kernel of one process on this rank's classes, to
which the rank's own work is held, in processor time, since that has no waiting for other ranks in it; then the losses
of targets from 0 to 60 ahead that come out as 0, or off by more than 2 units in the last place.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import crossentropy.torch as ct


class ThreeAllReduces(torch.autograd.Function):
    """The unfused loss of Megatron-LM's tensor-parallel layers: maxima, the target's logit, the sum of exponentials.

    Its logits are overwritten by the softmax, which the backward turns into the gradient in their place.
    """

    @staticmethod
    def forward(ctx, logits, target, group, first):
        """Each of the three numbers of a row is reduced over the ranks by itself."""
        logits = logits.float()
        top = logits.max(-1).values
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
        logits -= top.unsqueeze(-1)
        elsewhere = (target < first) | (target >= first + logits.shape[-1])
        local = (target - first).masked_fill(elsewhere, 0)
        rows = torch.arange(len(target))
        chosen = logits[rows, local].masked_fill(elsewhere, 0.0)
        dist.all_reduce(chosen, group=group)
        torch.exp(logits, out=logits)
        total = logits.sum(-1)
        dist.all_reduce(total, group=group)
        logits /= total.unsqueeze(-1)
        ctx.save_for_backward(logits, local, elsewhere)
        return total.log() - chosen

    @staticmethod
    def backward(ctx, grad_loss):
        """The probabilities, less 1 at the target."""
        p, local, elsewhere = ctx.saved_tensors
        p[torch.arange(len(local)), local] -= 1.0 - elsewhere.float()
        return p.mul_(grad_loss.unsqueeze(-1)), None, None, None


def ours(logits, target, group, first):
    """One all-gather."""
    return ct.vocab_parallel_cross_entropy(logits, target, group=group)


def seconds(function):
    """(that of the slowest rank, the processor time of this one)."""
    dist.barrier()
    began, own = time.perf_counter(), time.thread_time()
    function()
    own = time.thread_time() - own
    took = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
    dist.all_reduce(took, op=dist.ReduceOp.MAX)
    return took.item(), own


def shown(name, what, found):
    """One line."""
    took, own = ([1e3 * value for value in values] for values in zip(*found, strict=True))
    print(
        f"{name:22s} {what:18s} {min(took):9.2f} ms at least, {statistics.median(took):9.2f} median; "
        f"processor time {min(own):9.2f}"
    )


def ratios(a, b, which):
    """(of the least, of the medians): of what took so long, wall clock or processor time."""
    a, b = ([values[which] for values in found] for found in (a, b))
    return min(a) / min(b), statistics.median(a) / statistics.median(b)


def work(rank, folder, options):
    """What each rank does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=options.ranks)
    group, dtype = dist.group.WORLD, getattr(torch, options.dtype)
    first, last = (options.classes * i // options.ranks for i in (rank, rank + 1))
    target = torch.randint(0, options.classes, (options.rows,), generator=torch.Generator().manual_seed(0))
    mine = torch.randn(options.rows, last - first, generator=torch.Generator().manual_seed(rank)).to(dtype)
    g, scratch = torch.ones(options.rows), mine.clone()  # which one of them overwrites; its copy is not timed

    def forward(loss_of):
        with torch.no_grad():
            loss_of(scratch, target, group, first)

    def both(loss_of):
        loss_of(scratch.detach().requires_grad_(), target, group, first).backward(g)

    contenders = {"crossentropy": ours, "three all-reduces": ThreeAllReduces.apply}
    times = {(name, what): [] for name in contenders for what in ("forward", "forward+backward")}
    local = target.clamp(first, last - 1) - first
    alone = {"forward": [], "forward+backward": []}

    def alone_forward():
        with torch.no_grad():
            ct.cross_entropy(mine, local, reduction="none")

    def alone_both():
        ct.cross_entropy(mine.detach().requires_grad_(), local, reduction="none").backward(g)

    for turn in range(options.rounds + 2):
        for name, loss_of in contenders.items():
            for what, call in (("forward", forward), ("forward+backward", both)):
                scratch.copy_(mine)
                found = seconds(lambda call=call, loss_of=loss_of: call(loss_of))
                times[name, what] += [found] if turn > 1 else []
        for what, call in (("forward", alone_forward), ("forward+backward", alone_both)):
            found = seconds(call)
            alone[what] += [found] if turn > 1 else []
    if rank == 0:
        print(f"{options.ranks} ranks, {options.rows} x {options.classes} {options.dtype}, torch {torch.__version__}")
        for (name, what), found in times.items():
            shown(name, what, found)
        for what, found in alone.items():
            shown("this rank's classes", what, found)
        for what in alone:
            own, peer = times["crossentropy", what], times["three all-reduces", what]
            faster, work_of_one = ratios(peer, own, 0), ratios(own, alone[what], 1)
            print(
                f"{what}: {faster[0]:.2f} times as fast as three all-reduces (medians: {faster[1]:.2f}); own work "
                f"{work_of_one[0]:.2f} times the kernel of one process alone ({work_of_one[1]:.2f})"
            )
    accuracy(rank, options, contenders, group)
    dist.destroy_process_group()


def accuracy(rank, options, contenders, group):
    """Losses whose targets lead by more and more."""
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(256, 2000, generator=g), torch.randint(0, 2000, (256,), generator=g)
    x[torch.arange(256), y] += torch.linspace(0, 60, 256)
    truth = ct.cross_entropy(x.double(), y, reduction="none")
    ulp = 2.0 ** (torch.floor(torch.log2(truth)) - 23)
    edges = [2000 * i // options.ranks for i in range(options.ranks + 1)]
    for name, loss_of in contenders.items():
        with torch.no_grad():
            part = x[:, edges[rank] : edges[rank + 1]].clone()
            found = loss_of(part, y, group, edges[rank]).double()
        if rank == 0:
            off = (found - truth).abs() / ulp
            zeros = int(((found == 0) & (truth > 0)).sum())
            print(f"{name:22s} of 256 losses {zeros} come out as 0, {int((off > 2).sum())} are off by more than 2 ulp")


def main():
    """Fork the ranks, once everything is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("ranks", 2), ("rows", 2048), ("classes", 32000), ("rounds", 15)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "float64", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    start = "fork" if hasattr(os, "fork") else "spawn"
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, args=(folder, options), nprocs=options.ranks, start_method=start)


if __name__ == "__main__":
    main()
