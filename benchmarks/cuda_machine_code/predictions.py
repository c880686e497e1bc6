"""The times to be expected of the kernels on an H100, by the bytes that they move."""

from crossentropy._backends.cuda import launch
from crossentropy._backends.cuda.kernels import Result

RATE = 3.0e12  # bytes/s that an H100 moves in practice, of 3.35e12
MULTIPROCESSORS, L2 = 132, 50e6
SIZES = {"bfloat16": 2, "float32": 4}
PLACES = ((32768, 1024), (32768, 4096), (32768, 16384), (32768, 65536), (16384, 131072), (8192, 262144))
OPS = ("loss", "loss + gradient", "loss + gradient in place", "probability targets")


def predicted(op: str, rows: int, classes: int, kind: str) -> dict:
    """The time of an operation by bytes: each array once, and with what its kernel reads again counted as well."""
    beside, gradient = op == "probability targets", op != "loss"
    result = Result(loss=True, writes="gradient" if gradient else "", spreads=beside, q=kind if beside else "")
    vectors, array = classes * SIZES[kind] // 16, rows * classes * SIZES[kind]
    part = launch.part_for(rows, vectors, MULTIPROCESSORS, True)
    shape = launch.shape_for(part, False, launch.KEPT_BESIDE if beside else launch.KEPT, part == vectors)
    # Beside targets, a row is looked at for its maximum and sum, for their weight, and for what is written.
    again = (3 if beside else 1) if gradient and not shape.kept else 2 if beside else 0
    once = array * (3 if beside else 2 if gradient else 1)
    at_once = MULTIPROCESSORS * launch.blocks_at_once(kind, shape, result) // shape.blocks
    flight = at_once * shape.rows * classes * SIZES[kind] * (2 if beside else 1)
    return {
        "op": op, "rows": rows, "classes": classes, "dtype": kind, "shape": list(shape),
        "bytes": once, "ms": round(1e3 * once / RATE, 3), "again": again,
        "ms_again": round(1e3 * (once + again * array) / RATE, 3), "in_flight": flight, "fits_l2": flight <= L2,
    }  # fmt: skip


def predictions() -> list[dict]:
    return [predicted(op, *place, kind) for kind in SIZES for place in PLACES for op in OPS]
