"""What is timed on a card: shapes and operations, the most telling first. What they are is crossentropy.bench's."""

from typing import NamedTuple

from crossentropy import bench

# Of the bars first; the rest shows where they begin.
SHAPES = ((32768, 65536), (32768, 16384), (32768, 4096), (16384, 131072), (8192, 262144), (32768, 1024))
DECIDING, DECIDING_OPS = ((32768, 65536), (32768, 4096)), ("loss", "loss + gradient")  # before anything else
REHEARSED = ((64, 1024), (32, 4096))
SHARE = 14  # of the card's memory, that the logits may have at most: libraries make several arrays as large


# Of the card's memory a reader and a copy are measured (roofs.py): what writes is held against the copy.
TIMED = ("loss + gradient", "loss", "loss + gradient in place", "probability targets")
OPS = {name: bench.OPS[name]._replace(roof="read" if name == "loss" else "copy") for name in TIMED}


class Logits(NamedTuple):
    """What the cases of a shape and dtype share: every operation is timed on the same arrays."""

    rows: int
    classes: int
    dtype: str
    itemsize: int

    @property
    def bytes(self) -> int:
        """Of the logits."""
        return self.rows * self.classes * self.itemsize

    def case(self, op) -> bench.Case:
        """What one operation is to compute from them."""
        return bench.Case(op, (self.rows, self.classes), dtype=self.dtype)

    def __str__(self):
        return f"{self.rows} x {self.classes} {self.dtype}"


def fitting(shapes, dtype, itemsize, memory) -> list[Logits]:
    """The logits of a dtype, with half as many rows, again and again, where the card's memory would not do."""
    found = []
    for rows, classes in shapes:
        while rows > 1 and rows * classes * itemsize * SHARE > memory:
            rows //= 2
        found.append(Logits(rows, classes, dtype, itemsize))
    return found
