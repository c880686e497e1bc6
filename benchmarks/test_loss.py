"""Loss and loss + gradient, each ISA of ours beside torch: `python -m pytest benchmarks`.

extra_info holds the bytes that must move, so that bytes over time is a rate to hold against the memory's own.
"""

import numpy as np
import pytest

import crossentropy
from crossentropy import native

SHAPES = {
    "32 x 10": (32, 10),  # call overhead
    "65536 x 100": (65536, 100),  # short rows
    "2048 x 32000": (2048, 32000),  # a vocabulary
    "1024 x 50257": (1024, 50257),  # an odd one: a partial vector in every row
}


@pytest.fixture(params=SHAPES, scope="module")
def problem(request):
    """Standard normal logits and random targets."""
    rng = np.random.default_rng(0)
    rows, classes = SHAPES[request.param]
    return request.param, rng.standard_normal((rows, classes), dtype=np.float32), rng.integers(0, classes, rows)


def _measured(benchmark, shape, what, x, passes, call):
    benchmark.group = f"{what}, {shape}, float32"
    benchmark.extra_info["bytes"] = passes * x.nbytes
    benchmark(call)


@pytest.mark.parametrize("isa", native.SUPPORTED_ISAS)
def test_loss(benchmark, problem, isa):
    shape, x, y = problem
    with crossentropy.config(backend="native", isa=isa):
        _measured(benchmark, shape, "loss", x, 1, lambda: crossentropy.cross_entropy(x, y))  # reads x once


@pytest.mark.parametrize("isa", native.SUPPORTED_ISAS)
def test_loss_and_grad(benchmark, problem, isa):
    shape, x, y = problem
    out = np.empty_like(x)
    with crossentropy.config(backend="native", isa=isa):
        call = lambda: crossentropy.cross_entropy_and_grad(x, y, out=out)  # noqa: E731
        _measured(benchmark, shape, "loss + gradient", x, 2, call)  # reads x once, writes out once


def test_torch_loss(benchmark, problem):
    torch = pytest.importorskip("torch", reason="the peer is PyTorch")
    shape, x, y = problem
    z, t = torch.from_numpy(x), torch.from_numpy(y)
    _measured(benchmark, shape, "loss", x, 1, lambda: torch.nn.functional.cross_entropy(z, t))


def test_torch_loss_and_grad(benchmark, problem):
    torch = pytest.importorskip("torch", reason="the peer is PyTorch")
    shape, x, y = problem
    z, t = torch.from_numpy(x).requires_grad_(), torch.from_numpy(y)

    def call():
        return torch.autograd.grad(torch.nn.functional.cross_entropy(z, t), z)

    _measured(benchmark, shape, "loss + gradient", x, 2, call)
