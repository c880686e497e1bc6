"""A call drawn at random from one integer: shapes, dtypes, layouts of memory, values, options (see fuzz.py)."""

import math
import random
from typing import NamedTuple

import numpy as np

from crossentropy._options import NEED_INDEX, NUMERIC, OPTIONS
from crossentropy.testing import dtypes

# About the lanes, the unrolled vectors, the chunk, the few classes of a tile, the block; see test_contract.py.
SIZES = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1000)
LARGE = (2047, 2048, 2049, 4100)
ROWS = (1, 1, 2, 3, 5, 7, 8, 15, 16, 17, 33, 65, 257)
MOST = 20000  # elements, for the reference's sake
FLOATS = tuple(dtypes().values())
INTEGERS = tuple(np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8))
GUARD = 128  # bytes on either side of an array
AROUND = ("statistics", "second derivatives", "distillation", "weighted", "binary")  # see fuzz_around.py

# Options that are given now and then, in the order in which they are drawn: how often, and what of (case, r, rng).
DRAWS = {
    "class_weight": (0.25, lambda case, r, rng: case.place(draw_weights(r, rng, (case.classes,)))),
    "sample_weight": (0.3, lambda case, r, rng: case.place(draw_weights(r, rng, case.rows))),
    "where": (0.15, lambda case, r, rng: case.place(rng.random(case.rows) < 0.8)),
    "class_prior": (0.15, lambda case, r, rng: case.place(draw_prior(r, rng, (case.classes,)))),
} | {
    name: (0.15, lambda case, r, rng, values=(*OPTIONS[name].samples, *OPTIONS[name].draws): r.choice(values))
    for name in NUMERIC
}

# ---------------------------------------------------------------------- memory


class Layout(NamedTuple):
    """Where an array's elements lie; ``order`` has the axes from the slowest, ``steps`` are in elements."""

    order: tuple
    steps: tuple
    padding: int = 0  # bytes after each row of the fastest axis
    shift: int = 0  # bytes from a multiple of 64
    repeated: tuple = ()  # axes of stride 0
    swapped: bool = False
    read_only: bool = False


def draw_layout(r, ndim, is_input=True):
    """Half of them contiguous, the others anything."""
    axes = tuple(range(ndim))
    if r.random() < 0.5:
        return Layout(axes, (1,) * ndim)
    order = r.choice([axes, axes[::-1], tuple(r.sample(axes, ndim))])
    steps = tuple(r.choice([1, 1, 1, 1, 2, -1, -2, 3]) for _ in axes) if r.random() < 0.5 else (1,) * ndim
    repeated = tuple(a for a in axes if is_input and r.random() < 0.15)
    padding, shift = r.choice([0, 0, 8, 24, r.randrange(16)]), r.choice([0, 0, 8, 16, r.randrange(64)])
    return Layout(order, steps, padding, shift, repeated, is_input and r.random() < 0.15, is_input and r.random() < 0.2)


class Placed:
    """An array of these values in that layout, within a buffer of its own."""

    def __init__(self, values, layout, fill=0xFF):
        dtype = values.dtype.newbyteorder(">") if layout.swapped and values.dtype.kind != "V" else values.dtype
        size, strides, first, unit = dtype.itemsize, [0] * values.ndim, 0, dtype.itemsize
        for axis in reversed(layout.order):
            if axis in layout.repeated:
                continue
            strides[axis] = unit * layout.steps[axis]
            first += max(0, -strides[axis]) * max(0, values.shape[axis] - 1)
            unit = abs(strides[axis]) * max(1, values.shape[axis]) + (layout.padding if axis == layout.order[-1] else 0)
        memory = np.full(GUARD + 64 + layout.shift + unit + size + GUARD, fill, np.uint8)
        self.offset = GUARD - (memory.ctypes.data + GUARD) % 64 + 64 + layout.shift + first
        self.array = np.ndarray(values.shape, dtype, memory.data, self.offset, strides)
        for axis in layout.repeated:
            values = values.take([0] * values.shape[axis], axis)
        self.array[...] = values
        self.memory, self.layout, self.before = memory, layout, memory.copy()
        self.first = self.array.copy()
        self.array.flags.writeable = not layout.read_only

    def assert_as_before(self):
        """No byte of the buffer has changed."""
        assert np.array_equal(self.memory, self.before), "an argument was written to"

    def assert_only_elements_written(self):
        """No byte of the buffer has changed but those of the array."""
        now = self.array.copy()
        self.array[...] = self.first
        assert np.array_equal(self.memory, self.before), "bytes beside out were written to"
        self.array[...] = now


# ---------------------------------------------------------------------- drawing a case


