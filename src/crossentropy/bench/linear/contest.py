"""The rounds in which everyone takes a turn, each in a process of its own, and the document of what they found."""

from __future__ import annotations

import contextlib
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from ...native import current_threads
from ..environment import machine, versions
from ..results import WrongResultError
from ..suite import dtype_named
from .cases import Case, write
from .contenders import FLOORS, OURS, OWN, chosen
from .records import disagrees, merged, record

FEWEST, FEWEST_LONG, MOST = 3, 2, 31  # rounds
LONG = 20.0  # seconds that a round takes, so that two will do
SLOW = 2.5  # times as long as ours: one round will do, since no more digits of its time are asked for
PAUSE = 5e-2  # seconds: threads of the one before spin for a while, on a core that is the next one's
SHARED = Path("/dev/shm")  # where arrays are that all processes see; a temporary folder elsewhere


class FailedError(Exception):
    """A contender could not compute the case."""


class _Process:
    """A contender in its own process."""

    def __init__(self, case: Case, folder: Path, name: str, threads: int):
        command = [sys.executable, "-m", "crossentropy.bench.linear.worker"]
        command += [json.dumps(case), str(folder), name, str(threads)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.name, self.times, self.process = name, [], subprocess.Popen(command, **streams)

    def ask(self, what: str):
        """Its answer."""
        try:
            self.process.stdin.write(f"{what}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise FailedError("its process ends")
        found = json.loads(line)
        if "error" in found:
            raise FailedError(f"fails with {found['error'].splitlines()[0][:200]}")
        return found["answer"]

    def close(self):
        """End it."""
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # of one that has ended already
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def measure(
    case: Case,
    *,
    peers: bool = True,
    seconds: float = 3.0,
    wanted: Callable[[str], bool] = lambda text: True,
    note: Callable[[str], object] = lambda text: None,
) -> tuple[list[dict], list[str]]:
    """Time everyone on one case.

    Parameters
    ----------
    case : Case
        What to compute.
    peers, seconds, wanted, note
        As for `crossentropy.bench.measure`; there are at least 3 rounds.

    Returns
    -------
    records, left_out : list
        A record (`records.record`) for each contender, a line for each that is not here, does not serve, or fails.

    Raises
    ------
    FailedError, WrongResultError
        For this package's own.
    """
    names, left_out = chosen(case, peers)
    names = [name for name in names if wanted(f"{case}, {name}")]
    if not names:
        return [], []
    if case.dtype == "bfloat16" and dtype_named("bfloat16").kind == "u":
        return [], ["bfloat16: ml_dtypes is not installed"]
    threads = current_threads()
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None, prefix="crossentropy-") as folder:
        note("making the inputs")
        write(case, Path(folder))
        processes = [_Process(case, Path(folder), name, threads) for name in names]
        try:
            running, missing = _first_calls(case, processes, note)
            _rounds(running, seconds, note)
            memory = {each.name: each.ask("memory") for each in running}
        finally:
            for each in processes:
                each.close()
    products = min((each.times for each in running if each.name in FLOORS), key=median, default=[])
    records = [record(case, each.name, threads, each.times, products, memory[each.name]) for each in running]
    return records, left_out + missing


def _first_calls(case: Case, processes: list[_Process], note) -> tuple[list[_Process], list[str]]:
    """Those whose first call gives what ours gives (the first one's, where ours takes no part), and lines on others."""
    running, left_out, right = [], [], None
    for each in sorted(processes, key=lambda each: each.name != OURS):
        note(f"{each.name}, first call")
        try:
            found = each.ask("first")
        except FailedError as error:
            if each.name in OWN:
                raise FailedError(f"{each.name} {error} at {case}") from None
            left_out.append(f"{each.name}: {error} at {case}")
            continue
        right = right or found
        text = disagrees(case, found, right) if found else ""
        if text and each.name in OWN:
            raise WrongResultError(f"{each.name}: {text} at {case}")
        if text:
            left_out.append(f"{each.name}: {text} at {case}")
        else:
            running.append(each)
    return running, left_out


def _rounds(running: list[_Process], seconds: float, note) -> None:
    """Timings, in turns."""
    start = time.perf_counter()
    for turn in range(MOST):
        taken = time.perf_counter() - start
        if taken > seconds and turn >= (FEWEST if taken < LONG * turn else FEWEST_LONG):
            break
        ours = max((each.times[0] for each in running if turn and each.name in OWN), default=float("inf"))
        for each in running:
            if turn == 0 or each.times[0] <= SLOW * ours:
                note(f"round {turn + 1}, {each.name}")
                time.sleep(PAUSE)
                each.times.append(each.ask("time"))


def run(
    chosen_cases: list[Case],
    *,
    peers: bool = True,
    seconds: float = 3.0,
    wanted: Callable[[str], bool] = lambda text: True,
    progress: Callable[[int, int, str], object] = lambda done, total, text: None,
    after: Callable[[dict], object] = lambda document: None,
) -> dict:
    """Measure the cases, one after the other, and say on what.

    Parameters
    ----------
    chosen_cases : list of Case
        Those of `cases.cases`, or others.
    peers, seconds, wanted, progress
        As for `crossentropy.bench.run`.
    after : callable, optional
        Called with the document after each case: what is measured is not lost if the rest is not.

    Returns
    -------
    dict
        The JSON document, whose records are in ``linear``.
    """
    todo = [case for case in chosen_cases if any(wanted(f"{case}, {name}") for name in chosen(case, peers)[0])]
    document = {
        "machine": machine(),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "records": [],
        "linear": [],
        "left_out": [],
    }
    for done, case in enumerate(todo):
        note = lambda text, done=done, case=case: progress(done, len(todo), f"{case}: {text}")  # noqa: E731
        found, missing = measure(case, peers=peers, seconds=seconds, wanted=wanted, note=note)
        document["linear"] = merged(document["linear"], found)
        document["left_out"] += [line for line in missing if line not in document["left_out"]]
        after(document)
    progress(len(todo), len(todo), "done")
    return document
