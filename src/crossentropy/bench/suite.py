"""What is measured: operations, shapes, inputs; the cases made of them, and a case's arrays."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Op(NamedTuple):
    """How often an operation must pass over memory as large as the logits, and the stream that does just that."""

    passes: int
    roof: str


OPS = {
    "loss": Op(1, "read"),  # reads the logits
    "loss + gradient": Op(2, "copy"),  # reads the logits, writes the gradient
    "loss + gradient in place": Op(2, "scale"),  # writes it where the logits were
    "log-softmax": Op(2, "copy"),  # reads the logits, writes as many
    "softmax": Op(2, "copy"),
    "probability targets": Op(3, "combine"),  # loss + gradient; reads logits and targets, writes the gradient
    "row statistics": Op(1, "read"),  # every number of each row; reads the logits
    "distillation": Op(3, "combine"),  # loss + gradient; reads two arrays of logits, writes the gradient
    "diagonal Hessian": Op(3, "copy"),  # loss + gradient + Hessian; reads the logits, writes two arrays as large
}
ROOF_PASSES = {"read": 1, "copy": 2, "scale": 2, "combine": 3}  # of a stream, which may be fewer than its operation's
BEYOND = ("row statistics", "distillation", "diagonal Hessian")  # what of the peers PyTorch alone is timed on

SHAPES = {
    (32, 10): "what a call costs",
    (1048576, 2): "yes or no",
    (1048576, 3): "few classes, which fill no vector",
    (1048576, 10): "digits",
    (1048576, 20): "more than a vector of AVX-512",
    (1048576, 50): "the most that are few",
    (65536, 1000): "the head of an ImageNet classifier",
    (4096, 32000): "the vocabulary of Llama 2",
    (2048, 50257): "of GPT-2, which is odd",
    (1024, 128256): "of Llama 3",
    (512, 256000): "of Gemma",
    (8, 21, 512, 512): "segmentation: the class axis is not last",
    (2, 150, 512, 512): "of ADE20K",
}
FEW = [shape for shape in SHAPES if shape[0] == 1048576]
SEGMENTATION = [shape for shape in SHAPES if len(shape) == 4]
LARGE = [(65536, 1000), (4096, 32000), (2048, 50257), (1024, 128256)]
VOCABULARY = (4096, 32000)  # where dtypes and inputs are compared
QUICK = [(32, 10), (65536, 100), (256, 32000)]  # the last two: 26 and 33 MB

# No trick may hold for one distribution only.
INPUTS = {
    "normal": "standard normals",
    "far": "−100 + 3 · normals",
    "masked": "normals, every tenth class −inf",
    "wide": "uniform in ±80",
    "led": "normals, the target 20 ahead of every class",
}

# Options of a loss that are timed beside the plain call, one at a time.
OPTIONS = {"class_weight": "class weights", "ignore_index": "a tenth of the targets ignored"}
WITH_OPTIONS = (1048576, 10)  # where they are
IGNORED = -100


class Case(NamedTuple):
    """One thing to compute, whoever does it."""

    op: str
    shape: tuple[int, ...]
    axis: int = -1
    dtype: str = "float32"
    inputs: str = "normal"
    option: str = ""  # one of OPTIONS

    @property
    def classes(self) -> int:
        """Along the class axis."""
        return self.shape[self.axis]

    @property
    def elements(self) -> int:
        """Of the logits."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """That must move."""
        return OPS[self.op].passes * self.elements * dtype_named(self.dtype).itemsize

    @property
    def has_roof(self) -> bool:
        """Whether memory limits it, and not the call."""
        from ..native import STREAM_ROW  # here, so that cases can be spoken of where the native backend is not built

        return self.elements * dtype_named(self.dtype).itemsize >= 16 * STREAM_ROW

    @property
    def shape_text(self) -> str:
        """As in the tables."""
        return " x ".join(map(str, self.shape)) + (f", class axis {self.axis}" if self.axis != -1 else "")

    def __str__(self):
        return ", ".join([self.op, self.shape_text, self.dtype, self.inputs, *filter(None, [self.option])])


def _case(op, shape, **rest):
    return Case(op, shape, axis=1 if len(shape) == 4 else -1, **rest)


def cases(quick: bool = False) -> list[Case]:
    """Every case; with ``quick`` a few on arrays that take no time to make, and which a large cache holds in part."""
    both = ["loss", "loss + gradient"]
    if quick:
        return [_case(op, shape) for shape in QUICK for op in both] + [_case(op, QUICK[-1]) for op in list(OPS)[2:]]
    found = [_case(op, shape) for shape in SHAPES for op in both]
    found += [_case(op, shape) for shape in LARGE for op in ("loss + gradient in place", "log-softmax", "softmax")]
    found += [_case(op, shape) for shape in FEW for op in ("log-softmax", "softmax")]
    found += [_case("log-softmax", shape) for shape in SEGMENTATION]
    found += [_case(op, VOCABULARY) for op in ("probability targets", *BEYOND)]
    found += [_case(op, WITH_OPTIONS, option=option) for option in OPTIONS for op in both]
    found += [_case(op, VOCABULARY, dtype=dtype) for dtype in ("bfloat16", "float16", "float64") for op in both]
    found += [_case(op, VOCABULARY, inputs=inputs) for inputs in list(INPUTS)[1:] for op in both]
    return found


# ---------------------------------------------------------------------- a case's arrays


def dtype_named(name: str) -> np.dtype:
    """The NumPy dtype; bfloat16 is that of ml_dtypes, and 2 bytes of anything where that is missing."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        return np.dtype(np.uint16)
    return np.dtype(ml_dtypes.bfloat16)


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array at a multiple of 64 bytes, for the streams: NumPy's large ones lie 16 past one."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


