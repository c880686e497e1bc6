"""The table of instructions that are known: families of them fill it in.

An entry is a function (machine, instruction), which looks at operands once and returns what executes the instruction:
a function of the threads that are active, None for all.
"""

from program import Fault, Instruction

OPCODES = {}


def opcode(*names: str):
    """Puts a function into the table under these names."""

    def add(function):
        OPCODES.update(dict.fromkeys(names, function))
        return function

    return add


def one_of(i: Instruction, names) -> str:
    """The modifier of an instruction that is among these."""
    found = [m for m in i.modifiers if m in names]
    if len(found) != 1:
        raise Fault(f"unknown: {i.text}")
    return found[0]


def only(i: Instruction, *known: str) -> None:
    """A fault where an instruction has a modifier that is not among these."""
    if not {*i.modifiers} <= {*known}:
        raise Fault(f"unknown: {i.text}")


def executed(machine, i: Instruction):
    """What executes an instruction; where it is not known, a function that stops when it is reached."""
    try:
        return OPCODES[i.name](machine, i)
    except (Fault, KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        text = f"unknown instruction {i.opcode}: {i.text} ({error!r})"

    def unknown(active):
        raise Fault(text)

    return unknown
