"""A loss and a step of a model of transformers, its own way and this package's: time, and peak memory.

python benchmarks/transformers_step.py [--rounds N]

Each way runs in a process of its own, round after round in turn; the table has the fastest round of each, and the
memory that was in use at most, over what was in use before.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import time
from pathlib import Path

TOKENS, CLASSES = 2048, 32000
CASES = {
    "loss and gradient of bfloat16 logits": ("its own", "causal_lm_loss"),
    "step of a Llama, bfloat16": ("its own", "causal_lm_loss", "inplace=True", "fuse_head"),
    "step of a Llama, float32": ("its own", "causal_lm_loss", "inplace=True", "fuse_head"),
}


def memory(name: str) -> float:
    """VmRSS or VmHWM of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def step_of(case: str, way: str):
    """A function of a number of tokens that does the work once."""
    import torch
    import transformers
    from transformers.loss.loss_utils import ForCausalLMLoss

    from crossentropy.transformers import causal_lm_loss, fuse_head

    torch.manual_seed(0)
    in_place = functools.partial(causal_lm_loss, inplace=True)
    loss_of = {"its own": ForCausalLMLoss, "inplace=True": in_place}.get(way, causal_lm_loss)
    labels = torch.randint(CLASSES, (4, TOKENS // 4))
    if case.startswith("loss"):
        all_logits = torch.randn(4, TOKENS // 4, CLASSES).bfloat16()

        def step(tokens: int) -> None:
            logits = all_logits[:, : tokens // 4].requires_grad_()
            loss_of(logits, labels[:, : tokens // 4], CLASSES).backward()
            all_logits.grad = None

        return step
    config = transformers.LlamaConfig(
        vocab_size=CLASSES, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16 if "bfloat16" in case else torch.float32).train()
    model.loss_function = loss_of
    if way == "fuse_head":
        fuse_head(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(tokens: int) -> None:
        part = labels[:, : tokens // 4]
        model(input_ids=part, labels=part, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def serve(case: str, way: str) -> None:
    """Do the work once for each line of standard input, and answer with its seconds; the first answer is its memory."""
    step = step_of(case, way)
    step(32)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts again
    before = memory("VmRSS")
    step(TOKENS)
    print(memory("VmHWM") - before, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step(TOKENS)
        print(time.perf_counter() - start, flush=True)


def main() -> None:
    """A table for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    print(f"{TOKENS} tokens, {CLASSES} classes; the least of {arguments.rounds} rounds")
    for case, ways in CASES.items():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [
            subprocess.Popen([sys.executable, __file__, "--serve", case, way], **pipes, stderr=subprocess.DEVNULL)
            for way in ways
        ]
        peaks = [float(process.stdout.readline()) for process in processes]
        least = [float("inf")] * len(ways)
        for _ in range(arguments.rounds):
            for i, process in enumerate(processes):
                print(file=process.stdin, flush=True)
                least[i] = min(least[i], float(process.stdout.readline()))
        for way, peak, seconds in zip(ways, peaks, least, strict=True):
            print(f"| {case} | {way} | {1000 * seconds:.0f} ms | {peak:.0f} MiB |", flush=True)
        for process in processes:
            process.communicate()


if __name__ == "__main__":
    main()