class Problem(NamedTuple):
    """A case's arrays."""

    case: Case
    x: np.ndarray  # the logits
    targets: np.ndarray  # int64 classes; of x's shape float32 for 'probability targets', logits for 'distillation'
    out: np.ndarray | None  # of x's shape and dtype, None where nothing of that size is computed
    options: dict  # keywords of `crossentropy.cross_entropy`


def problem(case: Case) -> Problem:
    """The same numbers for every implementation and in every run."""
    rng = np.random.default_rng(0)
    x = aligned(case.shape, dtype_named(case.dtype))
    exact = np.float64 if case.dtype == "float64" else np.float32
    if case.inputs == "wide":
        x[...] = rng.random(case.shape, exact) * 160 - 80
    else:
        x[...] = rng.standard_normal(case.shape, exact)
    rows = np.moveaxis(x, case.axis, -1)
    if case.op == "probability targets":
        targets = aligned(case.shape, np.float32)
        targets[...] = rng.random(case.shape, np.float32)
        targets /= targets.sum(axis=case.axis, keepdims=True)
    elif case.op == "distillation":
        targets = aligned(case.shape, x.dtype)
        targets[...] = rng.standard_normal(case.shape, exact)
    else:
        targets = rng.integers(0, case.classes, rows.shape[:-1])
    if case.inputs == "far":
        x *= 3
        x -= 100
    elif case.inputs == "masked":
        rows[..., ::10] = -np.inf
        targets[targets % 10 == 0] += 1  # a masked target's loss is inf
        targets[targets == case.classes] -= 2
    elif case.inputs == "led":
        np.put_along_axis(rows, targets[..., None], rows.max(axis=-1, keepdims=True) + 20, -1)
    options = {}
    if case.option == "class_weight":
        options["class_weight"] = rng.uniform(0.5, 2, case.classes).astype(x.dtype)
    elif case.option == "ignore_index":
        targets[rng.random(targets.shape) < 0.1] = options["ignore_index"] = IGNORED
    out = None if OPS[case.op].roof == "read" else aligned(case.shape, x.dtype)
    if out is not None:
        out[...] = x  # in place the logits are these; and no page is touched first within a timing
    return Problem(case, x, targets, out, options)
