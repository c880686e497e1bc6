"""The last third of a kernel: a row's results, written over the classes of the row."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import cuda

from .elements import device, elements_of
from .exp import exponential_of
from .groups import WARP
from .intrinsics import float_of, fma, load_vector, word_of
from .logits import logits_of
from .numbers import is_raised
from .pairs import pairs_of
from .rows import READ, SKIPPED, out_of
from .vectors import vectors_of


class Writing(NamedTuple):
    """The functions of a kernel."""

    wait: Callable  # (): no thread of a row goes on before all have come here
    write: Callable  # (a, row, target, frame, lane, alive, words, v, low, u): a row's results; not alive: none


def writing_of(kind: str, shape, result, weights) -> Writing:
    """Those of the kernel of a dtype, a shape of work and a result; ``weights`` are the kernel's own."""
    elements = elements_of(kind)
    real, width, workers, is_gradient = elements.real, elements.width, shape.workers, result.writes == "gradient"
    put = elements_of(result.to or kind).put
    zero, nan = real(0), real(np.nan)
    finish_of, raised = _transformed if result.transforms else _plain, is_raised(kind, result)
    finish = finish_of(kind, result, weights.weights_of, bool(shape.kept))
    if shape.kept:
        results = _kept(kind, shape, finish, result.to, bool(result.q) or result.transforms, raised)
    else:
        inside = finish_of(kind, result, weights.weights_inside, False) if result.q else finish
        results = _read_again(kind, shape, finish, inside, result.to)
    if raised:
        results = _or_one_by_one(kind, shape, result, results)

    @device
    def fill(a, row, out, lane, alive):
        """0 or NaN throughout."""
        i = lane if alive else row.classes
        while i < row.classes:
            put(out + i * a.out_class, zero if row.state == SKIPPED else nan)
            i += workers

    @device
    def write(a, row, target, frame, lane, alive, words, v, low, u):
        out = out_of(a, row)
        if row.state != READ or frame.max != frame.max:
            fill(a, row, out, lane, alive)
        else:
            head = results(a, row, out, target, frame, lane, alive, words, v, low, u)
            # The thread that has just written the target's class puts the target's own gradient over it.
            if is_gradient and row.has_target and alive and (row.target + head) // width % workers == lane:
                put(out + row.target * a.out_class, frame.at_target)

    return Writing(_wait(shape), write)


def _or_one_by_one(kind, shape, result, results):
    """The device function ``results``, or where a row's factor is too large for `exp_gradient` one class at a time.

    The target's class is left out then: another thread may write that.
    """
    number_at, put, workers = elements_of(kind).number_at, elements_of(result.to or kind).put, shape.workers
    e_to, zero, most = exponential_of(kind), elements_of(kind).real(0), elements_of(kind).real(2.0**-26)
    raised_at, frame_at, exp_times = e_to.gradient_frame_at, e_to.frame_at, e_to.exp_times

    @device
    def results_of_any(a, row, out, target, frame, lane, alive, words, v, low, u):
        if abs(frame.of_e) < most:
            return results(a, row, out, target, frame, lane, alive, words, v, low, u)
        middle, _ = raised_at(zero)
        magic, lowest = frame_at(frame.magic - middle)
        i = lane if alive else row.classes
        while i < row.classes:
            if not row.has_target or i != row.target:
                z = number_at(row.x + i * a.x_class)
                put(out + i * a.out_class, exp_times(z, frame.offset, magic, lowest, frame.of_e))
            i += workers
        return np.int64(0)

    return results_of_any


def _wait(shape):
    """The device function `Writing.wait`."""
    threads, alone = shape.threads, shape.alone

    @device
    def wait():
        if threads > WARP:
            cuda.syncthreads()
        elif not alone:
            cuda.syncwarp()

    return wait


def _plain(kind, result, weights_of, is_moved):
    """The device function (a, row, words, at, v, low, u, first, target, frame): v[0 : width] are a vector's results.

    The vector is words[at : at + 4], of the classes from ``first`` on. Overwrites low and u. The target's own gradient
    is `Frame.at_target`. ``is_moved``: `_kept` has subtracted the offset of what `exp_gradient` is of.
    """
    finish, read = _finish(kind, result, weights_of, is_moved), logits_of(kind).read

    @device
    def whole(a, row, words, at, v, low, u, first, target, frame):
        read(a, row, words, at, first, v, low, 0)
        finish(v, u, first, row.classes, target, frame)

    return whole


