"""Every way in which the kernels share out rows, once: `regimes.py once|DTYPE SECONDS`.

`once` launches each in bfloat16, for the sanitizers. With a dtype, losses and gradients are compared with PyTorch's of
float64: the conformance suite has rows of up to 600 classes, which no cluster, no stream and no cut row is made of.
"""

import sys
import time
from typing import NamedTuple

import lines
import torch
import torch.nn.functional as F

import crossentropy
from crossentropy import testing
from crossentropy._backends.cuda import launch

FORMATS = {torch.float16: (11, -14), torch.bfloat16: (8, -126), torch.float32: (24, -126), torch.float64: (53, -1022)}
OWN = {torch.float64: 128}  # units of the last place that the comparison, in float64 itself, may be off


class Regime(NamedTuple):
    name: str
    rows: int
    classes: int
    kind: str = "plain"


def regimes(dtype, multiprocessors):
    """Rows of each length that the launches' table has, and what goes other ways."""
    width, enough = 16 // dtype.itemsize, multiprocessors // 2 + 3  # of rows, that they are not cut
    for vectors, threads, kept, blocks in launch.TABLE:
        name = f"{threads} threads, {kept} vectors each" + (f", {blocks} blocks" if blocks > 1 else "")
        yield Regime(name, 301 if vectors <= 64 else enough, vectors * width)
    longest = launch.TABLE[-1][0] * width
    yield Regime("longer than any that is kept", 19, longest + 100 * width)
    yield Regime("longer than any that is kept, odd", 19, longest + 1)
    yield Regime("few rows, cut", 2, 1 << 20)
    yield Regime("few rows, cut, odd", 3, (1 << 19) + 1)
    for classes in (1, 33, 1001, 5001, 40001):
        yield Regime("odd", enough, classes)
    for classes in (21, 1001):
        yield Regime("class axis apart", 301, classes, "apart")
    yield Regime("in place", enough, 1024 * width, "in place")
    for classes in (1000, 40000, 300001):
        yield Regime("probabilities", enough, classes, "probabilities")
    yield Regime("probabilities, few rows", 2, 1 << 19, "probabilities")
    for classes in (1000, 70000):
        yield Regime("weights, smoothing, ignored rows", enough, classes, "options")


def problem(regime, dtype):
    """(logits, targets, options, where the gradient goes)."""
    torch.manual_seed(regime.classes)
    rows, classes = regime.rows, regime.classes
    x = torch.randn(rows, classes, device="cuda").mul_(2).to(dtype)
    if regime.kind == "apart":
        x = x.t().contiguous().t()
    targets, options = torch.randint(classes, (rows,), device="cuda"), {}
    if regime.kind == "probabilities":
        targets = torch.rand(rows, classes, device="cuda")
        targets = (targets / targets.sum(1, keepdim=True)).to(dtype)
    elif regime.kind == "options":
        real = torch.float64 if dtype == torch.float64 else torch.float32
        targets[::3] = -100
        weight = torch.rand(classes, device="cuda", dtype=real) + 0.5
        options = {"class_weight": weight, "label_smoothing": 0.1, "ignore_index": -100}
    return x, targets, options, x if regime.kind == "in place" else torch.full_like(x, float("nan"))


def expected(x, targets, options):
    """Loss, gradient and the size of the terms that this is the difference of, in float64."""
    z = x.to(torch.float64, copy=True).requires_grad_()
    t = targets.double() if targets.is_floating_point() else targets
    given = {"label_smoothing": options.get("label_smoothing", 0.0)}
    if options:
        given |= {"weight": options["class_weight"].double(), "ignore_index": -100}
    loss = F.cross_entropy(z, t, reduction="none", **given)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    term = grad.abs()
    if options or targets.is_floating_point() or x.dtype == torch.float64:
        factor = 1.5 if options else 1.0
        term = torch.maximum(term, factor * z.detach().softmax(1))
    return loss.detach(), grad, term


def error(got, exact, at, dtype) -> float:
    """The largest, in units of the last place of a dtype at a value."""
    if not torch.isfinite(got).all():
        return float("inf")
    bits, least = FORMATS[dtype]
    _, exponent = torch.frexp(at)
    unit = torch.full_like(at, 2.0).pow((torch.clamp(exponent - 1, min=least) - (bits - 1)).double())
    return ((got.double() - exact).abs() / unit).max().item()


def compare(regime, dtype) -> list[str]:
    """What is wrong with a regime."""
    x, targets, options, out = problem(regime, dtype)
    exact, grad, term = expected(x, targets, options)
    alone = crossentropy.cross_entropy(x, targets, reduction="none", **options)
    found = crossentropy.cross_entropy_and_grad(x, targets, reduction="none", out=out, **options)
    limits = testing.LIMITS[str(dtype).partition(".")[2]]
    real = torch.float64 if dtype == torch.float64 else torch.float32
    errors = {
        "loss": error(found.loss, exact, exact.abs().clamp(min=1.0 if dtype == torch.float64 else 0.0), real),
        "grad": error(out, grad, term, dtype),
    }
    wrong = [
        f"{what}: {errors[what]:.2f} ulp, allowed {limits[what]}"
        for what in errors
        if not errors[what] <= limits[what] + OWN.get(dtype, 0.01)
    ]
    if not torch.equal(alone, found.loss):
        wrong.append("the loss alone is another than beside the gradient")
    lines.say(
        f"{regime.rows} x {regime.classes}, {regime.name}: loss {errors['loss']:.2f}, grad {errors['grad']:.2f} ulp"
    )
    return wrong


def main(what, seconds):
    start, failed, done = time.monotonic(), [], 0
    dtype = torch.bfloat16 if what == "once" else getattr(torch, what)
    chosen = list(regimes(dtype, torch.cuda.get_device_properties(0).multi_processor_count))
    if what == "once":  # the launches that differ most first, in case that not all are reached
        chosen = chosen[::-1]
    for regime in chosen:
        if time.monotonic() - start > seconds:
            break
        done += 1
        place = f"{regime.name}, {regime.rows} x {regime.classes}, {what}"
        try:
            if what == "once":
                x, targets, options, out = problem(regime, dtype)
                crossentropy.cross_entropy_and_grad(x, targets, out=out, **options)
                torch.cuda.synchronize()
                lines.say(f"regime {place}")
                continue
            failed += [f"{place}: {wrong}" for wrong in compare(regime, dtype)]
        except torch.OutOfMemoryError:
            done -= 1
            lines.say(f"not run, too little memory: {place}")
        except Exception as error:
            failed.append(f"{place}: {type(error).__name__}: {str(error)[:200]}")
            if what == "once":
                raise
        finally:
            torch.cuda.empty_cache()
    for text in failed:
        lines.say(f"failed: {text}")
    places = len({text.rpartition(": ")[0] for text in failed})
    if what != "once":
        lines.record("checks", passed=max(0, done - places), failed=failed, not_run=len(chosen) - done, of=len(chosen))
    lines.say(f"{done} of {len(chosen)} regimes in {time.monotonic() - start:.0f} s, {len(failed)} failures")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
