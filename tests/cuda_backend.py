"""The CUDA kernels under the contract of a backend, so that what is run over every backend is run over them too.

Arrays of the host are laid out on the device as they lie in memory here, and results copied back; in the simulator the
device's memory is the host's. With NUMBA_ENABLE_CUDASIM=1 the kernels' intrinsics come from cuda_simulator.py. With
`emulated`, which test_cuda_machine_code.py sets, their machine code is emulated.
"""

import math
import os

import numpy as np

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
emulated = None  # the memory of benchmarks/cuda_sass, where that stands in for a card
if SIMULATED:
    import cuda_simulator

from numba import cuda  # noqa: E402

from crossentropy._backends import cuda as backend  # noqa: E402
from crossentropy._backends import reference as reference_backend  # noqa: E402
from crossentropy._backends.cuda import arrays  # noqa: E402
from crossentropy.testing import dtypes  # noqa: E402


class Array:
    """An array on the device, which was this one of the host: with its strides, and as far past a multiple of 16."""

    def __init__(self, a):
        low, high = np.lib.array_utils.byte_bounds(a) if a.size else (0, 0)
        size = 32 + high - low
        memory = np.empty(size + 16, np.uint8) if emulated is None else emulated.room(size + 16)
        memory[:] = 0xA5
        self.host = memory[-memory.ctypes.data % 16 :][:size]
        self.offset = 16 + low % 16 + (a.__array_interface__["data"][0] - low if a.size else 0)
        self.shape, self.dtype, self.strides = a.shape, a.dtype, a.strides
        self._view()[...] = a
        if SIMULATED:
            cuda_simulator.register(self._view())
        elif emulated is not None:
            emulated.register(self.host.ctypes.data + 16 + low % 16, high - low)
        self.on_host = SIMULATED or emulated is not None
        self.memory = self.host if self.on_host else cuda.to_device(self.host)

    def _view(self):
        return np.ndarray(self.shape, self.dtype, self.host.data, self.offset, self.strides)

    @property
    def __cuda_array_interface__(self):
        memory = self.memory.ctypes.data if self.on_host else self.memory.__cuda_array_interface__["data"][0]
        kind = f"<V{self.dtype.itemsize}" if self.dtype.kind == "V" else self.dtype.str
        data = memory + self.offset, False
        return {"shape": self.shape, "typestr": kind, "data": data, "strides": self.strides, "version": 3}

    def to_host(self):
        """The array as it is on the device now."""
        if not self.on_host:
            self.memory.copy_to_host(self.host)
        return self._view().copy()

    def item(self):
        """The one number of it."""
        return self.to_host()[()]

    def __getitem__(self, index):
        return self.to_host()[index]


def _empty(shape, dtype, like, stream):
    """A new array, each byte of it 0xA5."""
    dtype = np.dtype(dtypes().get(dtype, dtype))
    values = np.full(math.prod(shape) * dtype.itemsize, 0xA5, np.uint8)
    return arrays.describe(Array(values.view(dtype).reshape(shape)), "a new array")


arrays.empty = _empty


# ---------------------------------------------------------------------- the contract of a backend


def _device(a):
    """An array there; in native byte order and aligned, as all are there."""
    if not a.dtype.isnative or not a.flags.aligned:
        a = a.astype(a.dtype.newbyteorder("="))
    return Array(a)


def _row_function(name, x, out, **options):
    to = _device(out)
    getattr(backend, name)(_device(x), out=to, **options)
    out[...] = to.to_host()


def softmax(x, out):
    _row_function("softmax", x, out)


def log_softmax(x, out, statistics=None):
    if statistics is None:
        _row_function("log_softmax", x, out)
        return
    to = _device(out)
    _, saved = backend.log_softmax_forward(_device(x), out=to)
    out[...] = to.to_host()
    statistics[...] = backend.numbers_of(saved)[0].to_host()


def logsumexp(x, out, weights=None, sign=None):
    if weights is None:
        out[...] = backend.logsumexp(_device(x)).to_host().reshape(-1)
    else:
        found = backend.logsumexp(_device(x), b=_device(weights), return_sign=True)
        out[...], sign[...] = (a.to_host().reshape(-1) for a in found)


