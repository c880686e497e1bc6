"""The native backend: arrays described for the Cython module, the choice of ISA and threads, the fork guard.

Threads are OpenMP's; where the compiler has none, those of workers.py.

The contract of these functions is in contract.py; the kernels are in kernels/.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import _memory, _settings
from .._options import RowOptions
from . import workers
from .contract import RowNumbers, Statistics

# How often libgomp's threads look for their next work before they sleep, 0.3 to 0.6 ms. Of its own accord it has them
# look 300 000 times: 8 to 18 ms on a core that by then is wanted by others, by a BLAS or a booster with threads of its
# own (docs/performance.md).
LOOKS = "10000"


@contextlib.contextmanager
def _sleeping_soon() -> Iterator[None]:
    """libgomp reads the environment as it is loaded; what the user has told it, there, holds."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}.isdisjoint(os.environ):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = LOOKS
    try:
        yield
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)


try:
    with _sleeping_soon():
        from .. import _native
except ImportError as error:
    raise ImportError(
        f"the compiled module crossentropy._native is missing ({error}); it is built on installation where there is a "
        "C compiler: install one (gcc, clang or MSVC) and reinstall with pip's --no-cache-dir --force-reinstall, or "
        "set CROSSENTROPY_REQUIRE_NATIVE=1 as well to see the compiler's error"
    ) from error

_CODES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}  # `element` in kernels/types.h
_PLAIN = {np.dtype(np.float32): 2, np.dtype(np.float64): 3}

OPENMP = _native.OPENMP

SQUARES = True  # whether `row_statistics` takes squares, in the pass that it makes for all else

# Below, one thread is faster than two: waking the second takes longer than its share of the work, and longest where it
# is one of Python's (docs/performance.md).
SERIAL_BELOW = _native.SERIAL_BELOW if OPENMP else 2**18

# Below, a plain call takes a short way: with warm caches the long one costs a small call more than its work does, and
# with cold caches (between a model's large operations) far more (docs/performance.md). Above, it is nothing.
LIGHT_BELOW = 2**20

ISAS = _native.ISAS
SUPPORTED_ISAS = _native.supported_isas()
STREAM_ROW = _native.STREAM_ROW
xla_handlers = _native.xla_handlers

if len(Statistics._fields) != _native.STATISTICS:
    raise ImportError("the compiled module keeps other statistics of a row than contract.py names: rebuild it")

THREADS = "OpenMP" if OPENMP else "a pool of Python's"  # whose they are
if not OPENMP:
    _native.share_by(workers.share)

# A child of fork has the parent's OpenMP state but none of its threads: entering a parallel region there hangs.
_forked = False


def _after_fork():
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def isa_named(name: str) -> str:
    """The name, if that ISA can be used here."""
    if name not in ISAS:
        raise ValueError(f"isa must be one of {', '.join(map(repr, ISAS))}, got {name!r}")
    if name not in SUPPORTED_ISAS:
        raise RuntimeError(
            f"isa {name!r} is not available on this machine; available: {', '.join(map(repr, SUPPORTED_ISAS))}"
        )
    return name


def current_isa() -> str:
    """The ISA of this context."""
    asked = _settings.isa()
    return isa_named(asked) if asked else SUPPORTED_ISAS[0]


def current_threads() -> int:
    """Threads for a large call in this context: no more than the OpenMP runtime has been limited to at run time."""
    chosen = _settings.threads()
    if not OPENMP:
        return chosen  # of the pool in workers.py, of which a forked child has its own
    return 1 if _forked else _native.allowed_threads(chosen)


def threads_for(size: int) -> int:
    """Threads for a call of so many elements in this context."""
    return 1 if size < SERIAL_BELOW else current_threads()


def _described(x):
    """What _native.run takes of an array: memory it can get a buffer of, element code, whether byte-swapped."""
    code = _PLAIN.get(x.dtype)
    if code is not None:
        return x, code, False
    # The buffer protocol has no bfloat16, and this module needs only the bits.
    return x.view(f"u{x.itemsize}"), _CODES[x.dtype.name], not x.dtype.isnative


def _run(work, x, q=None, out=None, **rest):
    threads = threads_for(x.size)
    _native.run(
        work,
        current_isa(),
        threads,
        _described(x),
        None if q is None else _described(q),
        None if out is None else _described(out),
        **rest,
    )


