"""The Numba backend for CPUs: arrays described for the kernels, rows handed out to a pool of threads.

The contract of these functions is in contract.py; the kernels are in kernels.py, and the row functions
for a program's own ``@njit`` code in crossentropy/numba_rows.py. The kernels run without the GIL on threads of Python's own:
Numba's threading layers abort the process when two threads use one (workqueue) or hang after a fork (omp).
"""

from __future__ import annotations

import concurrent.futures
import math
import os
import struct
import threading

import numpy as np

from ... import _settings

try:
    from numba import config

    from . import kernels, layout
    from .rows import SCRATCH
except ImportError as error:
    raise ImportError(f"numba is missing ({error}): pip install 'crossentropy[numba]'") from error

if config.DISABLE_JIT:  # as programs are debugged: the kernels are LLVM code in part, and can't run as Python
    raise ImportError("numba does not compile where NUMBA_DISABLE_JIT is set")

_ELEMENTS = {"float16": layout.F16, "bfloat16": layout.BF16, "float32": layout.F32, "float64": layout.F64}
_NONE = layout.OddRows(0, 0, 0, 0, 0, 0)

# From here on two threads are not slower than one: a float32 loss took 66 and 182 us with 1 and 2 threads at 2**17
# elements, 123 and 234 at 2**19, 248 and 253 at 2**20, 640 and 475 at 2**22.
SERIAL_BELOW = 2**20
SCANNED = 2**16  # targets at a time
STREAM_FROM = 2**24  # bytes of a result: as in kernels/_native.pyx

# ---------------------------------------------------------------------- threads

_pool: concurrent.futures.ThreadPoolExecutor | None = None
_lock = threading.Lock()


def _after_fork():
    """A child has none of its parent's threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _workers() -> concurrent.futures.ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = concurrent.futures.ThreadPoolExecutor(_settings.processors(), "crossentropy")
        return _pool


def _forget_workers() -> None:
    """Leave a pool to the calls that use it: in one without threads, what was submitted would lie for ever."""
    global _pool
    with _lock:
        _pool = None


def _in_parallel(work, rows: int, elements: int, stop: np.ndarray) -> None:
    """Call work(first, last) for all rows, on the threads of this context.

    The calling thread only waits, so that it is there for a KeyboardInterrupt: the others are told to stop then.
    """
    threads = min(_settings.threads(), rows)
    if elements < SERIAL_BELOW:
        work(0, rows)
        return
    step = max(1, min(-(-rows // (4 * threads)), 2**22 * rows // elements))
    slices, lock = iter(range(0, rows, step)), threading.Lock()

    def take():
        while not stop[0]:
            with lock:
                first = next(slices, None)
            if first is None:
                return
            work(first, min(first + step, rows))

    futures = []
    try:
        try:
            for _ in range(threads):
                futures.append(_workers().submit(take))
        except RuntimeError:  # no thread can be started, as when the interpreter is shutting down
            if not futures:
                _forget_workers()
            take()
        for future in futures:
            future.result()
    except BaseException:  # from anywhere above: nobody else stops what is at work by now
        stop[0] = 1
        # What the pool has not begun, being busy with other calls, is not waited for.
        concurrent.futures.wait([future for future in futures if not future.cancel()])
        raise


# ---------------------------------------------------------------------- arrays


def _address(a) -> int:
    return a.__array_interface__["data"][0]


def _merged(shape, arrays):
    """The row dimensions, neighbours merged where every array lets them be; and each array's row strides."""
    kept: list[tuple] = []  # (size, stride in each array)
    for d, size in enumerate(shape):
        if size == 1:
            continue
        strides = [a.strides[d] for a in arrays]
        if kept and all(outer == size * inner for outer, inner in zip(kept[-1][1], strides, strict=True)):
            kept[-1] = (kept[-1][0] * size, strides)
        else:
            kept.append((size, strides))
    kept = kept or [(1, [0] * len(arrays))]
    sizes = np.array([size for size, _ in kept], np.int64)
    return sizes, [np.array([strides[i] for _, strides in kept], np.int64) for i in range(len(arrays))]


def _rows(a, row_strides, real):
    if a is None:
        return _NONE
    swapped = not a.dtype.isnative
    size = a.itemsize
    strides = (*a.strides[:-1], *([a.strides[-1]] if a.shape[-1] > 1 else []))
    native = a.dtype == real and not swapped and (a.strides[-1] == size or a.shape[-1] == 1)
    direct = native and _address(a) % size == 0 and not any(stride % size for stride in strides)
    element = _ELEMENTS[a.dtype.name]
    return layout.OddRows(_address(a), _address(row_strides), a.strides[-1], element, swapped, direct)


def _where(a) -> int:
    """The address of an array, 0 where there is none."""
    return 0 if a is None else _address(a)


def _packed(task):
    """The numbers of a Task, 8 bytes each."""
    ints = [number for rows in task[:3] for number in rows] + list(task[3:-2])
    return np.frombuffer(struct.pack(f"{len(ints)}q2d", *ints, *task[-2:]), np.int64)