def log_softmax_backward(grad_output, x, statistics, grad):
    to = _device(grad)
    real = np.float64 if x.itemsize == 8 else np.float32
    saved = backend.restored_log_softmax(Array(statistics.astype(real)), _device(x))
    backend.log_softmax_backward(saved, _device(grad_output), out=to)
    grad[...] = to.to_host()


def scan_targets(targets, classes, ignore_index, class_weight, sample_weight):
    return reference_backend.scan_targets(targets, classes, ignore_index, class_weight, sample_weight)


total = reference_backend.total


@np.errstate(all="ignore")  # of float64 weights as float32
def _call(x, targets, options):
    rows = x.shape[:-1]
    o, real = options._asdict(), np.float64 if x.itemsize == 8 else np.float32
    apart = ("class_weight", "sample_weight", "probabilities", "all_classes")
    given = {name: value for name, value in o.items() if name not in apart}
    if o["class_weight"] is not None:
        given["class_weight"] = Array(o["class_weight"].astype(real))
    if o["class_prior"] is not None:
        given["class_prior"] = Array(o["class_prior"])
    if o["sample_weight"] is not None:
        given["sample_weight"] = Array(o["sample_weight"].astype(real).reshape(rows))
    t = _device(targets) if options.probabilities else Array(targets.reshape(rows))
    return _device(x), t, given | {"reduction": "none"}


@np.errstate(all="ignore")
def _scale(row_scale, x):
    if isinstance(row_scale, float):
        return row_scale
    return Array(row_scale.astype(np.float64 if x.itemsize == 8 else np.float32).reshape(x.shape[:-1]))


def forward(x, targets, options, loss, statistics):
    x_there, t, given = _call(x, targets, options)
    if statistics is None:
        loss[...] = backend.cross_entropy(x_there, t, **given).to_host().reshape(-1)
        return
    losses, kept = backend.forward(x_there, t, **given)
    loss[...] = losses.to_host().reshape(-1)
    statistics[...] = kept.given[backend.calls.STATISTICS].value.to_host()[:, : statistics.shape[1]]


def _from_0(x, targets, options):
    """Targets as if the block were the first one: those of another lie past its classes."""
    if options.probabilities:
        return targets
    here = (targets >= 0) & (targets < x.shape[-1])
    return np.where(here | (targets == options.ignore_index), targets, x.shape[-1])


def forward_block(x, targets, options, parts):
    x_there, t, given = _call(x, _from_0(x, targets, options), options)
    parts[...] = backend.forward_block(x_there, t, 0, options.all_classes, **given).to_host()


def backward(x, targets, statistics, options, row_scale, grad):
    if options.all_classes:
        x_there, t, given = _call(x, _from_0(x, targets, options), options)
        to, g = _device(grad), _scale(row_scale, x)
        backend.backward_block(x_there, t, Array(statistics), 0, options.all_classes, grad_output=g, out=to, **given)
        grad[...] = to.to_host()
        return
    x_there, t, given = _call(x, targets, options)
    _, kept = backend.forward(x_there, t, **given)
    real = np.float64 if x.itemsize == 8 else np.float32
    own = kept.given[backend.calls.STATISTICS].value.to_host()  # of some options a device keeps more numbers of a row
    own[:, : statistics.shape[1]] = statistics.astype(real)
    kept.given[backend.calls.STATISTICS] = arrays.describe(Array(own), "statistics")
    to = _device(grad)
    backend.backward(kept, _scale(row_scale, x), out=to)
    grad[...] = to.to_host()


def forward_backward(x, targets, options, row_scale, loss, grad):
    x_there, t, given = _call(x, targets, options)
    in_place = np.may_share_memory(x, grad)
    to = x_there if in_place and x_there.dtype == grad.dtype else _device(grad)
    losses, _ = backend.cross_entropy_and_grad(x_there, t, grad_output=_scale(row_scale, x), out=to, **given)
    loss[...] = losses.to_host().reshape(-1)
    grad[...] = to.to_host()


