"""What is measured, and how: cases, roofs, runner. ``crossentropy bench`` and ``benchmarks/`` run these very cases.

A figure is a median over rounds in which every implementation and the machine's own memory (``native.stream``) take
turns on the same buffers; it is given in bytes that must move over time, as a fraction of what that memory did in the
same rounds. The bytes are those of an ideal kernel, for everyone: what reads its logits three times shows it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import math
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from .. import __version__, backends, config, cross_entropy, cross_entropy_and_grad, log_softmax, native
from . import peers as _peers


class Op(NamedTuple):
    """How often an operation must pass over memory as large as the logits, and the stream that does just that."""

    passes: int
    roof: str


OPS = {
    "loss": Op(1, "read"),  # reads the logits
    "loss + gradient": Op(2, "copy"),  # reads the logits, writes the gradient
    "loss + gradient in place": Op(2, "scale"),  # writes it where the logits were
    "log-softmax": Op(2, "copy"),  # reads the logits, writes as many
    "probability targets": Op(3, "combine"),  # loss + gradient; reads logits and targets, writes the gradient
}

SHAPES = {
    (32, 10): "what a call costs",
    (1048576, 10): "digits: few classes",
    (65536, 1000): "the head of an ImageNet classifier",
    (4096, 32000): "the vocabulary of Llama 2",
    (2048, 50257): "of GPT-2, which is odd",
    (1024, 128256): "of Llama 3",
    (512, 256000): "of Gemma",
    (8, 21, 512, 512): "segmentation: the class axis is not last",
}
LARGE = [(65536, 1000), (4096, 32000), (2048, 50257), (1024, 128256)]
VOCABULARY = (4096, 32000)  # where dtypes and inputs are compared
QUICK = [(32, 10), (65536, 100), (256, 32000)]  # the last two: 26 and 33 MB

# No trick may hold for one distribution only.
INPUTS = {
    "normal": "standard normals",
    "far": "−100 + 3 · normals",
    "masked": "normals, every tenth class −inf",
    "wide": "uniform in ±80",
    "led": "normals, the target 20 ahead of every class",
}


class Case(NamedTuple):
    """One thing to compute, whoever does it."""

    op: str
    shape: tuple[int, ...]
    axis: int = -1
    dtype: str = "float32"
    inputs: str = "normal"

    @property
    def classes(self) -> int:
        """Along the class axis."""
        return self.shape[self.axis]

    @property
    def elements(self) -> int:
        """Of the logits."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """That must move."""
        return OPS[self.op].passes * self.elements * dtype_named(self.dtype).itemsize

    @property
    def has_roof(self) -> bool:
        """Whether memory limits it, and not the call."""
        return self.elements * dtype_named(self.dtype).itemsize >= 16 * native.STREAM_ROW

    @property
    def shape_text(self) -> str:
        """As in the tables."""
        return " x ".join(map(str, self.shape)) + (f", class axis {self.axis}" if self.axis != -1 else "")

    def __str__(self):
        return f"{self.op}, {self.shape_text}, {self.dtype}, {self.inputs}"


def _case(op, shape, **rest):
    return Case(op, shape, axis=1 if len(shape) == 4 else -1, **rest)


def cases(quick: bool = False) -> list[Case]:
    """Every case; with ``quick`` a few on arrays that take no time to make, and which a large cache holds in part."""
    both = ["loss", "loss + gradient"]
    if quick:
        return [_case(op, shape) for shape in QUICK for op in both] + [_case(op, QUICK[-1]) for op in list(OPS)[2:]]
    found = [_case(op, shape) for shape in SHAPES for op in both]
    found += [_case(op, shape) for shape in LARGE for op in ("loss + gradient in place", "log-softmax")]
    found += [_case("probability targets", VOCABULARY)]
    found += [_case(op, VOCABULARY, dtype=dtype) for dtype in ("bfloat16", "float16", "float64") for op in both]
    found += [_case(op, VOCABULARY, inputs=inputs) for inputs in list(INPUTS)[1:] for op in both]
    return found


# ---------------------------------------------------------------------- a case's arrays


def dtype_named(name: str) -> np.dtype:
    """The NumPy dtype; bfloat16 is that of ml_dtypes, and 2 bytes of anything where that is missing."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        return np.dtype(np.uint16)
    return np.dtype(ml_dtypes.bfloat16)


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An uninitialised array at a multiple of 64 bytes, for the streams: NumPy's large ones lie 16 past one."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


