"""What ``crossentropy evaluate LOGITS TARGETS`` does: blocks of rows, by threads or Dask, to go on where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import Evaluation, EvaluationResult
from .inputs import BadInput
from .logit_files import Rows, open_rows, rows_at_once
from .outputs import aside, say
from .source import BadData

SAVE_EVERY = 15.0  # seconds
TARGETS_AT_ONCE = 1 << 20
MOST_CLASSES = 40  # of a table in a terminal


class Work(NamedTuple):
    """Logits and targets in files, in blocks of so many rows, and the options of their evaluation."""

    logits: Rows
    targets: Rows
    step: int
    options: dict[str, Any]

    @property
    def blocks(self) -> int:
        """How many there are."""
        return -(-self.logits.shape[0] // self.step)

    def evaluated(self, block: int) -> Evaluation:
        """The evaluation of one of them."""
        rows = block * self.step, min((block + 1) * self.step, self.logits.shape[0])
        return Evaluation(**self.options).update(self.logits.read(*rows), self.targets.read(*rows))


def checked_work(logits: str, targets: str, options: dict[str, Any]) -> Work:
    """The files, whose shapes and dtypes go together, and whose targets are all classes: told before time is spent."""
    x, y = open_rows(logits, "logits"), open_rows(targets, "targets")
    if len(x.shape) < 2:
        raise BadData(f"{logits}: logits must have shape (..., C), got {x.shape}")
    if y.shape != x.shape[:-1]:
        raise BadData(
            f"{targets}: targets must have the shape of logits without the classes, {x.shape[:-1]}, got {y.shape}"
        )
    if y.dtype.kind not in "iu":
        raise BadData(f"{targets}: targets must be integers, classes from 0 on, got {y.dtype}")
    try:
        Evaluation(**options).update(np.empty((0, x.shape[-1]), x.dtype), np.empty(0, y.dtype))
    except TypeError as error:
        raise BadData(f"{logits}: {error}") from None
    except ValueError as error:
        raise BadInput(str(error)) from None
    _check_targets(targets, y, x.shape[-1], options.get("ignore_index"))
    return Work(x, y, rows_at_once(x), options)


def _check_targets(path: str, y: Rows, classes: int, ignored: int | None) -> None:
    step = max(1, TARGETS_AT_ONCE // max(int(np.prod(y.shape[1:])), 1))
    for first in range(0, y.shape[0], step):
        some = y.read(first, min(first + step, y.shape[0]))
        bad = (some < 0) | (some >= classes)
        if ignored is not None:
            bad &= some != ignored
        if bad.any():
            at = np.argwhere(bad)[0]
            place = ", ".join(map(str, (first + int(at[0]), *map(int, at[1:]))))
            way = "" if ignored is not None else "; --ignore-index leaves rows of one number out"
            raise BadData(f"{path}: targets[{place}] = {some[tuple(at)]} is not in [0, {classes}){way}")


# ---------------------------------------------------------------------- what has been done so far


class Progress:
    """What is evaluated, and of which blocks; in a file, where one is named, so that it outlives the process."""

    def __init__(self, work: Work, path: Path | None, sources: tuple[str, str]):
        self.work, self.path = work, path
        self.evaluation = Evaluation(**work.options)
        self.evaluation.update(np.empty((0, work.logits.shape[-1]), work.logits.dtype), np.empty(0, work.targets.dtype))
        self.done = np.zeros(work.blocks, bool)
        self.about = json.dumps(_identity(work, sources), sort_keys=True)
        self.resumed = 0
        if path is not None and path.exists():
            self._load()

    @property
    def rows(self) -> int:
        """How many indices of the first axis are done."""
        n, step = self.work.logits.shape[0], self.work.step
        done = int(self.done.sum()) * step
        return done - (step * self.done.size - n) if self.done.size and self.done[-1] else done

    def add(self, block: int, found: Evaluation) -> None:
        """Take in a block."""
        self.evaluation.merge_state(found)
        self.done[block] = True

    def _load(self) -> None:
        try:
            with np.load(self.path) as held:
                about, done = str(held["about"]), held["done"]
                state = {name.removeprefix("of_"): held[name] for name in held.files if name.startswith("of_")}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise BadInput(f"--state {self.path}: it holds no state of an evaluation: {error}") from None
        if about != self.about:
            mine, its = json.loads(self.about), json.loads(about)
            other = ", ".join(name for name in mine if mine[name] != its.get(name))
            raise BadInput(
                f"--state {self.path}: it belongs to an evaluation with other {other}: name another file, or remove it"
            )
        self.evaluation.load_state_dict(state)
        self.done = done
        self.resumed = self.rows

    def save(self) -> None:
        """Write it beside the file, and then in its place."""
        if self.path is None:
            return
        state = {f"of_{name}": value for name, value in self.evaluation.state_dict().items()}
        try:
            with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}-", delete=False) as file:
                try:
                    np.savez(file, about=self.about, done=self.done, **state)
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()
                    os.replace(file.name, self.path)
                except BaseException:
                    os.unlink(file.name)
                    raise
        except OSError as error:
            raise BadInput(f"--state {self.path}: {error.strerror or error}") from None


def _identity(work: Work, sources: tuple[str, str]) -> dict[str, Any]:
    """What a state must have in common with what is to go on from it."""
    found: dict[str, Any] = {"options": {name: repr(value) for name, value in work.options.items()}, "block": work.step}
    for name, path, rows in zip(("logits", "targets"), sources, (work.logits, work.targets), strict=True):
        files = sorted(Path(path).glob("*")) if Path(path).is_dir() else [Path(path)]
        found[name] = [os.path.abspath(path), list(rows.shape), str(rows.dtype)]
        found[f"files of {name}"] = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return found


# ---------------------------------------------------------------------- engines


class Stopped(Exception):
    """Ctrl-C, or SIGTERM: between two blocks, so that each is counted once or not at all."""

    def __init__(self, number: int):
        self.number = number


@contextlib.contextmanager
def stopping() -> Iterator[Callable[[], None]]:
    """Yields a function that raises where the process has been asked to stop; asked twice, it stops at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    def look() -> None:
        if asked:
            raise Stopped(asked[0])

    if threading.current_thread() is not threading.main_thread():
        yield look
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield look
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopped_first(look: Callable[[], None]) -> Iterator[None]:
    """What fails after the process was asked to stop fails for that: workers, too, get the Ctrl-C of a terminal."""
    try:
        yield
    except Exception:
        look()
        raise


