"""The kernels' times beside the card's memory and other libraries: `speed.py DTYPE [--first] [--rehearse]`.

While the checks run, everything is called once, which compiles it, and its results looked at; when told to go, the
cases are timed in their order for as long as there is time. With --first these are the few that decide: whether kernels
load and are right, and how far the loss and its gradient are from the card's memory and from PyTorch.
"""

import sys
import time

import lines
import roofs
import torch
from cases import DECIDING, DECIDING_OPS, OPS, REHEARSED, SHAPES, fitting
from contenders import COMPILED, EAGER, MAKERS, OURS, arrays, expected, probabilities, wrong
from timing import Clock, HostClock, nothing, quartiles, ratio, rounds

from crossentropy.bench import described, six_digits

FIRST_SECONDS = 25.0  # with less time left no first call is begun
LEAST_SECONDS, MOST_SECONDS = 1.0, 12.0  # for a case: with less it is left out; of rounds


class Speed:
    """The cases of a dtype."""

    def __init__(self, dtype, rehearse, first=False):
        self.device, self.orders = "cpu" if rehearse else "cuda", lines.Orders()
        itemsize = getattr(torch, dtype).itemsize
        memory = 1 << 30 if rehearse else torch.cuda.get_device_properties(0).total_memory
        self.logits = fitting(REHEARSED if rehearse else DECIDING if first else SHAPES, dtype, itemsize, memory)
        self.ops = [op for op in OPS if op in DECIDING_OPS or not first]
        self.makers = [name for name in MAKERS if name in (OURS, EAGER) or not first]
        self.firsts = {}  # (logits, op, name) -> seconds of the first call, None where there is none to be timed
        self.compiler_started = False

    # ---- first calls

    def prepare(self):
        """First calls until told to hold: torch.compile's of every case after all others."""
        for names in (
            [name for name in self.makers if name != COMPILED],
            [COMPILED] if COMPILED in self.makers else [],
        ):
            for logits in self.logits:
                if self.orders.held():
                    return
                self.first_calls(logits, names)

    def missing(self, logits, names=None):
        names = self.makers if names is None else names
        return [(op, name) for op in self.ops for name in names if (logits, op, name) not in self.firsts]

    def first_calls(self, logits, names=None):
        """Those that are missing; where memory is short, which other processes have too, they stay so."""
        names = self.makers if names is None else names
        missing, started = self.missing(logits, names), time.monotonic()
        if not missing:
            return
        self.clean()
        try:
            a = arrays(logits, self.device)
            for op in self.ops:
                left = [name for which, name in missing if which == op]
                if op == "probability targets":
                    a = probabilities(a)
                right = expected(op, a) if left else None
                for name in left:
                    self.firsts[logits, op, name] = self.first_call(logits, op, name, a, right)
        except torch.OutOfMemoryError:
            lines.say(f"{logits}: too little memory at present")
        lines.say(f"{logits}: first calls of {', '.join(names)} in {time.monotonic() - started:.0f} s")

    def first_call(self, logits, op, name, a, right):
        """Its seconds, or None where the contender takes no part."""
        place = f"{logits}, {op}, {name}"
        if self.device == "cpu" and name == COMPILED:
            return None
        if name == COMPILED and not self.compiler_started:
            self.start_compiler()
        try:
            contender = MAKERS[name](op, a)
            if contender is None:
                return None
            a.out.fill_(float("nan"))
            contender.restore()
            self.wait()
            start = time.perf_counter()
            found = contender.call()
            self.wait()
            seconds = time.perf_counter() - start
            text = wrong(op, a, found, right, strict=name == OURS)
        except ImportError as error:
            text = f"not here: {error}"
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler or a library raises: the others are timed
            text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        if name == OURS:
            lines.record("checks", passed=int(not text), failed=[f"{place}: {text}"] if text else [], not_run=0, of=1)
        elif text:
            lines.record("skipped", what=place, why=text)
        if text:
            lines.say(f"{place}: {text}")
        return None if text else seconds

    def start_compiler(self):
        """What the very first compilation costs apart: it is not that of a case."""
        self.compiler_started = True
        start = time.perf_counter()
        torch.compile(lambda z: z + 1)(torch.zeros(8, device=self.device))
        lines.record("compiler", start_s=round(time.perf_counter() - start, 2))

    # ---- timings

    def run(self):
        clock = Clock() if self.device == "cuda" else HostClock()
        for i, logits in enumerate(self.logits):
            if self.orders.left() > FIRST_SECONDS:
                self.first_calls(logits)
            each = self.orders.left() / (len(self.logits) - i)
            missing = self.missing(logits)
            if each < LEAST_SECONDS or len(missing) == len(self.ops) * len(self.makers):
                self.left_out(str(logits))
                continue
            for op, name in missing:
                self.left_out(f"{logits}, {op}, {name}")
            try:
                self.time(logits, clock, min(MOST_SECONDS, 0.6 * each))
            except torch.OutOfMemoryError:
                self.left_out(f"the timings of {logits}")

    @staticmethod
    def left_out(what):
        why = "too little time or memory was left"
        lines.record("skipped", what=what, why=why)
        lines.say(f"{what}: {why}")

    def time(self, logits, clock, seconds):
        self.clean()
        a = arrays(logits, self.device)
        if "probability targets" in self.ops:
            a = probabilities(a)
        best = min(
            ((name, each) for name, each in roofs.readers(a.x, self.device).items()),
            key=lambda pair: quartiles(rounds(clock, {"": (nothing, pair[1])}, 0.0, 3, 3)[""])[1],
        )
        moved = {"read": best[1].bytes, "copy": 2 * logits.bytes}
        calls = {"read": (nothing, best[1]), "copy": (nothing, lambda: a.out.copy_(a.x))}
        contenders = {}
        for (which, op, name), first in self.firsts.items():
            if which == logits and first is not None:
                contenders[op, name] = MAKERS[name](op, a)
                calls[op, name] = contenders[op, name].restore, contenders[op, name].call
        found = rounds(clock, calls, seconds)
        for op in self.ops:
            for name in self.makers:
                if (op, name) in contenders:
                    self.report(logits, op, name, found, moved)
        rates = {name: moved[name] / quartiles(found[name])[1] / 1e9 for name in moved}
        lines.record("roofs", rows=logits.rows, classes=logits.classes, dtype=logits.dtype, reader=best[0],
                     read_gb_per_s=round(rates["read"], 1), copy_gb_per_s=round(rates["copy"], 1))  # fmt: skip
        lines.say(f"{logits}: read {rates['read']:.0f} GB/s ({best[0]}), copy {rates['copy']:.0f} GB/s")

    def report(self, logits, op, name, found, moved):
        what, roof = logits.case(op), OPS[op].roof
        low, seconds, high = quartiles(found[op, name])
        rate, limit = what.bytes / seconds / 1e9, moved[roof] / quartiles(found[roof])[1] / 1e9
        share = ratio(found[roof], found[op, name]) * what.bytes / moved[roof]
        mine = found.get((op, OURS))
        times = None if name == OURS or mine is None else ratio(found[op, name], mine)
        first = self.firsts[logits, op, name]
        record = {
            **described(what),
            "implementation": name,
            "median_s": seconds,
            "quartiles_s": [low, high],
            "rounds": len(found[op, name]),
            "late": sum(late for _, late in found[op, name]),
            "bytes": what.bytes,
            "gb_per_s": rate,
            "roof": roof,
            "roof_gb_per_s": limit,
            "roof_fraction": share,
            "times_ours": times,
            "compile_s": first if name == COMPILED else None,
        }
        lines.record("record", **{name: six_digits(value) for name, value in record.items()})
        late = f", {record['late']} late" if record["late"] else ""
        times_text = f", {times:.2f} x ours" if times else ""
        lines.say(
            f"{logits}, {op}, {name}: {1e3 * seconds:.3f} ms, {rate:.0f} GB/s, {share:.1%} of {roof}{times_text}{late}"
        )

    # ---- the device

    def wait(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def clean(self):
        """Give the card what the last case's arrays left with PyTorch: other processes use it too."""
        if self.device == "cuda":
            torch.cuda.empty_cache()


def main(dtype, rehearse, first):
    speed = Speed(dtype, rehearse, first)
    speed.prepare()
    speed.orders.wait()
    speed.run()


if __name__ == "__main__":
    main(sys.argv[1], "--rehearse" in sys.argv, "--first" in sys.argv)