class Problem(NamedTuple):
    """A case's arrays."""

    case: Case
    x: np.ndarray  # the logits
    targets: np.ndarray  # int64 classes; for 'probability targets' float32 of x's shape
    out: np.ndarray | None  # of x's shape and dtype, None where nothing of that size is computed


def problem(case: Case) -> Problem:
    """The same numbers for every implementation and in every run."""
    rng = np.random.default_rng(0)
    x = aligned(case.shape, dtype_named(case.dtype))
    exact = np.float64 if case.dtype == "float64" else np.float32
    if case.inputs == "wide":
        x[...] = rng.random(case.shape, exact) * 160 - 80
    else:
        x[...] = rng.standard_normal(case.shape, exact)
    rows = np.moveaxis(x, case.axis, -1)
    if case.op == "probability targets":
        targets = aligned(case.shape, np.float32)
        targets[...] = rng.random(case.shape, np.float32)
        targets /= targets.sum(axis=case.axis, keepdims=True)
    else:
        targets = rng.integers(0, case.classes, rows.shape[:-1])
    if case.inputs == "far":
        x *= 3
        x -= 100
    elif case.inputs == "masked":
        rows[..., ::10] = -np.inf
        targets[targets % 10 == 0] += 1  # a masked target's loss is inf
        targets[targets == case.classes] -= 2
    elif case.inputs == "led":
        np.put_along_axis(rows, targets[..., None], rows.max(axis=-1, keepdims=True) + 20, -1)
    out = None if case.op == "loss" else aligned(case.shape, x.dtype)
    if out is not None:
        out[...] = x  # in place the logits are these; and no page is touched first within a timing
    return Problem(case, x, targets, out)


# ---------------------------------------------------------------------- who computes it


class Implementation(NamedTuple):
    """Somebody who computes a case, with settings; ``prepare`` gives what is timed (_peers.Prepared) for a problem."""

    name: str
    prepare: Callable[[Problem], _peers.Prepared]
    threads: int | None = None  # None: it decides itself
    isa: str | None = None
    compiles: bool = False

    def __str__(self):
        settings = [self.isa, f"threads {self.threads}" if self.threads else None]
        return ", ".join([self.name, *filter(None, settings)])


OURS = "crossentropy"
ALLOCATING = "crossentropy, no out"
NUMBA = "crossentropy, Numba"
DROP_IN = "crossentropy.torch"  # forward and backward by PyTorch's autograd, each time with a new gradient
OWN = (OURS, ALLOCATING, NUMBA, DROP_IN)


def _ours(isa, threads, name=OURS):
    def prepare(p):
        x, y, out = p.x, p.targets, None if name == ALLOCATING else p.out
        settings = config(backend="numba" if name == NUMBA else "native", isa=isa, threads=threads)
        if p.case.op == "loss":
            return _peers.Prepared(lambda: cross_entropy(x, y, axis=p.case.axis), _peers.loss_alone, settings)
        if p.case.op == "log-softmax":
            return _peers.Prepared(lambda: log_softmax(x, p.case.axis, out=out), _peers.array_alone, settings)
        if p.case.op == "loss + gradient in place":
            call = lambda: cross_entropy_and_grad(out, y, axis=p.case.axis, out=out)  # noqa: E731
            return _peers.Prepared(call, tuple, settings, restore=lambda: np.copyto(out, x))
        return _peers.Prepared(lambda: cross_entropy_and_grad(x, y, axis=p.case.axis, out=out), tuple, settings)

    return Implementation(name, prepare, threads, isa)


def thread_counts() -> list[int]:
    """1 and all."""
    return sorted({1, native.current_threads()})