def _size(targets) -> int:
    return targets.itemsize if targets.dtype.kind == "u" else -targets.itemsize


def _bits(ignore_index):
    """The index as int64 with the same bits as a uint64 target has."""
    return None if ignore_index is None else ignore_index - (2**64 if ignore_index >= 2**63 else 0)


def scan_targets(
    targets: np.ndarray,
    classes: int,
    ignore_index: int | None,
    class_weight: np.ndarray | None,
    sample_weight: np.ndarray | None,
) -> tuple[int, float]:
    """The first target that is no class (or -1), and the sum of sample weight times class weight over the others."""
    ignored = _bits(ignore_index)
    return _native.scan_targets(
        current_isa(), targets, _size(targets), ignored, targets.size, classes, class_weight, sample_weight
    )


def light(x: Any, targets: Any, wants_grad: bool = False, out: Any = None) -> tuple[float, np.ndarray | None] | None:
    """The mean loss of small plain arrays without any option, and its gradient, with less to describe than elsewhere.

    Returns (loss, gradient or None); None for anything that is not as simple as that, with nothing written.
    """
    if type(x) is not np.ndarray or type(targets) is not np.ndarray or not 0 < x.size < LIGHT_BELOW:
        return None
    if x.dtype.kind != "f" or targets.dtype.kind != "i":  # which of these kinds, C tells by the buffers' formats
        return None
    if out is not None and type(out) is not np.ndarray:
        return None
    grad = out if wants_grad else None
    if wants_grad and out is None:
        grad = np.empty_like(x) if x.nbytes < _memory.LARGE else _memory.empty_like(x)
    loss = _native.light(current_isa(), threads_for(x.size), x, targets, grad)
    return None if loss is None else (loss, grad)


def light_at() -> Callable[..., float | None]:
    """The same for a framework's tensors, as a function for the ISA of this context.

    Of threads (`threads_for`), rows, classes, the bytes of a float, 4 or 8, and the addresses of contiguous memory that
    nothing else is written to: logits, targets of int64, gradient (0 where none is wanted), and loss, which it returns,
    too. None where it is not as simple as that, with nothing written.
    """
    return functools.partial(_native.light_at, current_isa())


def total(values: np.ndarray) -> float:
    """The sum, in blocks whose own sums are added with their rounding errors."""
    return _native.total(values)


def logsumexp(
    x: np.ndarray, out: np.ndarray, weights: np.ndarray | None = None, sign: np.ndarray | None = None
) -> None:
    """The logsumexp of each row; with weights, and the sign of the sum."""
    if weights is None:
        _run("logsumexp", x, loss=out)
    else:
        _run("weighted_logsumexp", x, q=weights, loss=out, sign=sign)


def softmax(x: np.ndarray, out: np.ndarray) -> None:
    """The softmax of each row."""
    _run("softmax", x, out=out)


def log_softmax(x: np.ndarray, out: np.ndarray, statistics: np.ndarray | None = None) -> None:
    """The log-softmax of each row, and what its backward needs of them."""
    _run("log_softmax", x, out=out, statistics=statistics)


def log_softmax_backward(grad_output: np.ndarray, x: np.ndarray, statistics: np.ndarray, grad: np.ndarray) -> None:
    """The gradient on the logits from that on the log-softmax."""
    _run("log_softmax_backward", x, q=grad_output, out=grad, statistics=statistics)


def _in_lanes(w, x):
    """The class weights over the largest of them, in the lanes' type, which has no 1e-50 or 1e50; that; their sum."""
    if w is None:
        return None
    unit = float(w.max(initial=0)) or 1.0
    with np.errstate(all="ignore"):  # 1e-50 of the largest is 0 in float32; weights of 1e308 add up to inf
        return (w / unit).astype(np.float64 if x.itemsize == 8 else np.float32), unit, float(w.sum())


def _loss(work, x, targets, options, **rest):
    index = None if options.probabilities else (targets, _size(targets), _bits(options.ignore_index))
    _run(
        work,
        x,
        q=targets if options.probabilities else None,
        targets=index,
        options=options,
        class_weight_in_lanes=_in_lanes(options.class_weight, x),
        **rest,
    )


