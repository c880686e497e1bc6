"""The time that a card needs to issue a kernel's instructions, beside the time that its memory needs."""

from typing import NamedTuple


class Card(NamedTuple):
    """By its makers' tables; ``rate`` is what its memory does in practice."""

    multiprocessors: int
    clock: float  # Hz
    rate: float  # bytes/s
    capability: int


CARDS = {
    "H100": Card(132, 1.755e9, 3.0e12, 90),
    "H200": Card(132, 1.755e9, 4.3e12, 90),
    "B200": Card(148, 1.9e9, 7.2e12, 100),
}
# Slots a clock of a multiprocessor: of its four schedulers, and of the units that have fewer.
SCHEDULERS = 128
RATES = {"fma": 128, "integer": 64, "special": 16, "memory": 32, "double": 64}


def clocks(counts) -> float:
    """Of a multiprocessor, a logit: by the schedulers, or by a unit that is slower than they are."""
    return max([counts.slots / SCHEDULERS] + [counts.by_unit.get(name, 0) / rate for name, rate in RATES.items()])


def milliseconds(card: Card, counts, logits: int, moved: int) -> tuple[float, float]:
    """(to issue, to move the bytes)."""
    return 1e3 * logits * clocks(counts) / card.multiprocessors / card.clock, 1e3 * moved / card.rate
