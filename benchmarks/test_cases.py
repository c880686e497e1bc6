"""The cases of crossentropy.bench under pytest-benchmark: `python -m pytest benchmarks -n 0 --benchmark-enable`.

What is timed is the same; the order is not: here one implementation after the other, so that a machine that slows down
meanwhile is unfair to the last. Comparisons are those of `crossentropy bench`, whose rounds take turns.

Without --benchmark-enable every case runs once to see that it works, on as many rows as LARGEST elements hold, and what
compiles at its first call on the first case alone.
"""

import functools
import math
from statistics import median

import pytest

from crossentropy import bench

LARGEST = 2**18
pytestmark = pytest.mark.filterwarnings("default")  # what a peer warns of is not this project's


def smaller(case):
    """The case with fewer rows, where it is large."""
    shape, class_axis = list(case.shape), case.axis % len(case.shape)
    for axis in range(len(shape)):
        if axis != class_axis:
            shape[axis] = max(1, int(shape[axis] * min(1, LARGEST / math.prod(shape))))
    return case._replace(shape=tuple(shape))


# The last case's arrays are all that is kept.
problem = functools.lru_cache(maxsize=1)(bench.problem)
versions, machine = functools.cache(bench.versions), functools.cache(bench.machine)


@functools.lru_cache(maxsize=1)
def expected(case):
    """What everyone must compute."""
    return bench.expected_of(problem(case))


def pytest_generate_tests(metafunc):
    """Every implementation of every case, case by case."""
    if "implementation" not in metafunc.fixturenames:
        return
    measures = metafunc.config.option.benchmark_enable
    cases = bench.cases() if measures else list(map(smaller, bench.cases()))
    pairs = [(case, each) for case in cases for each in bench.implementations(case)[0]]
    pairs = [(case, each) for case, each in pairs if measures or not each.compiles or case == cases[0]]
    metafunc.parametrize(("case", "implementation"), pairs, ids=[f"{case}, {each}" for case, each in pairs])


def test_case(benchmark, case, implementation):
    if case.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    p, right = problem(case), expected(case)
    benchmark.group = "-".join([case.op, case.shape_text, case.dtype, case.inputs])
    benchmark.extra_info |= {"bytes": case.bytes, "ISA": implementation.isa, "threads": implementation.threads}
    benchmark.extra_info |= {"versions": versions(), "CPU": machine()["cpu"]}
    if case.has_roof and benchmark.enabled:
        stream = bench.roof(p, implementation.threads or bench.thread_counts()[-1])
        seconds = median(bench.timed(stream, warm=True)[0] for _ in range(5))
        benchmark.extra_info["roof_gb_per_s"] = bench.roof_bytes(case) / seconds / 1e9
    if p.out is not None:
        p.out.fill(math.nan)  # what the last one wrote there must not pass for this one's
    prepared = implementation.prepare(p)
    benchmark.extra_info["compile_s"] = prepared.compile_s
    try:
        bench.check(case, bench.sampled(case, *prepared.arrays(bench.timed(prepared)[1])), right)
        with prepared.settings:
            if prepared.in_place:
                benchmark.pedantic(prepared.call, setup=prepared.restore, rounds=9)
            else:
                benchmark(prepared.call)
    finally:
        prepared.close()


@pytest.mark.parametrize("kind", ["read", "copy", "combine", "scale"])
def test_roof(benchmark, kind):
    """The machine's memory by itself."""
    op = next(op for op in bench.OPS if bench.OPS[op].roof == kind)
    case = bench.Case(op, bench.VOCABULARY)
    case = case if benchmark.enabled else smaller(case)
    stream = bench.roof(problem(case), bench.thread_counts()[-1])
    benchmark.group, benchmark.extra_info["bytes"] = "roofs", bench.roof_bytes(case)
    with stream.settings:
        benchmark(stream.call)


def test_every_peer_is_here():
    lines = {line for case in bench.cases() for line in bench.implementations(case)[1] if "installed" in line}
    if lines:
        pytest.skip("; ".join(sorted(lines)))
