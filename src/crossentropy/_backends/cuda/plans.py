"""What a call launches, prepared once for all calls whose arrays lie alike: then only addresses are filled in.

A prepared call is spared the checks, the choice of kernels and their arguments (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..._arrays import Array, Layout
from . import arrays, driver


class Operand(NamedTuple):
    """An array of a plan: one that is given at each call, or made for it."""

    number: int
    layout: Layout
    past: int = 0  # a multiple of 16, its address lies
    offset: int = 0  # from its address on, in bytes

    def at(self, offset: int) -> Operand:
        """The same, from so many bytes further on."""
        return self._replace(offset=self.offset + offset)


class Number(NamedTuple):
    """A number that is given at each call, by its place among them."""

    place: int


class Plan:
    """Launches in order, and the arrays that are made for them."""

    def __init__(self, given: list[Array | None]):
        """For arrays that lie as these do; those that are made go beside the first."""
        self.operands = [None if a is None else Operand(i, a.layout, a.address % 16) for i, a in enumerate(given)]
        self._device = given[0].layout.device
        self._made: list[tuple[tuple[int, ...], str]] = []
        self._steps: list[tuple] = []

    def make(self, shape: tuple[int, ...], dtype: str) -> Operand:
        """An array that each call makes, on the device of the first that is given."""
        operand = Operand(len(self.operands) + len(self._made), arrays.plain(tuple(shape), dtype, self._device))
        self._made.append((tuple(shape), dtype))
        return operand

    def launch(self, kernel: driver.Kernel, grid: int, arguments: list) -> None:
        """Add a launch. Arguments are numbers (also those of each call), None (0), and operands for their addresses."""
        filled = [(i, a.number, a.offset) for i, a in enumerate(arguments) if isinstance(a, Operand)]
        numbers = [(i, a.place, kernel.real_at(i)) for i, a in enumerate(arguments) if isinstance(a, Number)]
        values = [0 if a is None or isinstance(a, (Operand, Number)) else a for a in arguments]
        self._steps.append((kernel.prepare(grid, values), filled, numbers))

    def run(self, given: list[Array | None], stream: int, numbers=()) -> list[Array | None]:
        """Launch it all; the given arrays and the made ones, by their operands' numbers."""
        found = given + [arrays.empty(shape, dtype, given[0], stream) for shape, dtype in self._made]
        addresses = [0 if a is None else a.address for a in found]
        for (start, values), filled, of_call in self._steps:
            values = values.copy()
            for i, number, offset in filled:
                values[i] = addresses[number] + offset
            for i, place, kind in of_call:
                values[i] = kind(numbers[place])
            start(stream, values)
        return found


# ---------------------------------------------------------------------- plans that are kept

MOST_PLANS = 1024
_plans: dict[tuple, Plan] = {}


def plan_for(kind: str, given: list[Array | None], scalars: tuple, build: Callable[..., None]) -> Plan:
    """The plan for arrays that lie like these, found or made: ``build`` checks the arguments."""
    places = [None if a is None else (a.layout, a.address & 15) for a in given]
    key = kind, scalars, driver.device(), *places
    if (plan := _plans.get(key)) is None:
        plan = Plan(given)
        build(plan, kind, given, scalars)
        if len(_plans) >= MOST_PLANS:
            _plans.clear()
        _plans[key] = plan
    return plan
