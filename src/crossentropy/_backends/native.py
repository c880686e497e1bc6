"""The native backend: arrays described for the Cython module, the choice of ISA and threads, the fork guard.

The contract of these functions is in contract.py; the kernels are in kernels/.
"""

from __future__ import annotations

import os

import numpy as np

from .. import _settings

try:
    from .. import _native
except ImportError as error:
    raise ImportError(
        f"the compiled module crossentropy._native is missing ({error}); it is built on installation where there is a "
        "C compiler: install one (gcc, clang or MSVC) and reinstall with pip's --no-cache-dir --force-reinstall, or "
        "set CROSSENTROPY_REQUIRE_NATIVE=1 as well to see the compiler's error"
    ) from error

_CODES = {"float16": 0, "bfloat16": 1, "float32": 2, "float64": 3}  # `element` in kernels.h
_FLOAT32, _FLOAT64, _INT64 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64)
_PLAIN = {_FLOAT32: 2, _FLOAT64: 3}

# From here on two threads are faster than one: a float32 loss took 10.6 and 17.8 us with 1 and 2 threads at 2**13
# elements, 11.7 and 17.6 at 2**14, 13.9 and 12.6 at 2**15, 18.2 and 14.7 at 2**16.
SERIAL_BELOW = 2**15

# Up to here a plain call takes a short way. Beyond, the 20 us that it spares are nothing; but between a model's large
# operations, when no code is in a cache, they were 230 (1024 x 103).
LIGHT_BELOW = 2**20

ISAS = _native.ISAS
OPENMP = _native.OPENMP
SUPPORTED_ISAS = _native.supported_isas()
STREAM_ROW = _native.STREAM_ROW

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
    """Threads for a large call in this context."""
    chosen = _settings.threads()
    return 1 if _forked or not OPENMP else chosen


def _described(x):
    """What _native.run takes of an array: memory it can get a buffer of, element code, whether byte-swapped."""
    code = _PLAIN.get(x.dtype)
    if code is not None:
        return x, code, False
    # The buffer protocol has no bfloat16, and this module needs only the bits.
    return x.view(f"u{x.itemsize}"), _CODES[x.dtype.name], not x.dtype.isnative


def _run(work, x, q=None, out=None, **rest):
    threads = 1 if x.size < SERIAL_BELOW else current_threads()
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


def scan_targets(targets, classes, ignore_index, class_weight, sample_weight):
    """The first target that is no class (or -1), and the sum of sample weight times class weight over the others."""
    ignored = _bits(ignore_index)
    return _native.scan_targets(targets, _size(targets), ignored, targets.size, classes, class_weight, sample_weight)


def light(x, targets, wants_grad=False, out=None):
    """The mean loss of small plain arrays without any option, and its gradient: 32 x 10 takes a third as long so.

    Returns (loss, gradient or None); None for anything that is not as simple as that, with nothing written.
    """
    if type(x) is not np.ndarray or type(targets) is not np.ndarray or not 0 < x.size < LIGHT_BELOW:
        return None
    if (x.dtype is not _FLOAT32 and x.dtype is not _FLOAT64) or targets.dtype is not _INT64:
        return None  # as it may be for equal dtypes that are other objects
    if out is not None and type(out) is not np.ndarray:
        return None
    grad = (np.empty_like(x) if out is None else out) if wants_grad else None
    threads = 1 if x.size < SERIAL_BELOW else current_threads()
    loss = _native.light(current_isa(), threads, x, targets, grad)
    return None if loss is None else (loss, grad)


def total(values):
    """The sum, in blocks whose own sums are added with their rounding errors."""
    return _native.total(values)


def logsumexp(x, out):
    """The logsumexp of each row."""
    _run("logsumexp", x, loss=out)


def softmax(x, out):
    """The softmax of each row."""
    _run("softmax", x, out=out)


def log_softmax(x, out):
    """The log-softmax of each row."""
    _run("log_softmax", x, out=out)


def log_softmax_backward(grad_output, log_p, grad):
    """The gradient on the logits from that on the log-softmax."""
    _run("log_softmax_backward", log_p, q=grad_output, out=grad)


def _class_weight(w, x):
    """The class weights as _native.run takes them: also in the lanes' type, over the largest of them."""
    if w is None:
        return {"class_weight_sum": float(x.shape[-1])}
    unit = float(w.max(initial=0)) or 1.0
    with np.errstate(all="ignore"):  # 1e-50 of the largest is 0 in float32; weights of 1e308 add up to inf
        return {
            "class_weight": w,
            "class_weight_real": (w / unit).astype(np.float64 if x.itemsize == 8 else np.float32),
            "class_weight_unit": unit,
            "class_weight_sum": float(w.sum()),
        }


def _loss(work, x, targets, options, out=None, row_scale=None, loss=None, saved=None):
    scalar = isinstance(row_scale, float)
    index = (
        {}
        if options.probabilities
        else {
            "targets": targets,
            "size": _size(targets),
            "ignored": _bits(options.ignore_index),
        }
    )
    _run(
        work,
        x,
        q=targets if options.probabilities else None,
        out=out,
        **_class_weight(options.class_weight, x),
        sample_weight=options.sample_weight,
        row_scale=np.array([row_scale]) if scalar else row_scale,
        row_scale_is_scalar=scalar,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        loss=loss,
        saved=saved,
        **index,
    )


def forward(x, targets, options, loss, saved):
    """The rows' losses, and what backward needs of them."""
    _loss("forward", x, targets, options, loss=loss, saved=saved)


def backward(x, targets, saved, options, row_scale, grad):
    """The gradient of the sum of row_scale_n loss_n."""
    _loss("backward", x, targets, options, out=grad, row_scale=row_scale, saved=saved)


def forward_backward(x, targets, options, row_scale, loss, grad):
    """The losses and the gradient in one go."""
    _loss("forward_backward", x, targets, options, out=grad, row_scale=row_scale, loss=loss)


def stream(kind, x, q=None, out=None):
    """What memory does at best, on the threads and by the ISA of this context: the roof that a kernel is held against.

    Parameters
    ----------
    kind : str
        ``'read'``: the sum of x. ``'copy'``: out = x. ``'combine'``: out = x + q. ``'scale'``: x *= 1, in place. Large
        results are stored past the caches, as the kernels store theirs.
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