def _transformed(kind, result, weights_of, is_moved):
    """The same of a gradient on logits that are transformed."""
    elements, logits, parts_of = elements_of(kind), logits_of(kind, True), pairs_of(kind).parts_of
    real, width, unpack, read, gradient = elements.real, elements.width, elements.unpack, logits.read, logits.gradient
    spreads, focal, zero, infinite = result.spreads, result.focal, real(0), real(np.inf)

    @device
    def whole(a, row, words, at, v, low, u, first, target, frame):
        given = cuda.local.array(width, real)
        unpack(words, at, given, 0)
        read(a, row, words, at, first, v, low, 0)
        if spreads:
            weights_of(u, first, row.classes, target)
        for j in range(width):
            scale, more = parts_of(v[j] - frame.offset, low[j], frame.magic, frame.lowest)
            scale *= frame.of_e
            e = fma(scale, more, scale)
            if focal and not abs(frame.of_e) < infinite:
                e = zero if v[j] == -infinite else frame.row_factor * infinite
            v[j] = gradient(a, fma(-frame.row_factor, u[j], e) if spreads else e, given[j])

    return whole


def _finish(kind, result, weights_of, is_moved):
    """The device function (v, u, first, classes, target, frame): the logits v become results, but for the target's."""
    zero, width = elements_of(kind).real(0), elements_of(kind).width
    exp_near, exp_times = exponential_of(kind).exp_near, exponential_of(kind).exp_times
    spreads, focal, infinite = result.spreads, result.focal, elements_of(kind).real(np.inf)
    exp_gradient = exponential_of(kind).exp_gradient
    if is_raised(kind, result):

        @device
        def finish(v, u, first, classes, target, frame):
            for j in range(width):
                y = v[j] if is_moved else v[j] - frame.offset
                v[j] = exp_gradient(y, frame.magic, frame.lowest, frame.of_e)

    elif result.writes == "log_softmax":

        @device
        def finish(v, u, first, classes, target, frame):
            for j in range(width):
                v[j] = (v[j] - frame.lse) - frame.lse_error

    elif result.is_backward:

        @device
        def finish(v, u, first, classes, target, frame):
            weights_of(u, first, classes, target)
            for j in range(width):
                z, e = v[j], exp_near(v[j], frame.offset, frame.magic, frame.lowest)
                at_max = frame.at_target if frame.row_factor == zero else u[j] - frame.at_target
                v[j] = at_max if z == frame.max else fma(-e, frame.of_e, u[j])

    elif result.writes == "softmax":

        @device
        def finish(v, u, first, classes, target, frame):
            for j in range(width):
                v[j] = exp_times(v[j], frame.offset, frame.magic, frame.lowest, frame.of_e)

    else:

        @device
        def finish(v, u, first, classes, target, frame):
            if spreads:
                weights_of(u, first, classes, target)
            for j in range(width):
                e = exp_times(v[j], frame.offset, frame.magic, frame.lowest, frame.of_e)
                if focal and not abs(frame.of_e) < infinite:
                    e = zero if v[j] == -infinite else frame.row_factor * infinite
                v[j] = fma(-frame.row_factor, u[j], e) if spreads else e

    return finish


