"""The rounds in which everyone takes a turn on a case's arrays, and the document of what they found."""

from __future__ import annotations

import datetime
import time
from statistics import median

import numpy as np

from .contenders import OURS, OWN, Implementation, expected_of, implementations, roof, roof_bytes, thread_counts
from .environment import machine, versions
from .prepared import Prepared
from .results import WrongResultError, check, described, sampled, six_digits
from .suite import OPS, Case, dtype_named, problem

FEWEST, FEWEST_SLOW, MOST = 7, 3, 51  # rounds
SLOW = 1.0  # seconds a call
# Seconds of rounds, and as many times what was asked for, after which FEWEST_SLOW must do: where other programs compute
# at once, a call of microseconds whose threads wait for one another takes a time slice of the system's.
PATIENCE = 5.0
SHORTEST = 2e-3  # seconds a timing: shorter calls are repeated
# Seconds. Calls that take less are made once more before each timing, because the first call after the pause finds
# sleeping threads and a slow clock, and one that makes a new array may find that a virtual machine gave its pages back.
WARM_BELOW = 0.5
PAUSE = 5e-3  # OpenMP's threads spin for some milliseconds after a call, on a core that is the next one's


def timed(prepared: Prepared, number: int = 1, *, warm: bool = False) -> tuple[float, object]:
    """Seconds a call, and the last result, kept so that freeing it is not timed; ``warm``: as many calls go before."""
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


class Runner:
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
        """One timing, and just before it one of the roof."""
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

    roofs = {n: Runner(roof(p, n)) for n in thread_counts()} if case.has_roof else {}
    for each in roofs.values():
        each.warm_up()
    runners, wrong = {}, set()
    for each in chosen:
        note(f"{each}, first call")
        if p.out is not None:
            p.out.fill(np.nan)  # what the last one wrote there must not pass for the next one's
        try:
            runner = Runner(each.prepare(p), roofs.get(each.threads or thread_counts()[-1]))
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
        elapsed = time.perf_counter() - start
        if elapsed > seconds and (turn >= FEWEST or (turn >= FEWEST_SLOW and elapsed > PATIENCE * max(seconds, 1))):
            break
        note(f"round {turn + 1}")
        for runner in runners.values():
            runner.take_turn()
    for runner in runners.values():
        runner.prepared.close()
    return [record_of(case, each, runner) for each, runner in runners.items()], left_out


def record_of(case: Case, implementation: Implementation, runner: Runner) -> dict:
    """What is written down of an implementation's rounds."""
    seconds, rounds = median(runner.times), len(runner.times)
    rate = case.bytes / seconds / 1e9
    record = {
        **described(case),
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
    return {name: six_digits(value) for name, value in record.items()}


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
