"""What the card's memory does at best: a kernel that only reads, and PyTorch's copy."""

import functools

import torch

# Threads of a block, vectors of 16 bytes that a thread has on their way, blocks a multiprocessor (0: as many as there
# is work for, each of which reads once).
WAYS = ((256, 4, 0), (512, 4, 0), (512, 8, 0), (256, 8, 8), (512, 4, 4), (1024, 4, 2))


@functools.cache
def kernel(threads, flight):
    """(address, vectors, result): reads all; stores nothing unless their sum is what it hardly ever is."""
    import numpy as np
    from numba import cuda

    from crossentropy._backends.cuda.intrinsics import load_vector

    unlikely, held = np.uint32(0x9E3779B9), 4 * flight

    def body(address, vectors, result):
        words = cuda.local.array(held, np.uint32)
        block = np.int64(cuda.blockIdx.x)
        first = block * threads * flight + cuda.threadIdx.x
        total = np.uint32(0)
        while first + (flight - 1) * threads < vectors:
            for k in range(flight):
                w = load_vector(address + 16 * (first + k * threads))
                for b in range(4):
                    words[4 * k + b] = w[b]
            for k in range(held):
                total ^= words[k]
            first += np.int64(cuda.gridDim.x) * threads * flight
        if total == unlikely:
            result[0] = total

    return cuda.jit("void(int64, int64, uint32[::1])")(body)


class Reader:
    """A call that reads an array: whole blocks' shares of it, at most 128 KB less than all."""

    def __init__(self, x, device, way=WAYS[0]):
        self.bytes = x.numel() * x.element_size()
        if device == "cpu":
            self._call = lambda: x.sum()
            return
        from numba import cuda

        threads, flight, each = way
        share = threads * flight
        blocks = max(1, self.bytes // (16 * share))
        if each:
            blocks = min(blocks, each * torch.cuda.get_device_properties(0).multi_processor_count)
        result = cuda.device_array(1, "uint32")
        launch = kernel(threads, flight)[blocks, threads]  # on the default stream, as everything here
        address, vectors = x.data_ptr(), self.bytes // 16
        self._call = lambda: launch(address, vectors, result)

    def __call__(self):
        self._call()


def readers(x, device) -> dict[str, Reader]:
    """Ways to read an array, of which the fastest is the roof."""
    found = {
        f"{threads} threads x {flight}, {each or 'all'} blocks": (threads, flight, each)
        for threads, flight, each in WAYS
    }
    return {name: Reader(x, device, way) for name, way in (found if device != "cpu" else {"sum": WAYS[0]}).items()}