def implementations(case: Case, peers: bool = True) -> tuple[list[Implementation], list[str]]:
    """Who computes the case here; and for everyone who does not, a line that says why."""
    found = [_ours(isa, threads) for isa in native.SUPPORTED_ISAS for threads in thread_counts()]
    if case.op not in ("loss", "loss + gradient in place"):  # for the peers, which make a new array at each call
        found.append(_ours(native.SUPPORTED_ISAS[0], thread_counts()[-1], ALLOCATING))
    left_out = []
    numba = next(each for each in backends() if each.name == "numba")
    if numba.available:
        found += [_ours(None, threads, NUMBA) for threads in thread_counts()]
    else:
        left_out.append(f"{NUMBA}: {numba.reason}")
    if case.op == "loss + gradient" and importlib.util.find_spec("torch"):
        for threads in thread_counts():
            prepare = lambda p, threads=threads: _peers.drop_in(p, threads)  # noqa: E731
            found.append(Implementation(DROP_IN, prepare, threads, native.SUPPORTED_ISAS[0]))
    for name, peer in _peers.PEERS.items() if peers else ():
        reason = _peers.why_not(peer, case)
        if reason:
            left_out.append(f"{name}: {reason}")
            continue
        for threads in thread_counts() if peer.takes_threads else [None]:
            prepare = lambda p, peer=peer, threads=threads: peer.prepare(p, threads)  # noqa: E731
            found.append(Implementation(name, prepare, threads, compiles=peer.compiles))
    return found, left_out


def roof(p: Problem, threads: int) -> _peers.Prepared:
    """The stream that moves the problem's memory as the operation must, on the same buffers."""

    def flat(a):
        of = a.reshape(-1).view(np.uint8)
        return of[: of.size - of.size % (4 * native.STREAM_ROW)].view(np.float32)

    kind = OPS[p.case.op].roof
    arrays = {"read": {"x": p.x}, "copy": {"x": p.x, "out": p.out}, "scale": {"x": p.out}}
    arrays["combine"] = {"x": p.x, "q": p.targets, "out": p.out}
    given = {name: flat(a) for name, a in arrays[kind].items()}
    settings = config(backend="native", isa=native.SUPPORTED_ISAS[0], threads=threads)
    return _peers.Prepared(lambda: native.stream(kind, **given), None, settings)


def roof_bytes(case: Case) -> int:
    """What that stream moves: a remainder below one of its rows is left out."""
    size = case.elements * dtype_named(case.dtype).itemsize
    return OPS[case.op].passes * (size - size % (4 * native.STREAM_ROW))


# ---------------------------------------------------------------------- the runner

FEWEST, FEWEST_SLOW, MOST = 7, 3, 51  # rounds
SLOW = 1.0  # seconds a call
SHORTEST = 2e-3  # seconds a timing: shorter calls are repeated
# Seconds: what comes after the pause finds sleeping threads and a slow clock (0.1 ms took 1), and what makes a new
# array may find pages that a virtual machine gave back meanwhile (a gradient of 524 MB took 60 ms, and up to 660).
WARM_BELOW = 0.5
PAUSE = 5e-3  # OpenMP's threads spin for some milliseconds after a call, on a core that is the next one's


class WrongResultError(Exception):
    """An implementation does not compute what the case says."""


def timed(prepared: _peers.Prepared, number: int = 1, *, warm: bool = False) -> tuple[float, object]:
    """Seconds a call, and the last result, which so is not freed on the clock; ``warm``: as many calls go before."""
    time.sleep(PAUSE)
    with prepared.settings:
        for _ in range(number if warm else 0):
            prepared.restore()
            prepared.call()
        prepared.restore()
        start = time.perf_counter()
        for _ in range(number):
            result = prepared.call()
        return (time.perf_counter() - start) / number, result


def sampled(case: Case, loss, array) -> tuple:
    """The loss and the first and the last row, for `check`; None and nothing where the operation has no such."""
    rows = None if array is None else np.moveaxis(np.asarray(array), case.axis, -1)
    ends = [] if rows is None else [rows[(end,) * (rows.ndim - 1)].astype(np.float64) for end in (0, -1)]
    return None if loss is None else float(loss), ends


def expected_of(p: Problem) -> tuple:
    """What everyone must compute, as `sampled` has it."""
    return sampled(p.case, *_peers.result_of(_ours(native.SUPPORTED_ISAS[0], thread_counts()[-1]).prepare(p)))