def by_threads(work: Work, todo: list[int]) -> Iterator[tuple[int, Evaluation]]:
    """One block after the other, each by all threads."""
    for block in todo:
        yield block, work.evaluated(block)


def by_dask(work: Work, todo: list[int], address: str) -> Iterator[tuple[int, Evaluation]]:
    """All blocks as tasks of a Dask cluster, which is started here where no address is given; in any order."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ModuleNotFoundError:
        raise BadInput("--engine dask needs Dask: python -m pip install 'crossentropy[dask]'") from None
    with contextlib.ExitStack() as stack:
        if not address:
            address = stack.enter_context(LocalCluster(threads_per_worker=1, dashboard_address=None))
        try:
            client = stack.enter_context(Client(address, timeout="20s"))
        except (OSError, ValueError) as error:
            raise BadInput(f"--engine dask:{address}: {error}") from None
        settled = client.scatter(work, broadcast=True)
        futures = {client.submit(_evaluated, settled, block, pure=False): block for block in todo}
        waiting = as_completed(list(futures), with_results=False)
        while futures:
            try:
                future = waiting.next_batch(block=False) or [next(waiting)]
            except StopIteration:
                break
            for each in future:
                yield futures.pop(each), each.result()


def _evaluated(work: Work, block: int) -> Evaluation:
    from .. import config

    with config(threads=1):
        return work.evaluated(block)


@contextlib.contextmanager
def shown(work: Work, first: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, of rows and of the rate at which they are read: yields a function that moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    each = int(np.prod(work.logits.shape[1:])) * work.logits.dtype.itemsize
    columns = (
        TextColumn("evaluating"),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=aside, transient=True, disable=not aside.is_terminal) as bar:
        task = bar.add_task("", total=work.logits.shape[0], completed=first, rate="")

        def move(rows: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=rows, rate=f"{speed * each / 1e9:.2f} GB/s" if speed else "")

        yield move


def complete(work: Work, progress: Progress, engine: str, address: str) -> None:
    """Evaluate what is left; what is done is saved now and then, and when Ctrl-C ends it."""
    todo = np.flatnonzero(~progress.done).tolist()
    if not todo:
        return
    with stopping() as look, shown(work, progress.rows) as move:
        found = by_threads(work, todo) if engine == "threads" else by_dask(work, todo, address)
        saved = time.monotonic()
        try:
            with stopped_first(look), contextlib.closing(found):
                look()
                for block, evaluation in found:
                    progress.add(block, evaluation)
                    move(progress.rows)
                    look()
                    if time.monotonic() - saved > SAVE_EVERY:
                        progress.save()
                        saved = time.monotonic()
        except Stopped as stopped:
            progress.save()
            rows = f"stopped after {progress.rows} of {work.logits.shape[0]} rows"
            way = f"; --state {progress.path} goes on from there" if progress.path else "; --state FILE would keep them"
            say(rows + way, to=aside)
            raise SystemExit(128 + stopped.number) from None
        progress.save()


def tables(found: EvaluationResult, title: str) -> Iterator[Any]:
    """What a terminal shows: the scores, and of up to so many classes their counts."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    style = {"title_justify": "left", "box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False}
    scores = Table(title=Text(title), **style)
    scores.add_column("score")
    scores.add_column("value", justify="right")
    for name, value in found.lines():
        scores.add_row(name, value)
    yield scores
    if len(found.p) > MOST_CLASSES:
        return
    yield ""
    classes = Table(**style)
    for name in ("class", "k_c", "predicted", "right", "precision", "recall", "p_c", "p̂_c"):
        classes.add_column(name, justify="right")
    counts = found.class_counts, found.predicted_counts, found.right_counts
    for c, (true, predicted, right) in enumerate(zip(*(a.tolist() for a in counts), strict=True)):
        rates = [f"{right / of:.3f}" if of else "–" for of in (predicted, true)]
        classes.add_row(str(c), str(true), str(predicted), str(right), *rates, f"{found.p[c]:.4f}", f"{found.q[c]:.4f}")
    yield classes