def draw_shape(r, least=0):
    """The rows' shape and the number of classes."""
    classes = r.choice(SIZES) if r.random() < 0.6 else min(r.choice(LARGE), r.randrange(1, 5000) * r.randrange(1, 3))
    rows, left = [], MOST // classes if r.random() < 0.1 else max(1, MOST // 16 // classes)
    for _ in range(r.choice([0, 1, 1, 1, 2, 2, 3, 4])):
        rows.append(min(left, r.choice(ROWS)))
        left //= rows[-1]
    if rows and not least and r.random() < 0.03:
        rows[r.randrange(len(rows))] = 0
    return tuple(rows), max(least, classes * (r.random() < 0.5) if 0 in rows else classes)


def draw_values(r, rng, shape, dtype):
    """Logits with the class axis last."""
    if dtype.kind in "iu":
        return rng.integers(0, r.choice([2, 30, 120]), shape).astype(dtype)
    scale = r.choice([1, 1, 2, 3, 10, 100, 1e-3, 1e-40, 1e4])
    z = rng.standard_normal(shape) * scale
    if r.random() < 0.2:
        z = np.round(z)  # ties
    if r.random() < 0.2:
        z[..., r.randrange(shape[-1]) :][..., :1] += r.uniform(0, 200)
    if r.random() < 0.3:
        most = 4 if dtype == np.float16 else 37.5
        z = z * r.choice([1, 1, 1e30]) + r.choice([-1, 1]) * 10 ** r.choice([1, 1.5, 2, 2.5, 3, r.uniform(0, most)])
    if r.random() < 0.25:
        z[rng.random(shape) < r.choice([0.1, 0.5, 0.99])] = -np.inf
    if r.random() < 0.1:
        z[..., : r.choice([16, 64, 128, 2048])] = -np.inf
    if r.random() < 0.15:
        z[rng.random(shape) < r.choice([0.3, 3]) / shape[-1]] = r.choice([np.nan, np.inf])
    with np.errstate(over="ignore", under="ignore"):
        return z.astype(dtype)


def draw_weights(r, rng, shape):
    """Weights >= 0 of any floating or integer type, some of them 0."""
    dtype = r.choice([np.dtype(np.float64)] * 3 + list(FLOATS) + [np.dtype(np.int32)])
    v = rng.uniform(0, 2, shape) * r.choice([1, 1, 1e-3, 1e3]) * (rng.random(shape) < r.choice([1, 0.7, 0.1]))
    if r.random() < 0.2 and dtype.itemsize >= 4:
        v = v * 10.0 ** rng.integers(-6, 6, shape)
    return np.ceil(v).astype(dtype) if dtype.kind == "i" else v.astype(dtype)


def draw_prior(r, rng, shape):
    """What is added to logits, some of it -inf."""
    b = rng.standard_normal(shape) * r.choice([1, 1, 10])
    b[rng.random(shape) < r.choice([0, 0, 0.2])] = -math.inf
    return b.astype(r.choice(FLOATS))


def draw_index(r, rng, rows, classes):
    """Targets that are classes, of any integer type that has them; and what is ignored of them, or None."""
    dtype = r.choice([d for d in INTEGERS if np.iinfo(d).max >= classes - 1] + [np.dtype(np.int64)] * 3)
    limits, y = np.iinfo(dtype), rng.integers(0, max(1, classes), rows)
    ignored = r.choice([None] * 6 + [0, classes - 1, classes, -1, -100, 255, limits.min, limits.max])
    y = y.astype(dtype)
    if ignored is not None and limits.min <= ignored <= limits.max:
        y = np.where(rng.random(rows) < r.choice([0.1, 0.5, 1]), np.array(ignored, dtype), y)
    return y, ignored


def draw_probabilities(r, rng, shape, dtype):
    """Targets that are probabilities, or at least not negative."""
    q_dtype = r.choice(FLOATS)
    q = rng.random(shape) ** r.choice([1, 4]) * (rng.random(shape) < r.choice([1, 0.7, 0.1]))
    with np.errstate(invalid="ignore"):
        q = np.nan_to_num(q / q.sum(-1, keepdims=True)) if r.random() < 0.7 else q * r.choice([1, 10])
    if dtype.itemsize < 8 and dtype.kind != "i":
        q = q.astype(np.float32)  # to which float64 is narrowed
    with np.errstate(under="ignore"):
        return q.astype(q_dtype)