def forward(x: np.ndarray, targets: np.ndarray, options: Any, loss: np.ndarray, statistics: np.ndarray | None) -> None:
    """The rows' losses, and what backward needs of them."""
    _loss("forward", x, targets, options, loss=loss, statistics=statistics)


def forward_block(x: np.ndarray, targets: np.ndarray, options: Any, parts: np.ndarray) -> None:
    """What is found of a block of classes."""
    _loss("forward", x, targets, options, parts=parts)


@functools.cache
def _places(record: np.dtype) -> tuple[tuple[int, bool], ...]:
    """Where max, rest and target lie in a record, and whether they are float64."""
    fields: Any = record.fields
    return tuple((fields[name][1], fields[name][0].itemsize == 8) for name in ("max", "rest", "target"))


def tell_block(
    x: np.ndarray,
    targets: np.ndarray,
    start: int,
    classes: int,
    ignore_index: int,
    records: np.ndarray,
    most_threads: int = 2**31 - 1,
) -> int:
    """What is found of a block of classes of rows without options, whose first class is ``start``, into their records.

    These have max, rest and target by name, float32 or float64; targets are int64 (N,), of so many classes of all
    blocks. Returns the first row with a bad one, with nothing written, or -1. (It is `forward_block` and what is done
    before and after that, for callers whose every other operation on the rows' numbers costs them cold caches.)
    """
    threads = 1 if x.size < SERIAL_BELOW else min(current_threads(), most_threads)
    places = _places(records.dtype)
    return _native.tell_block(
        current_isa(), threads, _described(x), targets, start, classes, ignore_index, records, places
    )


def merge_losses(records: np.ndarray, losses: np.ndarray, whole: np.ndarray | None = None) -> None:
    """The losses of such rows from their records of all blocks, (blocks, N): as `_merging` has them, in one pass.

    ``losses`` is float32 or float64, (N,); ``whole``, float64 (3, N), gets max, rest and target of all classes.
    """
    _native.merge_losses(records, _places(records.dtype), losses, whole)


def backward(
    x: np.ndarray,
    targets: np.ndarray,
    statistics: np.ndarray,
    options: Any,
    row_scale: float | np.ndarray,
    grad: np.ndarray,
) -> None:
    """The gradient of the sum of row_scale_n loss_n."""
    _loss("backward", x, targets, options, out=grad, row_scale=row_scale, statistics=statistics)


def forward_backward(
    x: np.ndarray,
    targets: np.ndarray,
    options: Any,
    row_scale: float | np.ndarray,
    loss: np.ndarray,
    grad: np.ndarray,
) -> None:
    """The losses and the gradient in one go."""
    _loss("forward_backward", x, targets, options, out=grad, row_scale=row_scale, loss=loss)


def row_statistics(
    x: np.ndarray,
    targets: Any,
    options: Any,
    numbers: RowNumbers,
    statistics: Any = None,
    squares: np.ndarray | None = None,
) -> None:
    """The numbers of each row, and what `log_probs_backward` needs of them.

    Beyond the contract, ``squares`` is float64 (N,) for the sum of p_c^2 over every class but one at the maximum.
    """
    index = targets is not None and not options.probabilities
    # A loss that sums over the classes once more, or is not of the logits as they are, is one for itself.
    is_apart = targets is not None and (
        options.probabilities or options.label_smoothing > 0 or options.margin != 0 or options.focal > 0
    )
    if not index:
        numbers = numbers._replace(log_prob=None, rank=None)
    _run(
        "row_statistics",
        x,
        targets=(targets, _size(targets), _bits(options.ignore_index)) if index else None,
        options=options._replace(label_smoothing=0.0, margin=0.0, focal=0.0),
        class_weight_in_lanes=_in_lanes(options.class_weight, x),
        loss=numbers.loss if index and not is_apart else None,
        numbers=numbers,
        squares=squares,
        statistics=statistics,
    )
    if is_apart:
        forward(x, targets, options, numbers.loss, None)


def log_probs_backward(
    x: np.ndarray,
    targets: Any,
    statistics: np.ndarray,
    options: Any,
    g_log_prob: float | np.ndarray,
    g_entropy: float | np.ndarray,
    grad: np.ndarray,
) -> None:
    """The gradient on the logits of log-probabilities and entropies, with what arrives at them."""
    index = None if targets is None else (targets, _size(targets), _bits(options.ignore_index))
    scales = {"row_scale": g_log_prob, "entropy_scale": g_entropy}
    _run("log_probs_backward", x, out=grad, targets=index, options=options, statistics=statistics, **scales)


