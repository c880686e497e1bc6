"""What is timed: shapes and operations, the most telling first, and the bytes that each must move."""

from typing import NamedTuple

# Of the bars first; the rest shows where they begin.
SHAPES = ((32768, 65536), (32768, 16384), (32768, 4096), (16384, 131072), (8192, 262144), (32768, 1024))
REHEARSED = ((64, 1024), (32, 4096))
SHARE = 14  # of the card's memory, that the logits may have at most: libraries make several arrays as large


class Op(NamedTuple):
    passes: int  # over memory as large as the logits
    roof: str


OPS = {
    "loss + gradient": Op(2, "copy"),  # reads x once, writes grad once
    "loss": Op(1, "read"),  # reads x once
    "loss + gradient in place": Op(2, "copy"),  # reads x once, writes it once
    "probability targets": Op(3, "copy"),  # reads x and q once, writes grad once
}


class Case(NamedTuple):
    rows: int
    classes: int
    dtype: str
    itemsize: int

    @property
    def bytes(self) -> int:
        """Of the logits."""
        return self.rows * self.classes * self.itemsize

    def __str__(self):
        return f"{self.rows} x {self.classes} {self.dtype}"


def fitting(shapes, dtype, itemsize, memory) -> list[Case]:
    """The cases of a dtype, with half as many rows, again and again, where the card's memory would not do."""
    found = []
    for rows, classes in shapes:
        while rows > 1 and rows * classes * itemsize * SHARE > memory:
            rows //= 2
        found.append(Case(rows, classes, dtype, itemsize))
    return found