def check(case: Case, found: tuple, expected: tuple) -> None:
    """Raise unless two results, as `sampled` has them, agree as loosely as arithmetic in the logits' type allows."""
    tolerance = 2e-2 if dtype_named(case.dtype).itemsize == 2 else 1e-3
    (loss, ends), (right_loss, right_ends) = found, expected
    if right_loss is not None and not abs(loss - right_loss) <= tolerance * max(1, abs(right_loss)):
        raise WrongResultError(f"its loss is {loss}, not {right_loss}")
    unit = 1.0 if case.op == "log-softmax" else case.classes / case.elements  # of a mean's gradient
    for end, right in zip(ends, right_ends, strict=True):
        worst = np.abs(end - right).max()
        if not worst <= tolerance * max(unit, np.abs(right).max()):
            raise WrongResultError(f"its result differs by {worst:.2g}")


class _Runner:
    """One implementation or roof in the rounds of a case."""

    def __init__(self, prepared, roof=None):
        self.prepared, self.times, self.number = prepared, [], 1
        self.roof, self.roof_times = roof, []  # taken just before each: memory may run at half its speed for minutes

    def warm_up(self):
        """Calls that say how many of them make a timing; the result of the first."""
        _, result = timed(self.prepared)
        seconds, _ = timed(self.prepared)
        self.slow, self.warm = seconds > SLOW, seconds < WARM_BELOW
        while self.warm and not self.prepared.in_place:
            seconds, _ = timed(self.prepared, self.number, warm=True)
            if seconds * self.number >= SHORTEST:
                break
            self.number *= 2
        return result

    def take_turn(self):
        if not self.slow or len(self.times) < FEWEST_SLOW:
            if self.roof:
                self.roof.take_turn()
                self.roof_times.append(self.roof.times[-1])
            self.times.append(timed(self.prepared, self.number, warm=self.warm)[0])


def measure(
    case: Case, *, peers: bool = True, seconds: float = 3.0, wanted=lambda text: True, note=lambda text: None
) -> tuple[list[dict], list[str]]:
    """Time everyone on one case.

    Parameters
    ----------
    case : Case
        What to compute.
    peers : bool, default True
        Other libraries too.
    seconds : float, default 3.0
        After which no further round begins, once there are enough (7; 3 of calls that take over a second).
    wanted : callable, optional
        Of ``f"{case}, {implementation}"``; False leaves it out.
    note : callable, optional
        Called with a text for each thing that is done.

    Returns
    -------
    records : list of dict
        One for each implementation, as in the JSON document.
    left_out : list of str
        A line for each peer that is not there, does not serve, or failed.

    Raises
    ------
    WrongResultError
        Where some peer's result is another than this package's and none agrees: whose is wrong is not known then.
    """
    chosen, left_out = implementations(case, peers)
    chosen = [each for each in chosen if wanted(f"{case}, {each}")]
    if not chosen:
        return [], []
    if case.dtype == "bfloat16" and dtype_named("bfloat16").kind == "u":
        return [], ["bfloat16: ml_dtypes is not installed"]
    note("making the inputs")
    p = problem(case)
    expected = expected_of(p)

    roofs = {n: _Runner(roof(p, n)) for n in thread_counts()} if case.has_roof else {}
    for each in roofs.values():
        each.warm_up()
    runners, wrong = {}, set()
    for each in chosen:
        note(f"{each}, first call")
        if p.out is not None:
            p.out.fill(np.nan)  # what the last one wrote there must not pass for the next one's
        try:
            runner = _Runner(each.prepare(p), roofs.get(each.threads or thread_counts()[-1]))
            check(case, sampled(case, *runner.prepared.arrays(runner.warm_up())), expected)
            runners[each] = runner
        except Exception as error:  # whatever a compiler driver or a library raises: the others are timed
            if each.name in OWN:
                raise
            is_wrong = isinstance(error, WrongResultError)
            what = str(error) if is_wrong else f"fails with {type(error).__name__}"
            if is_wrong:
                wrong.add(f"{each.name}: {what}")
            left_out.append(f"{each.name}: {what} at {case}")
    left_out = list(dict.fromkeys(left_out))  # once, not for each number of threads
    if wrong and all(each.name in OWN for each in runners):
        raise WrongResultError(f"no peer agrees with {OURS} at {case}: {'; '.join(sorted(wrong))}")

    start = time.perf_counter()
    for turn in range(MOST):
        if turn >= FEWEST and time.perf_counter() - start > seconds:
            break
        note(f"round {turn + 1}")
        for runner in runners.values():
            runner.take_turn()
    for runner in runners.values():
        runner.prepared.close()
    return [_record(case, each, runner) for each, runner in runners.items()], left_out


