"""What a warm call costs on the host, and calls in CUDA graphs: `host_times.py [SECONDS]`.

Calls are queued without waiting, fewer than the queue holds; so what is timed is the host alone.
"""

import gc
import time
from statistics import median

import lines
import torch
import torch.nn.functional as F

import crossentropy

CALLS = 100  # at once, of at most six launches: a queue holds about a thousand
ROUNDS = 30
SHAPE = (1024, 1024)


def microseconds(call) -> tuple[float, float]:
    """A call's on the host: the median of rounds, and the least."""
    for _ in range(20):
        call()
    found = []
    gc.disable()
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        found.append(1e6 * (time.perf_counter() - start) / CALLS)
    gc.enable()
    torch.cuda.synchronize()
    return round(median(found), 2), round(min(found), 2)


def calls(dtype):
    """name -> call."""
    x = torch.randn(SHAPE, device="cuda", dtype=dtype)
    t, out = torch.randint(SHAPE[1], SHAPE[:1], device="cuda"), torch.empty_like(x)
    z = x.detach().clone().requires_grad_()

    def eager():
        return torch.autograd.grad(F.cross_entropy(z, t), z)

    def forward():
        with torch.no_grad():
            return F.cross_entropy(x, t)

    both = crossentropy.cross_entropy_and_grad
    return {
        "cross_entropy": lambda: crossentropy.cross_entropy(x, t),
        "cross_entropy, reduction none": lambda: crossentropy.cross_entropy(x, t, reduction="none"),
        "cross_entropy_and_grad, out": lambda: both(x, t, out=out),
        "cross_entropy_and_grad, out, reduction none": lambda: both(x, t, out=out, reduction="none"),
        "torch, loss": forward,
        "torch, loss + gradient": eager,
    }


def graph(classes, **options) -> list[str]:
    """Capture a call after a warm-up, replay it on other logits, and compare with the call itself."""
    x, other = (torch.randn(1024, classes, device="cuda") for _ in range(2))
    t, out = torch.randint(classes, (1024,), device="cuda"), torch.empty_like(x)
    t[::5] = options.get("ignore_index", 0)

    def call():
        return crossentropy.cross_entropy_and_grad(x, t, out=out, reduction="mean", **options).loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        loss = call()
    wrong = []
    for logits in (other, -other):
        x.copy_(logits)
        out.fill_(float("nan"))
        captured.replay()
        torch.cuda.synchronize()
        replayed = loss.clone(), out.clone()
        out.fill_(float("nan"))
        plain = call()
        torch.cuda.synchronize()
        if not torch.equal(replayed[0], plain):
            wrong.append(f"{classes} classes: a replay's loss is {replayed[0].item()}, not {plain.item()}")
        if not torch.equal(replayed[1], out):
            wrong.append(f"{classes} classes: a replay's gradient is another")
    return wrong


GRAPHS = {
    "1000 classes": (1000, {}),
    "16384 classes": (16384, {}),
    "ignored rows": (1000, {"ignore_index": -100}),
}


def main():
    orders = lines.Orders()
    every = {
        f"{name}, {str(dtype).partition('.')[2]}": call
        for dtype in (torch.float32, torch.bfloat16)
        for name, call in calls(dtype).items()
    }
    for call in every.values():
        call()
    torch.cuda.synchronize()
    failed, passed = [], 0
    for name, (classes, options) in GRAPHS.items():
        try:
            wrong = graph(classes, **options)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {str(error)[:200]}"]
        lines.say(f"CUDA graph, {name}: {'; '.join(wrong) or 'right'}")
        failed += [f"CUDA graph, {name}: {text}" for text in wrong]
        passed += not wrong
    lines.record("checks", passed=passed, failed=failed, not_run=0, of=len(GRAPHS))
    orders.wait()
    for name, call in every.items():
        if orders.left() < 1:
            lines.record("skipped", what=f"host time of {name}", why="no time was left")
            continue
        typical, least = microseconds(call)
        lines.record("host_us", call=name, shape=list(SHAPE), median=typical, least=least)
        lines.say(f"{name}: {typical} us a call on the host (least {least})")


if __name__ == "__main__":
    main()