def _kept(kind, shape, finish, to_kind, reads_beside, raised):
    """The device function (a, row, out, target, frame, lane, alive, words, v, low, u): results of what registers hold.

    It returns how many classes the first vector of the memory that is written lacks: none. ``reads_beside``: results
    need numbers of classes from other arrays; ``raised``: they are by `exp_gradient`, in whose ``offset`` logits begin.
    """
    elements, vectors = elements_of(kind), vectors_of(kind, "", to_kind)
    width, give_whole, give_if = elements.width, vectors.give_whole, vectors.give_if
    kept, apart, words_held, zero = shape.kept, shape.lanes * elements.width, 4 * shape.kept, elements.real(0)

    @device
    def results(a, row, out, target, frame, lane, alive, words, v, low, u):
        for k in range(kept):
            first = lane * width + k * apart
            if first < row.classes and alive:
                finish(a, row, words, 4 * k, v, low, u, first, target, frame)
                give_whole(out, first, v)
        return np.int64(0)

    if shape.kept <= 4 and reads_beside:
        return results
    size = elements_of(to_kind or kind).size
    at_once, shift = width * size, apart.bit_length() - 1
    width_32, more = np.int32(width), np.int32(apart - 1)

    def of_some(begin, end):
        """The device function (a, row, target, frame, first, left, at, words, v, low, u): some of a lane's vectors."""
        if begin == end:
            return device(lambda a, row, target, frame, first, left, at, words, v, low, u: None)
        before, k = of_some(begin, end - 1), np.int32(end - 1)
        # Not a literal where it need not be one: what is called with it would be compiled for each.
        place, classes, past = np.int64(4 * (end - 1)), (end - 1) * apart, (end - 1) * apart * size

        @device
        def of_these(a, row, target, frame, first, left, at, words, v, low, u):
            before(a, row, target, frame, first, left, at, words, v, low, u)
            if not reads_beside:
                finish(a, row, words, place, v, low, u, first + classes, target, frame)
                give_if(left > k, at, past, v)
            elif left > k:
                finish(a, row, words, place, v, low, u, first + classes, target, frame)
                give_whole(at, classes, v)

        return of_these

    # With all in one stretch, the compiler has more on their way at once than there are registers.
    half = (kept + 1) // 2
    of_half, of_others = of_some(0, half), of_some(half, kept)

    @device
    def results_of_all(a, row, out, target, frame, lane, alive, words, v, low, u):
        """Vectors that the row has not are computed as well, and not stored: a branch for each costs more."""
        end = np.int32(row.classes) if alive else np.int32(0)
        left = np.int32(np.int32(np.int32(end - np.int32(lane) * width_32) + more) >> shift)
        first, at = lane * width, out + lane * at_once
        if raised and frame.offset != zero:
            for b in range(words_held):
                words[b] = word_of(float_of(words[b]) - frame.offset)
        of_half(a, row, target, frame, first, left, at, words, v, low, u)
        if left > half:
            of_others(a, row, target, frame, first, left, at, words, v, low, u)
        return np.int64(0)

    return results_of_all


def _read_again(kind, shape, finish, inside, to_kind):
    """The same of a row that is read again; ``inside`` is ``finish`` for vectors whose classes are all the row's.

    Vectors are those of the memory that is written, whose first lacks the classes that come before the row: from here
    on it does not matter which lane has a class. Where results have fewer bytes than logits, the vectors are those of
    eight bytes that are written.
    """
    elements, vectors = elements_of(kind), vectors_of(kind, "", to_kind)
    to_size = elements_of(to_kind or kind).size
    at_once = elements.width * to_size  # bytes that are written of a vector
    size, width = elements.size, elements.width
    take_any, give, give_whole = vectors.take_any, vectors.give, vectors.give_whole
    alone, flight, between = shape.alone, shape.flight, shape.workers * width
    turn_classes = flight * between

    @device
    def results(a, row, out, target, frame, lane, alive, words, v, low, u):
        head = out % at_once // to_size if a.out_class == to_size else np.int64(0)
        first = lane * width - head if alive else row.classes
        # From here to there on, a turn's vectors are all the row's, and of the memory that is read.
        begin, end = np.int64(0), row.classes - (turn_classes - between + width)
        if alone or a.out_class != to_size or (row.x + first * size) % 16 != 0:
            end = np.int64(-1)
        while first < row.classes:
            if begin <= first <= end:
                for k in range(flight):  # all on their way before the first is looked at
                    w = load_vector(row.x + (first + k * between) * size)
                    for b in range(4):
                        words[4 * k + b] = w[b]
                for k in range(flight):
                    inside(a, row, words, 4 * k, v, low, u, first + k * between, target, frame)
                    give_whole(out, first + k * between, v)
                first += turn_classes
            else:
                take_any(words, 0, row.x, a.x_class, first, row.classes)
                finish(a, row, words, 0, v, low, u, first, target, frame)
                give(out, a.out_class, first, row.classes, v)
                first += between
        return head

    return results