class Case:
    """A call of each function with the same arguments."""

    def __init__(self, seed):
        r, rng = self.r, self.rng = random.Random(seed), np.random.default_rng(seed)
        self.kind = r.choices(["loss", "rows", "refused"], [60, 25, 15])[0]
        plain = r.random() < 0.15  # what has a short way of its own
        self.rows, self.classes = draw_shape(r, 2 if self.kind == "refused" else 0)
        self.dtype = r.choice([*FLOATS, *FLOATS, r.choice(INTEGERS)])
        if plain:
            self.rows, self.dtype = (math.prod(self.rows),), np.dtype(r.choice(["f4", "f8"]))
        self.result = self.dtype if self.dtype in FLOATS else np.dtype(np.float64)
        last, ndim = (*self.rows, self.classes), len(self.rows) + 1
        self.axis = ndim - 1 if plain else r.randrange(ndim)
        self.threads, self.split, self.check, self.inputs = r.choice([1, 2, 3]), r.random() < 0.3, True, []
        contiguous = Layout(tuple(range(ndim)), (1,) * ndim)
        self.layout, self.out_layout = (contiguous if plain else draw_layout(r, ndim, i) for i in (True, False))
        values = draw_values(r, rng, last, self.dtype) if math.prod(last) else np.zeros(last, self.dtype)
        self.x = self.place(np.moveaxis(values, -1, self.axis), self.layout)
        self.probabilities, self.g, self.options = not plain and r.random() < 0.35, 1.0, {"axis": self.axis}
        if self.probabilities:
            self.t = self.place(np.moveaxis(draw_probabilities(r, rng, last, self.result), -1, self.axis))
        elif plain:
            self.t = rng.integers(0, max(1, self.classes), self.rows)
        else:
            y, ignored = draw_index(r, rng, self.rows, self.classes)
            self.t = self.place(y)
            self.options |= {} if ignored is None else {"ignore_index": ignored}
        if not plain:
            self.draw_options(r, rng)
        # What stands around the loss draws from a sequence of its own: another kind changes no other case.
        self.own, self.own_rng = random.Random(f"around {seed}"), np.random.default_rng([seed, 1])
        if self.kind == "loss" and self.own.random() < 0.4:
            self.kind = self.own.choice(AROUND)
        if self.own.random() < 0.2 and "sample_weight" in self.options:
            v = self.options["sample_weight"] * np.float64(self.own.choice([1e25, 1e-25, 1e150]))
            self.options["sample_weight"] = self.place(v, r=self.own)

    def place(self, values, layout=None, r=None):
        """The values as an input, in some layout."""
        self.inputs.append(Placed(values, layout or draw_layout(r or self.r, values.ndim)))
        return self.inputs[-1].array

    def draw_options(self, r, rng):
        """Each option now and then."""
        o = self.options
        for name, (often, draw) in DRAWS.items():
            if r.random() < often and not (self.probabilities and name in NEED_INDEX):
                o[name] = draw(self, r, rng)
        o["reduction"] = r.choice(["none", "sum", "mean"])
        if o["reduction"] == "mean" and r.random() < 0.3:
            o["normalizer"] = r.choice([1, 7.25, 1e-3, 4096])
        if r.random() < 0.2:
            o["empty"] = r.choice([0.0, 1.5])
        if r.random() < 0.4:
            self.g = r.choice([0.0, -1.0, 1e-30, 3.7, 65536, np.float32(0.3)])
            if o["reduction"] == "none" and r.random() < 0.6:
                self.g = self.place(rng.uniform(-2, 2, self.rows).astype(r.choice(FLOATS)))
        if self.kind == "loss" and r.random() < 0.1:
            self.check = not self.spoil_target()

    def spoil_target(self):
        """Make one of the targets no class; False where none can be."""
        if self.probabilities or not self.t.flags.writeable:
            return False
        limits, ignored = np.iinfo(self.t.dtype), self.options.get("ignore_index")
        bad = [y for y in (-1, self.classes, limits.min, limits.max) if limits.min <= y <= limits.max]
        bad = [y for y in bad if not 0 <= y < self.classes and y != ignored]
        counts = [self.options.get(name, True) != np.zeros(self.rows) for name in ("sample_weight", "where")]
        seen = np.argwhere(np.logical_and(*counts))
        if not bad or not len(seen):
            return False
        self.t[tuple(self.r.choice(seen))] = self.r.choice(bad)
        for placed in self.inputs:
            placed.before = placed.memory.copy()
        return True

    def out(self, values=None, layout=None):
        """An array for a result, or one that holds the logits."""
        values = np.zeros(self.x.shape, self.result) if values is None else values
        return Placed(values, layout or self.out_layout, 0x5A)

    def __str__(self):
        o = {k: v if np.ndim(v) == 0 else f"{v.dtype}{v.shape}" for k, v in (self.options | {"g": self.g}).items()}
        x, t = (f"{a.dtype}{a.shape} strides {a.strides}" for a in (self.x, self.t))
        how = f"threads {self.threads}, split {self.split}, check {self.check}"
        return f"{self.kind}: logits {x}, targets {t}, {how}\n  {o}\n  {self.layout}\n  out {self.out_layout}"
