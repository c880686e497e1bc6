"""Targets that are no class, without and with `config(check=True)`; and arrays of each library that may own them.

Results are compared to the bit with those of the same rows under good targets, so that nothing else may change.
"""

import re
import sys

import lines
import numpy as np

import crossentropy

BAD = {17: 10**6, 30: -1, 31: -(2**40), 5: 2**40}  # row: target


class OnCard:
    """Arrays as PyTorch's tensors."""

    def __init__(self):
        import torch

        self.torch = torch
        self.functions = crossentropy

    def array(self, a):
        return self.torch.from_numpy(a).cuda()

    def host(self, a):
        return a.cpu().numpy()


class Simulated:
    """Arrays of the simulator, for a rehearsal without a card."""

    def __init__(self):
        import cuda_backend

        from crossentropy import cuda

        self.array, self.functions = cuda_backend.Array, cuda

    def host(self, a):
        return a.to_host()


def bad_targets(place, rows, classes, bad):
    """NaN in the loss and gradient of the bad rows, and nothing else; then an IndexError where it is asked for."""
    rng = np.random.default_rng(classes)
    x, good = rng.standard_normal((rows, classes), np.float32), rng.integers(0, classes, rows)
    targets = good.copy()
    targets[list(bad)] = list(bad.values())
    logits, t = place.array(x), place.array(targets)
    both = place.functions.cross_entropy_and_grad
    right = [place.host(a) for a in both(logits, place.array(good), reduction="none")]
    found = [place.host(a) for a in both(logits, t, reduction="none")]
    mean = place.host(place.functions.cross_entropy(logits, t))
    others = np.delete(np.arange(rows), list(bad))
    wrong = []
    for what, expected, got in zip(("loss", "gradient"), right, found, strict=True):
        if not np.isnan(got[list(bad)]).all():
            wrong.append(f"{what} of a bad row is not NaN")
        if not np.array_equal(got[others], expected[others]) or np.isnan(expected).any():
            wrong.append(f"{what} of another row changes")
    if not np.isnan(mean):
        wrong.append("the mean is not NaN")
    first = min(bad)
    try:
        with crossentropy.config(check=True):
            place.functions.cross_entropy(logits, t)
        wrong.append("check=True does not raise")
    except IndexError as error:
        if not re.search(rf"targets\[{first}\] = {bad[first]} is not in \[0, {classes}\)", str(error)):
            wrong.append(f"check=True says {error}")
    with crossentropy.config(check=True):
        place.functions.cross_entropy(logits, place.array(good))
    again = place.host(both(logits, place.array(good), reduction="none")[1])
    if not np.array_equal(again, right[1]):
        wrong.append("a good call afterwards gives something else")
    return wrong


def owners(place):
    """The same numbers from PyTorch's, CuPy's and Numba's arrays, in arrays of the same kind."""
    from numba import cuda

    rng = np.random.default_rng(1)
    x, t = rng.standard_normal((33, 1000), np.float32), rng.integers(0, 1000, 33)
    right = [
        place.host(a) for a in crossentropy.cross_entropy_and_grad(place.array(x), place.array(t), reduction="none")
    ]
    makers = {"Numba": (cuda.to_device, lambda a: a.copy_to_host())}
    try:
        import cupy

        makers["CuPy"] = cupy.asarray, cupy.asnumpy
    except ImportError:
        lines.say("CuPy is not installed")
    wrong = []
    for name, (make, host) in makers.items():
        logits = make(x)
        try:
            found = crossentropy.cross_entropy_and_grad(logits, make(t), reduction="none")
        except Exception as error:
            wrong.append(f"{name}'s arrays: {type(error).__name__}: {str(error)[:200]}")
            continue
        if type(found.grad) is not type(logits):
            wrong.append(f"{name}'s arrays give {type(found.grad)}")
        elif not all(np.array_equal(host(got), want) for got, want in zip(found, right, strict=True)):
            wrong.append(f"{name}'s arrays give other numbers")
    return wrong


def main(rehearse):
    place = Simulated() if rehearse else OnCard()
    last = {0: 10**7, 1: -5}
    shapes = [(40, 12, BAD)] if rehearse else [(40, 12, BAD), (40, 1001, BAD), (400, 4096, BAD), (200, 65536, BAD)]
    checks = {f"{rows} x {classes}": (bad_targets, place, rows, classes, bad) for rows, classes, bad in shapes}
    if not rehearse:
        checks |= {"2 x 1048576": (bad_targets, place, 2, 1 << 20, last), "owners": (owners, place)}
    failed, passed = [], 0
    for name, (check, *arguments) in checks.items():
        try:
            wrong = check(*arguments)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {str(error)[:200]}"]
        lines.say(f"{name}: {'; '.join(wrong) or 'right'}")
        failed += [f"{name}: {text}" for text in wrong]
        passed += not wrong
    lines.record("checks", passed=passed, failed=failed, not_run=0, of=len(checks))


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        main("--rehearse" in sys.argv)