def _record(case, implementation, runner):
    seconds, rounds = median(runner.times), len(runner.times)
    rate = case.bytes / seconds / 1e9
    record = {
        "op": case.op,
        "shape": list(case.shape),
        "axis": case.axis,
        "dtype": case.dtype,
        "inputs": case.inputs,
        "implementation": implementation.name,
        "isa": implementation.isa,
        "threads": implementation.threads,
        "median_s": seconds,
        "rounds": rounds,
        "bytes": case.bytes,
        "gb_per_s": rate,
        "roof": None,  # where the call is what costs
        "roof_gb_per_s": None,
        "roof_fraction": None,
        "compile_s": runner.prepared.compile_s,
    }
    if runner.roof:
        limit = roof_bytes(case) / median(runner.roof_times) / 1e9
        quotients = [roof / own for roof, own in zip(runner.roof_times, runner.times, strict=True)]
        fraction = median(quotients) * case.bytes / roof_bytes(case)
        record |= {"roof": OPS[case.op].roof, "roof_gb_per_s": limit, "roof_fraction": fraction}
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in record.items()}


def by_case(records: list[dict]) -> dict[Case, list[dict]]:
    """The records of each case."""
    found = {}
    for r in records:
        found.setdefault(Case(r["op"], tuple(r["shape"]), r["axis"], r["dtype"], r["inputs"]), []).append(r)
    return found


def best(records: list[dict], **fields) -> dict | None:
    """The fastest of those records whose fields are these, over the numbers of threads; None where there is none."""
    those = [r for r in records if all(r[name] == value for name, value in fields.items())]
    return min(those, key=lambda r: r["median_s"], default=None)


def to_json(document: dict) -> str:
    """The document of `run` as text, a record a line."""
    head = json.dumps({name: value for name, value in document.items() if name != "records"}, indent=1)
    records = ",\n  ".join(json.dumps(record) for record in document["records"])
    return f'{head[:-2]},\n "records": [\n  {records}\n ]\n}}\n'


def run(
    chosen: list[Case],
    *,
    peers: bool = True,
    seconds: float = 3.0,
    wanted=lambda text: True,
    progress=lambda done, total, text: None,
) -> dict:
    """Measure the cases, one after the other, and say on what.

    Parameters
    ----------
    chosen : list of Case
        Those of `cases`, or others.
    peers, seconds, wanted
        As for `measure`.
    progress : callable, optional
        Called with the cases done, their number, and what is being done.

    Returns
    -------
    dict
        The JSON document: machine, versions, date, records, left_out. It names no host and no path.
    """
    chosen = [case for case in chosen if any(wanted(f"{case}, {each}") for each in implementations(case, peers)[0])]
    records, left_out = [], []
    for done, case in enumerate(chosen):
        note = lambda text, done=done, case=case: progress(done, len(chosen), f"{case}: {text}")  # noqa: E731
        found, missing = measure(case, peers=peers, seconds=seconds, wanted=wanted, note=note)
        records += found
        left_out += [line for line in missing if line not in left_out]
    progress(len(chosen), len(chosen), "done")
    return {
        "machine": machine(),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "records": records,
        "left_out": left_out,
    }


# ---------------------------------------------------------------------- what it ran on


def machine() -> dict:
    """CPU, cores, caches and system, as the system names them."""
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size
    return {
        "cpu": named[1] if named else platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "threads": thread_counts()[-1],
        "isas": list(native.SUPPORTED_ISAS),
        "caches": caches,
        "system": platform.system(),
    }


def versions() -> dict:
    """Of Python, of this package, and of the libraries it is measured with, where they are installed."""
    found = {"crossentropy": __version__, "Python": platform.python_version()}
    for name in ("numpy", "numba", "torch", "jax", "optax", "scipy", "scikit-learn"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
