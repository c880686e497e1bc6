"""Linear cross-entropy on CUDA counted, with no card: `python benchmarks/cuda_linear.py [N H V]`.

Operations and bytes of the loss of bfloat16 with its gradients, and the times to be expected of them on an H100 and an
H200: of the three products by operations, and of what is outside of them by bytes, none of it hidden behind another.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]  # cuda.py here is not NVIDIA's
sys.path.insert(0, str(HERE.parent / "src"))

from crossentropy._backends.cuda import chunks, launch  # noqa: E402
from crossentropy._backends.cuda.kernels import Result  # noqa: E402

MULTIPROCESSORS, L2 = 132, 50e6
SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
SHAPES = (
    (4096, 4096, 128256),
    (8192, 4096, 128256),
    (32768, 4096, 128256),
    (8192, 2048, 32000),
    (8192, 4096, 50257),
    (8192, 4096, 151936),
)


class Card(NamedTuple):
    """Operations a second of 16-bit products, as measured of large ones, and bytes a second of memory."""

    products: float
    memory: float
    memory_is: str


# Products: 788e12 was measured on an H200, which computes as an H100 does.
CARDS = {
    "H100": Card(788e12, 3.0e12, "in practice"),
    "H100 at its peak": Card(788e12, 3.35e12, "by its data sheet"),
    "H200": Card(788e12, 4.3e12, "in practice"),
}


class Count(NamedTuple):
    """What a call of the loss with the gradients of hidden states and weight does; bytes, but for the first."""

    operations: int  # of the three products
    chunk: int  # rows of logits at once
    rows: int  # read and written by the kernel of rows, once each
    again: int  # read a second time by it, where the threads of a row cannot keep it
    again_from_l2: bool  # whether the rows that are worked on at once fit into that cache
    hidden: int  # read and written to copy hidden states whose rows may not count
    rounding: int  # read and written to round the sum of the weight's gradient
    adding: int  # read and written by products that add to that sum
    memory: int  # what is allocated beside inputs and gradients, for as long as the call lasts

    @property
    def outside(self) -> int:
        """Bytes of memory that are moved outside of the products."""
        return self.rows + self.hidden + self.rounding + (0 if self.again_from_l2 else self.again)


def counted(n: int, columns: int, classes: int, kind: str, skips: bool = False, rows: int | None = None) -> Count:
    """The count of N rows, H columns and V classes; ``skips``: there may be rows that do not count."""
    size, weight = SIZES[kind], classes * columns
    chunk = chunks.logit_rows(n, classes, 4, 4 * weight, rows)
    narrow = size == 2
    kept = chunks.grad_rows(n, chunk, columns) if narrow else chunk
    products = -(-n // chunk) if n > kept or not narrow else 1
    is_rounded = narrow and n > kept
    vectors, whole = -(-classes // 4), classes % (8 if narrow else 4) == 0
    part = launch.part_for(chunk, vectors, MULTIPROCESSORS, True)
    result = Result(loss=True, writes="gradient", to=kind if narrow else "")
    shape = launch.shape_for(part, False, launch.limit_for("float32", result) if whole else 0, part == vectors)
    at_once = MULTIPROCESSORS * launch.blocks_at_once("float32", shape, result) // shape.blocks * shape.rows
    width = -(-classes // 8) * 8
    memory = 4 * chunk * width + (2 * kept * width if narrow else 0) + 4 * weight * is_rounded
    return Count(
        operations=3 * 2 * n * weight,
        chunk=chunk,
        rows=n * classes * (4 + size),
        again=0 if shape.kept and part == vectors else 4 * n * classes,
        again_from_l2=4 * at_once * classes <= L2,
        hidden=2 * n * columns * size * skips,
        rounding=weight * (4 + size) * is_rounded,
        adding=8 * weight * (products - 1),
        memory=memory + columns * size * (kept if narrow else chunk) * skips,
    )


def share(count: Count, card: Card) -> float:
    """What is outside of the products, as a part of these."""
    return count.outside / card.memory / (count.operations / card.products)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="*", type=int, help="N H V")
    given = parser.parse_args().shape
    if len(given) not in (0, 3):
        parser.error("either no number, or N H V")
    for name, card in CARDS.items():
        print(f"{name}: {card.products / 1e12:.0f} TFLOP/s, {card.memory / 1e12:.2f} TB/s {card.memory_is}; N, H, V")
        for n, columns, classes in [tuple(given)] if given else SHAPES:
            count = counted(n, columns, classes, "bfloat16", skips=True)
            products, outside = 1e3 * count.operations / card.products, 1e3 * count.outside / card.memory
            parts = ", ".join(
                f"{part} {1e3 * getattr(count, part) / card.memory:.2f}" for part in ("rows", "hidden", "rounding")
            )
            again = ", rows again from L2" if count.again and count.again_from_l2 else ""
            print(
                f"  {n}, {columns}, {classes}: products {products:.1f} ms; outside {outside:.2f} ms ({parts}{again}), "
                f"{100 * share(count, card):.1f} %; {count.adding / 1e9:.1f} GB are moved inside of products to add; "
                f"{count.chunk} rows at once, {count.memory / 2**30:.2f} GiB"
            )


if __name__ == "__main__":
    main()
