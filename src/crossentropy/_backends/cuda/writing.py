"""The last third of a kernel: a row's results, written over the classes of the row."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from .elements import device, elements_of
from .exp import exponential_of
from .groups import WARP
from .intrinsics import cluster_sync, fma, load_vector
from .logits import logits_of
from .rows import READ, SKIPPED
from .vectors import vectors_of


class Writing(NamedTuple):
    """The functions of a kernel."""

    wait: Callable  # (): no thread of a row goes on before all have come here
    write: Callable  # (a, row, target, frame, lane, alive, words, v, u): a row's results; not alive: none


def writing_of(kind: str, shape, result, weights_of) -> Writing:
    """Those of the kernel of a dtype, a shape of work and a result; ``weights_of`` is `weights.Weights.weights_of`."""
    elements = elements_of(kind)
    real, width, workers, is_gradient = elements.real, elements.width, shape.workers, result.writes == "gradient"
    put = elements_of(result.to or kind).put
    zero, nan = real(0), real(np.nan)
    finish = _finish(kind, result, weights_of)
    results = (_kept if shape.kept else _read_again)(kind, shape, finish, result.to)

    @device
    def fill(a, row, lane, alive):
        """0 or NaN throughout."""
        i = lane if alive else row.classes
        while i < row.classes:
            put(row.out + i * a.out_class, zero if row.state == SKIPPED else nan)
            i += workers

    @device
    def write(a, row, target, frame, lane, alive, words, v, u):
        if row.state != READ or frame.max != frame.max:
            fill(a, row, lane, alive)
        else:
            head = results(a, row, target, frame, lane, alive, words, v, u)
            # The thread that has just written the target's class puts the target's own gradient over it.
            if is_gradient and row.has_target and alive and (row.target + head) // width % workers == lane:
                put(row.out + row.target * a.out_class, frame.at_target)

    return Writing(_wait(shape), write)


def _wait(shape):
    """The device function `Writing.wait`."""
    blocks, threads, alone = shape.blocks if not shape.alone else 1, shape.threads, shape.alone

    @device
    def wait():
        if blocks > 1:
            cluster_sync()
        elif threads > WARP:
            cuda.syncthreads()
        elif not alone:
            cuda.syncwarp()

    return wait


def _finish(kind, result, weights_of):
    """The device function (a, v, u, first, classes, target, frame): the logits v become results, but for the target's.

    v are those of the classes from ``first`` on. Overwrites u. The target's own gradient is `Frame.at_target`.
    """
    zero = elements_of(kind).real(0)
    width, gradient = elements_of(kind).width, logits_of(kind).gradient
    exp_near, exp_times = exponential_of(kind).exp_near, exponential_of(kind).exp_times
    spreads = result.spreads
    if result.writes == "log_softmax":

        @device
        def finish(a, v, u, first, classes, target, frame):
            for j in range(width):
                v[j] = (v[j] - frame.lse) - frame.lse_error

    elif result.is_backward:

        @device
        def finish(a, v, u, first, classes, target, frame):
            weights_of(u, first, classes, target)
            for j in range(width):
                z, e = v[j], exp_near(v[j], frame.offset, frame.magic, frame.lowest)
                at_max = frame.at_target if frame.row_factor == zero else u[j] - frame.at_target
                v[j] = at_max if z == frame.max else fma(-e, frame.of_e, u[j])

    elif result.writes == "softmax":

        @device
        def finish(a, v, u, first, classes, target, frame):
            for j in range(width):
                v[j] = exp_times(v[j], frame.offset, frame.magic, frame.lowest, frame.of_e)

    else:

        @device
        def finish(a, v, u, first, classes, target, frame):
            if spreads:
                weights_of(u, first, classes, target)
            for j in range(width):
                e = exp_times(v[j], frame.offset, frame.magic, frame.lowest, frame.of_e)
                v[j] = gradient(a, fma(-frame.row_factor, u[j], e) if spreads else e, v[j])

    return finish


def _kept(kind, shape, finish, to_kind):
    """The device function (a, row, target, frame, lane, alive, words, v, u): results of what registers hold of a row.

    It returns how many classes the first vector of the memory that is written lacks: none.
    """
    elements, vectors = elements_of(kind), vectors_of(kind, "", to_kind)
    width, read, give_whole = elements.width, logits_of(kind).read, vectors.give_whole
    kept, apart = shape.kept, shape.lanes * elements.width

    @device
    def results(a, row, target, frame, lane, alive, words, v, u):
        for k in range(kept):
            first = lane * width + k * apart
            if first < row.classes and alive:
                read(a, words, 4 * k, v, 0)
                finish(a, v, u, first, row.classes, target, frame)
                give_whole(row.out, first, v)
        return np.int64(0)

    return results


def _read_again(kind, shape, finish, to_kind):
    """The same of a row that is read again.

    Vectors are those of the memory that is written, whose first lacks the classes that come before the row: from here
    on it does not matter which lane has a class. Where results have fewer bytes than logits, the vectors are those of
    eight bytes that are written.
    """
    elements, vectors = elements_of(kind), vectors_of(kind, "", to_kind)
    to_size = elements_of(to_kind or kind).size
    at_once = elements.width * to_size  # bytes that are written of a vector
    size, width, read = elements.size, elements.width, logits_of(kind).read
    take_any, give, give_whole = vectors.take_any, vectors.give, vectors.give_whole
    alone, flight, workers = shape.alone, shape.flight, shape.workers

    @device
    def results(a, row, target, frame, lane, alive, words, v, u):
        head = row.out % at_once // to_size if a.out_class == to_size else np.int64(0)
        first = lane * width - head if alive else row.classes
        between = np.int64(workers) * width
        while (
            not alone
            and first >= 0
            and first + (flight - 1) * between + width <= row.classes
            and a.out_class == to_size
            and (row.x + first * size) % 16 == 0
        ):
            for k in range(flight):  # all on their way before the first is looked at
                w = load_vector(row.x + (first + k * between) * size)
                for b in range(4):
                    words[4 * k + b] = w[b]
            for k in range(flight):
                read(a, words, 4 * k, v, 0)
                finish(a, v, u, first + k * between, row.classes, target, frame)
                give_whole(row.out, first + k * between, v)
            first += flight * between
        while first < row.classes:
            take_any(words, 0, row.x, a.x_class, first, row.classes)
            read(a, words, 0, v, 0)
            finish(a, v, u, first, row.classes, target, frame)
            give(row.out, a.out_class, first, row.classes, v)
            first += between
        return head

    return results