def forward_backward_hessian(
    x: np.ndarray,
    targets: np.ndarray,
    options: Any,
    hessian: str,
    vector: np.ndarray | None,
    row_scale: float | np.ndarray,
    loss: np.ndarray,
    grad: np.ndarray,
    hess: np.ndarray,
) -> None:
    """The losses, the gradient and what stands for the Hessian in one go."""
    more = {"hessian": hessian, "hess": _described(hess), "vector": None if vector is None else _described(vector)}
    _loss("forward_backward", x, targets, options, out=grad, row_scale=row_scale, loss=loss, **more)


def distillation(
    x: np.ndarray,
    teacher: np.ndarray,
    kind: str,
    temperature: float,
    beta: float,
    sample_weight: np.ndarray | None,
    row_scale: float | np.ndarray,
    loss: np.ndarray,
    grad: np.ndarray,
) -> None:
    """The divergences of the rows, and their gradient on x."""
    options = None if sample_weight is None else RowOptions(sample_weight=sample_weight, probabilities=True)
    divergence = kind, temperature, beta
    _run("distillation", x, q=teacher, out=grad, options=options, row_scale=row_scale, loss=loss, divergence=divergence)


def _scale(values: Any, count: int) -> Any:
    """A number for all, or numbers and their period: 0 where there is one for each."""
    return values if isinstance(values, float) else (values, 0 if values.size == count else values.size)


def binary(
    z: np.ndarray,
    targets: np.ndarray,
    weight: float | np.ndarray,
    pos_weight: float | np.ndarray,
    alpha: float,
    gamma: float,
    grad_output: float | np.ndarray,
    at_once: int,
    sums: np.ndarray,
    loss: np.ndarray | None,
    grad: np.ndarray | None,
) -> None:
    """The losses of one logit each, in blocks that threads share out."""
    bits, code, _ = _described(z)
    integers = 0 if targets.dtype == z.dtype else targets.itemsize
    _native.elements(
        current_isa(),
        threads_for(z.size),
        code,
        bits,
        targets if integers else _described(targets)[0],
        integers,
        *(_scale(values, z.size) for values in (weight, pos_weight, grad_output)),
        alpha,
        gamma,
        at_once,
        sums,
        loss,
        None if grad is None else _described(grad)[0],
    )


def stream(kind: str, x: np.ndarray, q: np.ndarray | None = None, out: np.ndarray | None = None) -> float:
    """What memory does at best, on the threads and by the ISA of this context: the roof that a kernel is held against.

    Parameters
    ----------
    kind : str
        ``'read'``: the sum of x. ``'copy'``: out = x. ``'combine'``: out = x + q. ``'scale'``: ``x *= 1``, in place.
        Large results bypass the caches, as the kernels' own do.
    x, q, out : ndarray of float32
        Contiguous, aligned to 64 bytes, of the same size, which is a multiple of ``STREAM_ROW``.

    Returns
    -------
    float
        The sum for ``'read'``, else 0; for a program to use, so that nothing is optimised away.

    Raises
    ------
    ValueError
        For an unknown kind, or an array that is not as above.
    """
    needed = {"read": (x,), "copy": (x, out), "combine": (x, q, out), "scale": (x,)}
    if kind not in needed:
        raise ValueError(f"kind must be one of {', '.join(map(repr, needed))}, got {kind!r}")
    for each in needed[kind]:
        fits = isinstance(each, np.ndarray) and each.dtype == np.float32 and each.flags.c_contiguous
        if not fits or each.ctypes.data % 64 or each.size % STREAM_ROW or each.size != x.size:
            raise ValueError(
                f"{kind} takes contiguous float32 arrays at multiples of 64 bytes, of n * {STREAM_ROW} elements"
            )
    rows = [each.reshape(-1, STREAM_ROW) for each in needed[kind]]
    sums = np.zeros(len(rows[0]))  # one for each share of a thread, the others stay 0
    q, out = rows[1] if kind == "combine" else None, rows[-1] if kind != "read" else None
    _run(f"stream_{kind}", rows[0], q=q, out=out, loss=sums)
    return float(sums.sum())