def _task(
    x,
    q=None,
    out=None,
    targets=None,
    loss=None,
    saved=None,
    row_scale=None,
    class_weight=None,
    sample_weight=None,
    ignore_index=None,
    label_smoothing=0.0,
    z_loss=0.0,
):
    """The address of a Task, whether its arrays are odd (True or None), and all that must live, the stop flag first."""
    real = np.dtype(np.float64 if x.itemsize == 8 else np.float32)
    arrays = [x, q, out]
    shape, strides = _merged(x.shape[:-1], [a for a in arrays if a is not None])
    left = iter(strides)
    described = [_NONE if a is None else _rows(a, next(left), real) for a in arrays]
    scalar = isinstance(row_scale, float)
    scale, stop = np.array([row_scale]) if scalar else row_scale, np.zeros(1, np.int64)
    in_place = out is not None and _address(out) == _address(x)
    fields = {
        "dims": len(shape),
        "shape": _address(shape),
        "rows": x.size // x.shape[-1],
        "classes": x.shape[-1],
        "targets": _where(targets),
        "target_size": 0 if targets is None else targets.itemsize * (1 if targets.dtype.kind == "u" else -1),
        "has_ignored": ignore_index is not None,
        "ignored": 0 if ignore_index is None else ignore_index - (2**64 if ignore_index >= 2**63 else 0),
        "class_weight": _where(class_weight),
        "sample_weight": _where(sample_weight),
        "row_scale": _where(scale),
        "row_scale_step": 0 if scalar else 1,
        "loss": _where(loss),
        "saved": _where(saved),
        "streams": out is not None and not in_place and out.nbytes >= STREAM_FROM,
        "stop": _address(stop),
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
    }
    plain = all(a is None or rows.direct for a, rows in zip(arrays, described, strict=True))
    described = [layout.Rows(*rows[:3]) for rows in described] if plain else described
    task = _packed(kernels.Task(*described, **fields))
    held = (stop, task, shape, strides, x, q, out, targets, loss, saved, scale, class_weight, sample_weight)
    return _address(task), None if plain else True, held


def _call(kernel, *arguments):
    """Call a kernel; the first call compiles it."""
    try:
        return kernel(*arguments)
    except OSError:  # what was compiled could not be kept, as on a full disk: Numba has it all the same
        return kernel(*arguments)


def _run(kernel, x, *rest, **arguments):
    """Run a kernel over all rows of x."""
    task, odd, held = _task(x, **arguments)
    real = np.float64 if x.itemsize == 8 else np.float32

    def work(first, last, held=held):  # the arrays live as long as a thread may work on them
        _call(kernel, task, odd, first, last, np.empty(SCRATCH, real), *rest)

    _in_parallel(work, x.size // x.shape[-1], x.size, held[0])


# ---------------------------------------------------------------------- the contract


def scan_targets(targets, classes, ignore_index, class_weight, sample_weight):
    """The first target that is no class (or -1), and the sum of sample weight times class weight over the others."""
    first_bad, sums = -1, []
    for start in range(0, targets.size, SCANNED):
        t = targets[start : start + SCANNED]
        counts = np.ones(t.size, bool)
        if ignore_index is not None:
            counts = t != ignore_index
        if sample_weight is not None:
            v = sample_weight[start : start + SCANNED]
            counts &= v != 0
        good = (t >= 0) & (t < classes) & counts
        if first_bad < 0 and not np.array_equal(good, counts):
            first_bad = start + int((good != counts).argmax())
        weights = np.ones(1) if class_weight is None else class_weight[t[good]]
        if sample_weight is not None:
            weights = weights * v[good]
        elif class_weight is None:
            weights = np.array([np.count_nonzero(good)], np.float64)
        sums.append(weights.sum())
    return first_bad, math.fsum(sums)


def total(values):
    """The sum, with its rounding errors added up."""
    return _call(kernels.total, values)


def logsumexp(x, out):
    """The logsumexp of each row."""
    _run(kernels.logsumexp, x, loss=out)


def softmax(x, out):
    """The softmax of each row."""
    _run(kernels.softmax, x, out=out)


def log_softmax(x, out):
    """The log-softmax of each row."""
    _run(kernels.log_softmax, x, out=out)


def log_softmax_backward(grad_output, log_p, grad):
    """The gradient on the logits from that on the log-softmax."""
    _run(kernels.log_softmax_backward, log_p, q=grad_output, out=grad)


def _loss(kernel, x, targets, options, **rest):
    given = options._asdict()
    given["q" if given.pop("probabilities") else "targets"] = targets
    spreads = True if options.probabilities or options.label_smoothing > 0 else None  # None: not even compiled
    _run(kernel, x, spreads, **given, **rest)


def forward(x, targets, options, loss, saved):
    """The rows' losses, and what backward needs of them."""
    _loss(kernels.forward, x, targets, options, loss=loss, saved=saved)


def backward(x, targets, saved, options, row_scale, grad):
    """The gradient of the sum of row_scale_n loss_n."""
    _loss(kernels.backward, x, targets, options, out=grad, row_scale=row_scale, saved=saved)


def forward_backward(x, targets, options, row_scale, loss, grad):
    """The losses and the gradient in one go."""
    _loss(kernels.forward_backward, x, targets, options, out=grad, row_scale=row_scale, loss=loss)