def _options_there(x, options, index):
    rows, real = x.shape[:-1], np.float64 if x.itemsize == 8 else np.float32
    given = {"logit_scale": options.logit_scale, "softcap": options.softcap}
    if index:
        given["ignore_index"] = options.ignore_index
    if options.sample_weight is not None:
        given["sample_weight"] = Array(options.sample_weight.astype(real).reshape(rows))
    if options.class_prior is not None:
        given["class_prior"] = Array(options.class_prior)
    return given


def row_statistics(x, targets, options, numbers, statistics=None):
    index = targets is not None and not options.probabilities
    t = Array(targets.reshape(x.shape[:-1])) if index else None
    if statistics is not None:
        _, saved = backend.log_probs_forward(_device(x), t, **_options_there(x, options, index))
        statistics[...] = backend.numbers_of(saved)[0].to_host()
    _, t, given = _call(x, targets, options) if targets is not None else (None, None, None)
    if targets is None:
        given = _options_there(x, options, False)
    else:
        del given["reduction"]
        if options.probabilities:
            del given["ignore_index"]
    found = backend.row_statistics(_device(x), t, **given)
    for to, a in zip(numbers, found, strict=False):
        if a is not None:
            to[...] = a.to_host().reshape(-1)


def log_probs_backward(x, targets, statistics, options, g_log_prob, g_entropy, grad):
    t = None if targets is None else Array(targets.reshape(x.shape[:-1]))
    kept = Array(statistics.astype(np.float64 if x.itemsize == 8 else np.float32))
    of_block = options.all_classes > 0
    given = _options_there(x, options, targets is not None)
    saved = backend.restored_log_probs(kept, _device(x), t, of_block, **given)
    to = _device(grad)
    backend.log_probs_backward(saved, _scale(g_log_prob, x), _scale(g_entropy, x), out=to)
    grad[...] = to.to_host()


def forward_backward_hessian(x, targets, options, hessian, vector, row_scale, loss, grad, hess):
    x_there, t, given = _call(x, targets, options)
    if not isinstance(row_scale, float):  # a factor of each row has no place in the public function
        raise NotImplementedError
    to, second = _device(grad), _device(hess)
    u = None if vector is None else _device(vector)
    given |= {"reduction": "mean", "normalizer": 1 / row_scale} if row_scale != 1 else {}
    losses = backend.cross_entropy(
        x_there, t, **{k: v for k, v in given.items() if k != "normalizer"} | {"reduction": "none"}
    )
    backend.cross_entropy_grad_hess(x_there, t, hessian=hessian, vector=u, out=to, hess_out=second, **given)
    loss[...] = losses.to_host().reshape(-1)
    grad[...], hess[...] = to.to_host(), second.to_host()


def distillation(x, teacher, kind, temperature, beta, sample_weight, row_scale, loss, grad):
    real = np.float64 if x.itemsize == 8 else np.float32
    v = {} if sample_weight is None else {"sample_weight": Array(sample_weight.astype(real).reshape(x.shape[:-1]))}
    x_there = _device(x)
    to = x_there if np.may_share_memory(x, grad) and x_there.dtype == grad.dtype else _device(grad)
    g = _scale(row_scale, x)
    losses, _ = backend.distillation(
        x_there, _device(teacher), (kind, temperature, beta), grad_output=g, out=to, reduction="none", **v
    )
    loss[...] = losses.to_host().reshape(-1)
    grad[...] = to.to_host()


def binary(z, targets, weight, pos_weight, alpha, gamma, grad_output, at_once, sums, loss, grad):
    def there(values):
        return values if isinstance(values, float) else Array(np.resize(values, z.size))

    x_there = _device(z)
    to = None if grad is None else x_there if np.may_share_memory(z, grad) else _device(grad)
    given = x_there, _device(targets), there(weight), there(pos_weight), alpha, gamma, "none"
    losses, _ = backend.binary(*given, grad is not None, there(grad_output), to)
    losses = losses.to_host()
    sums[...] = np.add.reduceat(losses.astype(float), np.arange(0, z.size, at_once))
    if loss is not None:
        loss[...] = losses
    if grad is not None:
        grad[...] = to.to_host()
