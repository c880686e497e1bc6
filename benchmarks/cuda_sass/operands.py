"""What instructions name, as functions: of registers, constants and predicates, for all threads at once.

A source is a function without arguments, whose array has a number for each thread, or one for all. A destination is
a function (value, active), which keeps the value for the threads that are active; None stands for all.
"""

import re

import numpy as np
from program import Fault

F32, F64, U32, U64, WARP = np.float32, np.float64, np.uint32, np.uint64, 32
SIGN = U32(0x80000000)
_REGISTER = re.compile(r"(U?)R(\d+|Z)(\.H0_H0|\.H1_H1|\.64)?")
_CONSTANT = re.compile(r"c\[0x0\]\[(?:(U?R\d+)\+?)?(0x[0-9a-f]+)?\]")
_SPECIAL = {"+INF": np.inf, "INF": np.inf, "-INF": -np.inf, "+QNAN": np.nan, "-QNAN": np.nan, "QNAN": np.nan}


def signed(text: str) -> tuple[str, str, bool]:
    """(the operand, '-' or '~' or '', whether its absolute value is meant)."""
    text, sign = text.strip(), ""
    if text[0] == "~" or (text[0] == "-" and not re.match(r"-(0x|[\d.]|INF|QNAN)", text)):
        sign, text = text[0], text[1:]
    return (text[1:-1], sign, True) if text.startswith("|") else (text, sign, False)


def immediate(text: str, dtype):
    """A number written into an instruction: of bits where it is hexadecimal."""
    text = text.replace(" ", "")
    if re.match(r"-?0x", text):
        return np.array([int(text, 16) & 0xFFFFFFFF], U32)
    return np.array([_SPECIAL[text] if text in _SPECIAL else float(text)], dtype)


