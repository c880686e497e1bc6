"""Kernels chosen by the shape of the work, and put into a plan for all rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from ..._arrays import Layout, c_strides, layout, merged_rows, without
from . import driver, reductions, weighted
from .arguments import is_plain, signature, values_of
from .groups import MOST_BLOCKS, WARP, Shape
from .kernels import Result, kernel
from .plans import Number, Operand, Plan
from .reading import part_statistics_of, statistics_of

# How rows are shared out, by the vectors of 16 bytes in a row: (up to, threads, vectors a thread keeps, blocks).
# A row has few threads, each with 16 vectors, because what is done for a row is done by each of its threads, and is as
# much as for thirty logits. A multiprocessor has several blocks, because then one reads while another writes: 16
# vectors a thread take up to 128 registers. Rows beyond 64 KB have clusters of blocks (from compute capability 9.0 on).
TABLE = (
    (1, 1, 1, 1),
    (4, 4, 1, 1),
    (8, 8, 1, 1),
    (16, 8, 2, 1),
    (32, 8, 4, 1),
    (64, 8, 8, 1),
    (128, 8, 16, 1),
    (256, 16, 16, 1),
    (512, 32, 16, 1),
    (1024, 64, 16, 1),
    (2048, 128, 16, 1),
    (4096, 256, 16, 1),
    (8192, 256, 16, 2),
    (16384, 256, 16, 4),
    (32768, 256, 16, 8),
)
WITHOUT_CLUSTERS = (8192, 512, 16, 1)  # in place of the last three
STREAMED = 256  # threads of a longer row, of which nothing is kept; in MOST_BLOCKS blocks where there are clusters
BLOCK = 128  # threads of a block, where a row takes no more than a warp
BLOCKS_PER_MULTIPROCESSOR = 16  # of the grid; each goes on with other rows
MOST_THREADS = 512  # of a block, where fewer vectors are kept than the table has
KEPT = 16  # vectors of a row that a thread may keep
KEPT_WIDE = 8  # where what is computed of each takes more registers
KEPT_BESIDE = 4  # and of transformed logits, or with a second array of rows, of which the compiler spills more
PART = 2048  # vectors, at least, of a part of a row that several blocks share without a cluster

TARGET_SIZES = {f"{sign}int{8 * size}": size if sign else -size for sign in ("", "u") for size in (1, 2, 4, 8)}


@functools.lru_cache(4096)
def shape_for(vectors: int, alone: bool, most: int, clusters: bool, limit: int = KEPT) -> Shape:
    """How to share out rows of so many vectors, of which a thread may keep ``most``: ``limit``, if they may be kept.

    Rows that may not be kept are shared out in the same way, so that results are the same to the bit; and so are rows
    whose classes are apart, where one thread does the work of all (``alone``).
    """
    table = TABLE if clusters else (*(row for row in TABLE if row[3] == 1), WITHOUT_CLUSTERS)
    found = (row for row in table if vectors <= row[0])
    _, threads, kept, blocks = next(found, (None, STREAMED, 0, MOST_BLOCKS if clusters else 1))
    if kept > limit:
        more = threads * kept // limit
        threads, kept = (more, limit) if more <= MOST_THREADS else (STREAMED, 0)
    rows = BLOCK if alone else max(1, BLOCK // threads) if threads <= 32 and blocks == 1 else 1
    return Shape(threads, rows, kept if kept <= most and not alone else 0, alone, blocks)


def part_for(rows: int, vectors: int, multiprocessors: int, clusters: bool) -> int:
    """Vectors of a part, where rows are cut because they are too few for the multiprocessors; else those of the row."""
    blocks = rows * shape_for(vectors, False, 0, clusters).blocks
    parts = min(vectors // PART, -(-2 * multiprocessors // rows)) if 2 * blocks <= multiprocessors else 1
    return vectors if parts < 2 else 8 * -(-vectors // (8 * parts))  # of whole lines of 128 bytes


def real_of(x: Layout) -> str:
    """The dtype of what is one number of a row."""
    return "float64" if x.dtype == "float64" else "float32"


def limit_for(kind: str, result: Result) -> int:
    """How many vectors of a row a thread may keep, where a row may be kept."""
    if result.transforms:
        return KEPT_BESIDE
    if kind == "float64" or result.focal or result.is_backward:
        return KEPT_BESIDE if result.q else KEPT_WIDE
    return KEPT


def blocks_at_once(kind: str, shape: Shape, result: Result) -> int:
    """How many blocks are to fit on a multiprocessor: as many as leave room for what a thread holds, without spills."""
    if result.transforms or result.focal:
        threads = 256
    elif shape.kept == KEPT and (result.spreads or result.q or not result.plain):
        threads = 384
    elif kind == "float64":
        threads = 384 if shape.kept == KEPT_WIDE else 512
    elif shape.kept == 0 and result.spreads and result.q and kind == "bfloat16":
        threads = 384
    elif shape.kept not in (1, 2, 4) or result.spreads or result.q or shape.alone:
        threads = 512
    else:
        threads = 640 if shape.block < 256 else 768
    return max(1, threads // shape.block)


@functools.cache
def compiled(device: int, kind: str, shape: Shape, result: Result) -> driver.Kernel:
    """A kernel for a device, which is the current one."""
    at_once, cluster = blocks_at_once(kind, shape, result), 1 if shape.alone else shape.blocks
    of = "rows", kind, shape, result
    return driver.Kernel(kernel(kind, shape, result), signature(kind, result), shape.block, at_once, cluster, of)


# ---------------------------------------------------------------------- arrays as rows


def _stretches(shape, given: dict[str, tuple[Operand, tuple[int, ...]]]) -> Iterator[tuple[dict, int]]:
    """A launch each: the arguments that say where the rows of each array are, and the number of the first row.

    A kernel knows two dimensions of rows; where the arrays have more between them, there are several launches.
    """
    dims = merged_rows(shape, [strides for _, strides in given.values()])
    dims = [(1, [0] * len(given))] * (2 - len(dims)) + dims
    above, (outer, outer_strides), (inner, row_strides) = dims[:-2], dims[-2], dims[-1]
    first = 0
    for index in np.ndindex(*(size for size, _ in above)):
        arguments = {"inner": inner, "rows": outer * inner}
        for k, (name, (a, _)) in enumerate(given.items()):
            arguments[name] = a.at(sum(i * strides[k] for i, (_, strides) in zip(index, above, strict=True)))
            arguments |= {f"{name}_outer": outer_strides[k], f"{name}_row": row_strides[k]}
        yield arguments, first
        first += outer * inner


def as_int64(index: int) -> int:
    """The bits of an index as kernels compare them, which read uint64 targets as int64."""
    return index - 2**64 if index >= 2**63 else index


def _rows_are_aligned(a: Operand, axis: int) -> bool:
    """Whether each row is contiguous and begins at a multiple of 16."""
    starts = a.past, *without(a.layout.strides, axis)
    return a.layout.strides[axis] == a.layout.itemsize and not any(number % 16 for number in starts)


# ---------------------------------------------------------------------- launches


def rows(plan, x, axis, result, *, out=None, q=None, targets=None, ignored=None, **given) -> None:
    """Add to a plan what computes a result over all rows of x.

    ``given`` has values of `arguments.TABLE` by their names: numbers, and arrays with a number for each row, or class.
    """
    layout = x.layout
    if not layout.size:
        return
    device, real = driver.device(), real_of(layout)
    clusters = driver.has_clusters(device)
    real_size, classes = 8 if real == "float64" else 4, layout.shape[axis]
    wide = {name: a for name, a in (("x", x), ("out", out), ("q", q)) if a is not None}
    alone = layout.strides[axis] != layout.itemsize and classes > 1
    # Rows are kept if they are vectors throughout, each from a multiple of 16 on.
    whole = classes * layout.itemsize % 16 == 0 and all(_rows_are_aligned(a, axis) for a in wide.values())
    limit = limit_for(layout.dtype, result)
    width = 16 // layout.itemsize
    vectors, count = -(-classes // width), layout.size // classes
    part = part_for(count, vectors, driver.multiprocessors(device), clusters)
    parts = -(-vectors // part)
    shape = shape_for(part, alone, limit if whole else 0, clusters and parts == 1, limit)

    common = {"classes": classes, "parts": parts, "part_classes": part * width}
    common |= {f"{name}_class": a.layout.strides[axis] for name, a in wide.items()}
    if ignored is not None:
        common |= {"has_ignored": 1, "ignored": as_int64(ignored)}
    described = {name: (a, without(a.layout.strides, axis)) for name, a in wide.items()}
    if targets is not None:
        described["targets"] = targets, targets.layout.strides
        common["target_size"] = TARGET_SIZES[targets.layout.dtype]
    of_row, of_part = len(statistics_of(result)._fields), len(part_statistics_of(result)._fields)
    steps = [(shape, result)]
    if parts > 1 and result.reads == "row":
        steps = by_parts(shape, result)
        given["partial"] = plan.make((count, parts, of_part), real)
        if any(step.saves == "row" for _, step in steps) and "statistics" not in given:
            given["statistics"] = plan.make((count, of_row), real)
    numbers = {  # of a row, in each array
        "sample_weight": 1,
        "loss": 1,
        "statistics": of_row,
        "partial": parts * of_part,
    }
    if (scale := given.get("row_scale")) is not None and scale.layout.shape:
        numbers["row_scale"], common["row_scale_step"] = 1, real_size

    blocks = BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors(device)
    for where, first in _stretches(without(layout.shape, axis), described):
        arguments = common | where
        for name, a in given.items():
            arguments[name] = a.at(first * real_size * numbers.get(name, 0)) if isinstance(a, Operand) else a
        values = values_of(arguments, result)
        plain = len(steps) == 1 and not alone and not (result.transforms or result.focal)
        plain = plain and is_plain(arguments, result.plain_values(layout.dtype))
        for its_shape, step in steps:
            indices = where["rows"] * (1 if step.reads == "parts" else parts)
            grid = min(-(-indices // its_shape.rows), max(1, blocks // its_shape.blocks))
            plan.launch(compiled(device, layout.dtype, its_shape, step._replace(plain=plain)), grid, values)


def weighted_rows(plan: Plan, x: Operand, q: Operand | None, log_sum: Operand, sign: Operand | None) -> None:
    """Add to a plan log |sum q e^x| over the last axis, and the sign of that sum; without q each weight is 1."""
    layout = x.layout
    threads, real_size = weighted.threads_for(layout.shape[-1]), log_sum.layout.itemsize
    q_dtype = "float32" if q is None else q.layout.dtype
    compute = weighted.weighted_sums(driver.device(), layout.dtype, q_dtype, threads)
    described = {name: (a, a.layout.strides[:-1]) for name, a in (("x", x), ("q", q)) if a is not None}
    most = BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors(driver.device())
    for where, first in _stretches(layout.shape[:-1], described):
        wide = []
        for name, a in (("x", x), ("q", q)):
            wide += [where.get(name), where.get(f"{name}_outer"), where.get(f"{name}_row")]
            wide.append(None if a is None else a.layout.strides[-1])
        results = [None if a is None else a.at(first * real_size) for a in (log_sum, sign)]
        grid = min(-(-where["rows"] // weighted.rows_for(threads)), most)
        plan.launch(compute, grid, [*wide, where["inner"], where["rows"], layout.shape[-1], *results])


def by_parts(shape: Shape, result: Result) -> list[tuple[Shape, Result]]:
    """The launches of rows that are cut: each part as a row, what they found put together, and what is written."""
    more = {"transforms": result.transforms, "focal": result.focal}
    of_part = Result(saves="part", spreads=result.spreads, q=result.q, **more)
    saves = result.saves or ("row" if result.writes else "")
    together = Result("parts", saves, result.loss, "", result.spreads, result.q, **more)
    reading = shape._replace(kept=0) if result.is_backward else shape  # what arrives is added up, and no logit is kept
    steps = [(reading, of_part), (Shape(WARP, BLOCK // WARP, 0), together)]
    if result.writes:
        steps.append((shape, result._replace(reads="statistics", saves="", loss=False)))
    return steps


def as_real(plan: Plan, a: Operand | None, x: Layout) -> Operand | None:
    """The numbers as x's reals, in a row; the array itself where they are."""
    if a is None:
        return None
    layout, real = a.layout, real_of(x)
    if layout.dtype == real and layout.strides == c_strides(layout.shape, layout.itemsize):
        return a
    made = plan.make(layout.shape, real)
    convert = reductions.conversion(driver.device(), layout.dtype, real)
    for where, first in _stretches(layout.shape, {"a": (a, layout.strides)}) if layout.size else ():
        grid = min(reductions.MOST, -(-where["rows"] // reductions.THREADS))
        to = made.at(first * made.layout.itemsize)
        plan.launch(convert, grid, [where["a"], where["a_outer"], where["a_row"], where["inner"], where["rows"], to])
    return made


def in_order(plan: Plan, a: Operand) -> Operand:
    """Targets as numbers of a row each, one stride apart; the array itself where they lie so, else as int64."""
    lies = a.layout
    dims = merged_rows(lies.shape, [lies.strides])
    if len(dims) < 2:
        stride = dims[0][1][0] if dims else lies.itemsize
        flat = layout((lies.size,), (stride,), lies.dtype, lies.itemsize, lies.read_only, False, lies.device)
        return a._replace(layout=flat)
    made = plan.make((lies.size,), "int64")
    widen = reductions.widened(driver.device())
    for where, first in _stretches(lies.shape, {"a": (a, lies.strides)}) if lies.size else ():
        grid, size = min(reductions.MOST, -(-where["rows"] // reductions.THREADS)), TARGET_SIZES[lies.dtype]
        of_a = where["a"], where["a_outer"], where["a_row"], size, where["inner"], where["rows"]
        plan.launch(widen, grid, [*of_a, made.at(8 * first)])
    return made


def as_pairs(plan: Plan, a: Operand | None, x: Layout) -> Operand | None:
    """Numbers for each class as pairs of x's reals, (C, 2): what a real lacks of a number of another dtype, too."""
    if a is None:
        return None
    layout, real = a.layout, real_of(x)
    made = plan.make((layout.size, 2), real)
    split = reductions.split(driver.device(), layout.dtype, real)
    grid = min(reductions.MOST, -(-layout.size // reductions.THREADS))
    plan.launch(split, grid, [a, layout.strides[0], layout.size, made])
    return made


def total(plan: Plan, loss: Operand, divisor: Operand | None, by: Number, empty: Number) -> Operand:
    """The sum of the losses over the divisor: the number in that array, or ``by``."""
    dtype, count = loss.layout.dtype, loss.layout.size
    device, blocks, result, summed = driver.device(), reductions.blocks_for(count), plan.make((), dtype), loss
    if blocks > 1:
        summed = plan.make((blocks,), "float64")
        plan.launch(reductions.loss_sums(device, dtype), blocks, [loss, count, summed])
        count = blocks
    last = reductions.loss_total(device, dtype, summed.layout.dtype)
    plan.launch(last, 1, [summed, count, divisor, by, empty, result])
    return result


def weight_sum(plan: Plan, call) -> tuple[Operand, Operand]:
    """What a mean is divided by, and the first bad target (`reductions.NONE`: there is none), both on the device."""
    x, device = call.x.layout, driver.device()
    real, t = real_of(x), None if call.probabilities else call.targets
    described = {} if t is None else {"targets": (t, t.layout.strides)}
    stretches = list(_stretches(call.rows_shape, described))
    blocks = [reductions.blocks_for(where["rows"], reductions.SHARE_OF_WEIGHTS) for where, _ in stretches]
    sums, bad = (plan.make((sum(blocks),), dtype) for dtype in ("float64", "int64"))
    divisor, first_bad = plan.make((), real), plan.make((), "int64")
    v, w, ignored, left = call.sample_weight, call.class_weight if t is not None else None, call.ignore_index, 0
    for (where, first), here in zip(stretches, blocks, strict=True):
        plan.launch(
            reductions.weight_sums(device, real),
            here,
            [
                where.get("targets"), where.get("targets_outer"), where.get("targets_row"),
                TARGET_SIZES[t.layout.dtype] if t is not None else 0, where["inner"], where["rows"], x.shape[call.axis],
                int(ignored is not None), 0 if ignored is None else as_int64(ignored),
                w, None if v is None else v.at(first * v.layout.itemsize), sums.at(8 * left), bad.at(8 * left), first,
            ],
        )  # fmt: skip
        left += here
    plan.launch(reductions.weight_total(device, real), 1, [sums, bad, left, divisor, first_bad])
    return divisor, first_bad
