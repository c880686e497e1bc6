"""Times of calls on the card, by its own clock, in rounds in which everybody takes a turn.

Before each timing the card is kept busy while the host queues what follows, so that no launch is waited for; and its
second-level cache is filled with something else.
"""

import time
from statistics import median

import roofs
import torch

HOLD = 1.5e-3  # seconds that the card sleeps; the host needs less to queue a call, or the timing is marked as late


def nothing():
    pass


class Clock:
    """Events around calls."""

    def __init__(self):
        cache = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
        self._other = torch.ones(3 * cache // 4, dtype=torch.float32, device="cuda")  # three times as large
        self._evict = roofs.Reader(self._other, "cuda")
        self._cycles, cycles = 0, 20_000_000
        start, end = self._events()
        torch.cuda._sleep(cycles)
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
        self._cycles = int(cycles * HOLD / (1e-3 * start.elapsed_time(end)))

    @staticmethod
    def _events():
        return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def round(self, calls) -> dict:
        """name -> (seconds, late) of calls (name -> (restore, call)), one after the other."""
        marks = {}
        for name, (restore, call) in calls.items():
            start, end = self._events()
            restore()
            self._evict()
            torch.cuda._sleep(self._cycles)
            begun = time.perf_counter()
            start.record()
            result = call()
            end.record()
            marks[name] = start, end, time.perf_counter() - begun > HOLD
            del result
        torch.cuda.synchronize()
        return {name: (1e-3 * start.elapsed_time(end), late) for name, (start, end, late) in marks.items()}


class HostClock:
    """The host's own, for a rehearsal without a card."""

    def round(self, calls):
        found = {}
        for name, (restore, call) in calls.items():
            restore()
            start = time.perf_counter()
            call()
            found[name] = time.perf_counter() - start, False
        return found


def rounds(clock, calls, seconds, fewest=5, most=25) -> dict[str, list]:
    """name -> [(seconds, late), ...] of as many rounds as the time allows, after one that does not count."""
    clock.round(calls)
    found, start = {name: [] for name in calls}, time.monotonic()
    while len(next(iter(found.values()))) < most:
        if len(next(iter(found.values()))) >= fewest and time.monotonic() - start > seconds:
            break
        for name, taken in clock.round(calls).items():
            found[name].append(taken)
    return found


def ratio(numerators, denominators) -> float:
    """The median of quotients within rounds."""
    return median(a / b for (a, _), (b, _) in zip(numerators, denominators, strict=True))


def quartiles(times) -> tuple[float, float, float]:
    """The median between the quartiles."""
    ordered = sorted(t for t, _ in times)
    return ordered[len(ordered) // 4], median(ordered), ordered[-1 - len(ordered) // 4]