class Operands:
    """The registers of all threads, and functions that reach them."""

    def __init__(self, threads: int):
        self.count = threads
        self.R = np.zeros((256, threads), U32)
        self.UR = np.zeros((128, threads), U32)  # of a warp: the same in each of its threads
        self.P, self.UP = np.zeros((8, threads), bool), np.zeros((8, threads), bool)
        self.P[7] = self.UP[7] = True
        self.constants = np.zeros(4096, np.uint8)

    # ---------------------------------------------------------------- sources

    def words(self, text: str):
        """The 32 bits of an operand, whatever its sign."""
        if found := _REGISTER.fullmatch(text):
            if found[2] == "Z":
                zero = np.zeros(1, U32)
                return lambda: zero
            row = (self.UR if found[1] else self.R)[int(found[2])]
            if found[3] == ".H0_H0":
                return lambda: row & U32(0xFFFF)
            if found[3] == ".H1_H1":
                return lambda: row >> U32(16)
            return lambda: row
        if found := _CONSTANT.fullmatch(text):
            words, at = self.constants.view(U32), int(found[2] or "0", 16) // 4
            if not found[1]:
                return lambda: words[at : at + 1]
            index = self.words(found[1])
            return lambda: words[(index() + U32(4 * at)) // U32(4)]
        value = np.array([int(text, 0) & 0xFFFFFFFF], U32)
        return lambda: value

    def integer(self, text: str):
        """An operand as uint32, with its sign."""
        text, sign, _ = signed(text)
        get = self.words(text)
        return get if not sign else (lambda: U32(0) - get()) if sign == "-" else (lambda: ~get())

    def real(self, text: str):
        """An operand as float32."""
        text, sign, absolute = signed(text)
        if not re.match(r"U?R|c\[", text):
            value = immediate(text, F32).view(F32)
            return lambda: value
        get = self.words(text)
        if absolute and sign:
            return lambda: (get() | SIGN).view(F32)
        if absolute:
            return lambda: (get() & ~SIGN).view(F32)
        return (lambda: (get() ^ SIGN).view(F32)) if sign else (lambda: get().view(F32))

    def wide(self, text: str):
        """An operand of 64 bits as uint64: two registers, or constants."""
        text, sign, _ = signed(text)
        if found := _REGISTER.fullmatch(text):
            if found[2] == "Z":
                zero = np.zeros(1, U64)
                return lambda: zero
            rows, n = self.UR if found[1] else self.R, int(found[2])
            pair = lambda: rows[n].astype(U64) | rows[n + 1].astype(U64) << U64(32)  # noqa: E731
            return (lambda: U64(0) - pair()) if sign == "-" else pair
        if found := _CONSTANT.fullmatch(text):
            at = int(found[2], 16)
            return lambda: self.constants[at : at + 8].view(U64)
        value = np.array([int(text, 0) & 0xFFFFFFFFFFFFFFFF], U64)
        return lambda: value

    def double(self, text: str):
        """An operand as float64; an immediate in hexadecimal has its upper bits."""
        text, sign, absolute = signed(text)
        if not re.match(r"U?R|c\[", text):
            value = immediate(text, F64)
            value = value if value.dtype == F64 else (value.astype(U64) << U64(32)).view(F64)
            return lambda: value
        get = self.wide(text)
        if absolute:
            return lambda: np.abs(get().view(F64)) * (-1.0 if sign else 1.0)
        return (lambda: -get().view(F64)) if sign else (lambda: get().view(F64))

    def predicate(self, text: str):
        text = text.strip()
        name = text.lstrip("!")
        row = (self.UP if name.startswith("UP") else self.P)[7 if name.endswith("T") else int(name.lstrip("UP"))]
        return (lambda: ~row) if text.startswith("!") else (lambda: row)

    # ---------------------------------------------------------------- destinations

    def warps(self, active):
        """All threads of warps of which any is active."""
        return None if active is None else np.repeat(active.reshape(-1, WARP).any(1), WARP)

    def _of_first(self, value, active):
        """The value of each warp's first active thread, in all of its threads."""
        if len(value) == 1:
            return value
        value = value.reshape(-1, WARP)
        first = np.zeros(len(value), int) if active is None else active.reshape(-1, WARP).argmax(1)
        return np.repeat(value[np.arange(len(value)), first], WARP)

    def into(self, text: str):
        """A destination for a word."""
        found = _REGISTER.fullmatch(text.strip())
        if not found:
            raise Fault(f"not a register: {text}")
        if found[2] == "Z":
            return lambda value, active: None
        row = (self.UR if found[1] else self.R)[int(found[2])]
        if found[1]:

            def put_uniform(value, active):
                value = self._of_first(value.view(U32), active)
                np.copyto(row, value, where=True if active is None else self.warps(active))

            return put_uniform

        def put(value, active):
            value = value.view(U32) if value.dtype != U32 else value
            if active is None:
                row[:] = value
            else:
                np.copyto(row, value, where=active)

        return put

    def into_many(self, text: str, count: int):
        """Destinations for so many words, in registers that follow each other."""
        if text.endswith("RZ"):
            return [self.into(text)] * count
        letters, number = re.fullmatch(r"(U?R)(\d+)", text).groups()
        return [self.into(f"{letters}{int(number) + k}") for k in range(count)]

    def into_wide(self, text: str):
        """A destination for uint64, int64 or float64."""
        low, high = self.into_many(text, 2)

        def put(value, active):
            words = value.view(U64)
            low((words & U64(0xFFFFFFFF)).astype(U32), active)
            high((words >> U64(32)).astype(U32), active)

        return put

    def into_predicate(self, text: str):
        text = text.strip()
        if text.endswith("T"):
            return lambda value, active: None
        uniform = text.startswith("UP")
        row = (self.UP if uniform else self.P)[int(text.lstrip("UP"))]

        def put(value, active):
            if uniform:
                value, active = self._of_first(np.asarray(value), active), self.warps(active)
            if active is None:
                row[:] = value
            else:
                np.copyto(row, value, where=active)

        return put
