"""The kernels' intrinsics for Numba's CUDA simulator, in which memory is the host's, and threads that take turns.

Imported before the package where NUMBA_ENABLE_CUDASIM is 1. Addresses are checked: every load and store must lie within
an array that was registered, and at a multiple of its size. Threads are greenlets (the simulator's own, Python's, take
fifty times as long) and run in a random order from one meeting point to the next; a warp's must come to the same one.
A cluster of blocks is one block here, with shared arrays for each part of it.
"""

import contextlib
import contextvars
import ctypes
import random
import sys
import types

import greenlet
import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel, kernelapi
from numba.cuda.simulator.kernelapi import Dim3, FakeCUDAModule, FakeCUDAShared

# ---------------------------------------------------------------------- memory, checked


class Memory:
    """What kernels may reach of an array: from its first byte to its last, as numbers of any dtype."""

    def __init__(self, low, high):
        self.low, self.high, self._numbers = low, high, {}

    def numbers(self, dtype, address):
        """All that lie at multiples of their size, and the index of the one at an address."""
        if dtype not in self._numbers:
            start = -(-self.low // dtype.itemsize) * dtype.itemsize
            count = (self.high - start) // dtype.itemsize
            memory = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(start)
            self._numbers[dtype] = np.frombuffer(memory, dtype), start
        numbers, start = self._numbers[dtype]
        return numbers, (address - start) // dtype.itemsize


_arrays: list[Memory] = []  # the one that was reached last comes first


def register(array):
    """Let kernels reach an array's memory."""
    _arrays.append(Memory(*np.lib.array_utils.byte_bounds(array)))
    return array


def forget():
    """No array is registered any more."""
    _arrays.clear()


def _checked(address, size, kind):
    """The memory that has these bytes."""
    if address % size:
        raise AssertionError(f"{kind} at {address % size} past a multiple of {size}")
    for n, memory in enumerate(_arrays):
        if memory.low <= address and address + size <= memory.high:
            if n:
                _arrays.insert(0, _arrays.pop(n))
            return memory
    raise AssertionError(f"{kind} of {size} bytes out of bounds")


WORD = np.dtype(np.uint32)


def load_vector(address):
    address = int(address)
    words, n = _checked(address, 16, "load").numbers(WORD, address)
    return tuple(words[n : n + 4])


def shifted(low, high, address):
    memory = np.array([*low, *high], np.uint32).tobytes()[int(address) % 16 :][:16]
    return tuple(np.frombuffer(memory, np.uint32))


def funnel(low, high, bits):
    return np.uint32((int(low) | int(high) << 32) >> int(bits) & 0xFFFFFFFF)


def store_vector(address, words):
    address = int(address)
    memory, n = _checked(address, 16, "store").numbers(WORD, address)
    memory[n : n + 4] = words


def store_vector_if(whether, address, past, words):
    if whether:
        store_vector(address + past, words)


def store_half_if(whether, address, past, low, high):
    if whether:
        store(address + past, np.uint64(int(low) | int(high) << 32))


def load(address, kind):
    address, dtype = int(address), np.dtype(kind)
    numbers, n = _checked(address, dtype.itemsize, "load").numbers(dtype, address)
    return numbers[n]


def store(address, value):
    if not isinstance(value, np.generic):
        raise AssertionError(f"a store of {type(value).__name__}, which has no size")
    address, dtype = int(address), value.dtype
    numbers, n = _checked(address, dtype.itemsize, "store").numbers(dtype, address)
    numbers[n] = value


# ---------------------------------------------------------------------- bits


# A number as that of another type with its bits: a scalar's own `view` takes ten times as long.
_word = np.zeros(1, np.uint32)
_float = _word.view(np.float32)


def float_of(word):
    _word[0] = word
    return _float[0]


def word_of(value):
    _float[0] = value
    return _word[0]


def double_of(low, high):
    return np.uint64(int(low) | int(high) << 32).view(np.float64)


def words_of(value):
    bits = int(np.float64(value).view(np.uint64))
    return np.uint32(bits & 0xFFFFFFFF), np.uint32(bits >> 32)


def half_of(bits):
    return np.float32(np.uint16(bits).view(np.float16))


def _bfloat16(value):
    bits = int(word_of(value))
    if bits & 0x7FFFFFFF > 0x7F800000:
        return 0x7FFF
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def two_bfloat16(low, high):
    return np.uint32(_bfloat16(low) | _bfloat16(high) << 16)


def two_float16(low, high):
    with np.errstate(over="ignore", under="ignore"):
        low, high = (int(np.float16(value).view(np.uint16)) for value in (low, high))
    return np.uint32(low | high << 16)


# ---------------------------------------------------------------------- arithmetic


def fma(a, b, c):
    """Of float32 by way of float64, which rounds a second time in one case of 2^29; of float64 in long double."""
    if isinstance(a, np.float32):
        return np.float32(float(a) * float(b) + float(c))
    return type(a)(np.longdouble(a) * np.longdouble(b) + np.longdouble(c))


def larger(a, b):
    """As `np.maximum` has it, which takes ten times as long for scalars."""
    return _beside(a, b) if a >= b or a != a else _beside(b, a)


def smaller(a, b):
    return _beside(a, b) if a <= b or a != a else _beside(b, a)


def _beside(value, other):
    """A number; one of Python's own, which a kernel's constant is, in the type of the other."""
    return value if isinstance(value, np.generic) else np.result_type(other).type(value)


def _two(word, bfloat16):
    low, high = int(word) & 0xFFFF, int(word) >> 16
    if bfloat16:
        return float_of(low << 16), float_of(high << 16)
    return half_of(low), half_of(high)


def larger_two_bfloat16(a, b):
    return two_bfloat16(*map(np.maximum, _two(a, True), _two(b, True)))


def smaller_two_bfloat16(a, b):
    return two_bfloat16(*map(np.minimum, _two(a, True), _two(b, True)))


def larger_two_float16(a, b):
    return two_float16(*map(np.maximum, _two(a, False), _two(b, False)))


def smaller_two_float16(a, b):
    return two_float16(*map(np.minimum, _two(a, False), _two(b, False)))


def exp2(y):
    """Off by as much as PTX allows (2^-22.5; not at 0), up or down by the argument's last bit."""
    if y == 0:
        return np.float32(1)
    sign = 1 - 2 * int(word_of(y) & 1)
    return np.float32(np.exp2(np.float64(y)) * (1 + sign * (2**-22.5 - 2**-25)))


def near_reciprocal(y):
    return type(y)(1) / y


def power(t):
    if isinstance(t, np.float32):
        return float_of(int(word_of(t)) << 23 & 0xFFFFFFFF)
    return np.uint64(int(t.view(np.uint64)) << 52 & 0xFFFFFFFFFFFFFFFF).view(np.float64)


def raised(value, t):
    return float_of((int(word_of(value)) + (int(word_of(t)) << 23)) & 0xFFFFFFFF)


# ---------------------------------------------------------------------- threads, warps and clusters

_now = None  # the thread that runs


class Thread:
    """One thread of a block."""

    def __init__(self, function, manager, block, place, arguments):
        self.blockIdx, self.threadIdx, self.manager = Dim3(*block), Dim3(*place), manager
        self.thread_id, self.rank, self.exchanges, self.point = place[0], 0, 0, None
        self.run = greenlet.greenlet(lambda: function(*arguments))
        self.run.gr_context = contextvars.copy_context()

    def meet(self, point):
        """Go on when every thread of the block has come to a meeting point."""
        self.point = point
        greenlet.getcurrent().parent.switch()

    def syncthreads(self):
        self.meet("syncthreads")


OF_A_WARP = "shfl_xor", "ballot", "syncwarp", "words"
OF_ALL = "cluster_begin"
WARP = 32


def _met(live, every):
    """The threads that may go on: all of their warp, block or cluster, of ``every``, are at the same meeting point.

    A cluster's barrier is passed when a warp of each block has come to it.
    """
    groups = {}
    for thread in every:
        for group in (("warp", thread.thread_id // WARP), ("block", thread.rank), "all"):
            groups.setdefault(group, []).append(thread)
    ranks = {thread.rank for thread in every}

    def is_met(thread):
        kind, point, warp = thread.point.split()[0], thread.point, ("warp", thread.thread_id // WARP)
        if kind == "barrier" and {other.rank for other in live if other.point == point} != ranks:
            return False
        own = warp if kind == "barrier" or kind in OF_A_WARP else "all" if kind == OF_ALL else ("block", thread.rank)
        return all(other.point == point and not other.run.dead for other in groups[own])

    found = {(thread.point, thread.thread_id // WARP): thread for thread in live}
    found = {key: is_met(thread) for key, thread in found.items()}
    return [thread for thread in live if found[thread.point, thread.thread_id // WARP]]


class BlockManager:
    """Runs the threads of a block, in place of the simulator's own."""

    def __init__(self, function, grid, block, debug):
        self.function, self.grid, self.block, self.given = function, grid, block, {}

    def run(self, grid_point, *arguments):
        global _now
        with np.errstate(all="ignore"):  # a device has no such exceptions
            every = [Thread(self.function, self, grid_point, at, arguments) for at in np.ndindex(*self.block)]
        ready = live = every
        try:
            while ready:
                for _now in random.sample(ready, len(ready)):
                    _now.run.switch()
                live = [thread for thread in live if not thread.run.dead]
                ready = _met(live, every)
            if live:
                places = sorted({(thread.rank, thread.thread_id // WARP, thread.point) for thread in live})
                raise AssertionError(f"(block, warp, where it waits for others, which do not come): {places}")
        finally:
            for thread in live:
                thread.run.throw()


_modules: dict[int, dict] = {}  # the names in each module of a device function, in some of which ``cuda`` is among them


def _jit(*arguments, device=False, own=cuda.jit, **options):
    """A device function is called as it is: what the simulator makes of one takes longer than the function."""
    if not device:
        return own(*arguments, **options)

    def as_it_is(function):
        _modules[id(function.__globals__)] = function.__globals__
        return function

    return as_it_is


@contextlib.contextmanager
def _swapped(function, fake):
    """A launch, in which modules see ``cuda`` as kernels do, as far as they have that name."""
    seen = [names for names in (*_modules.values(), function.__globals__) if names.get("cuda") is cuda]
    try:
        for names in seen:
            names["cuda"] = fake
        yield
    finally:
        for names in seen:
            names["cuda"] = cuda


cuda.jit = _jit
kernel.swapped_cuda_module = _swapped
kernel.BlockManager = BlockManager
kernelapi.threading = types.SimpleNamespace(current_thread=lambda: _now, Lock=kernelapi.threading.Lock)


def _shfl_xor_sync(_, mask, value, lane):
    thread = _now
    thread.exchanges += 1
    given = thread.manager.given
    given[thread.exchanges, thread.thread_id] = value
    given.pop((thread.exchanges - 2, thread.thread_id), None)
    thread.meet(f"shfl_xor {lane}")
    return given[thread.exchanges, thread.thread_id ^ lane]


def _ballot_sync(_, mask, predicate):
    thread = _now
    thread.exchanges += 1
    given = thread.manager.given
    given[thread.exchanges, thread.thread_id] = bool(predicate)
    given.pop((thread.exchanges - 2, thread.thread_id), None)
    thread.meet("ballot")
    first = thread.thread_id // 32 * 32
    return np.uint32(sum(given.get((thread.exchanges, first + i), False) << i for i in range(32)))


def _words_of_warp(word):
    """What each lane gives of a warp that is whole, in order."""
    thread = _now
    thread.exchanges += 1
    given = thread.manager.given
    given[thread.exchanges, thread.thread_id] = word
    given.pop((thread.exchanges - 2, thread.thread_id), None)
    thread.meet("words")
    first = thread.thread_id // WARP * WARP
    return [int(given[thread.exchanges, first + i]) for i in range(WARP)]


def warp_sum(word):
    return np.uint32(sum(_words_of_warp(word)) & 0xFFFFFFFF)


def warp_max(word):
    return np.uint32(max(_words_of_warp(word)))


FakeCUDAModule.shfl_xor_sync = _shfl_xor_sync
FakeCUDAModule.ballot_sync = _ballot_sync
FakeCUDAModule.syncwarp = lambda *_: _now.meet("syncwarp")


def clustered(blocks):
    _now.rank = _now.threadIdx.x // (_now.manager.block[0] // blocks)


def cluster_rank():
    return np.int32(_now.rank)


def cluster_index():
    return np.int32(_now.blockIdx.x)


def cluster_count():
    return np.int32(_now.manager.grid[0])


def cluster_begin():
    _now.meet("cluster_begin")


def barriers():
    return np.int32(0)


def barrier_begin(barrier):
    pass


def barrier_expect(barrier, size):
    """Nothing has come yet, or all: other threads go on when this one meets them."""


def barrier_wait(barrier, parity):
    _now.meet(f"barrier {barrier} {parity}")


def has_come(value):
    pass


_owners: dict[int, tuple] = {}  # id of a shared array -> (all of its block's, where it was made)


def _shared(self, shape, dtype, alignment=None):
    caller = sys._getframe(1)
    place = (caller.f_code.co_filename, caller.f_lineno, caller.f_code, shape, _now.rank)  # closures share their code
    if place not in self._allocations:
        self._allocations[place] = np.full(shape, np.array(-1).astype(dtype))
        _owners[id(self._allocations[place])] = self._allocations, place
    return self._allocations[place]


FakeCUDAShared.array = _shared


def cluster_store(array, index, rank, value, barrier):
    allocations, place = _owners[id(array)]
    allocations[*place[:-1], int(rank)][index] = value


module = types.ModuleType("crossentropy._backends.cuda.intrinsics")
vars(module).update({name: value for name, value in globals().items() if callable(value)})
sys.modules[module.__name__] = module
