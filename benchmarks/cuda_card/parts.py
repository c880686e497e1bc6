"""The parts of a run, each a process of its own: a fault on the card, which spoils a process, ends one part alone."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lines

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def environment() -> dict[str, str]:
    """That of every part: the checkout is imported, and its host side needs no native extension."""
    found = dict(os.environ, PYTHONUNBUFFERED="1", NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS="0")
    before = [found["PYTHONPATH"]] if found.get("PYTHONPATH") else []
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), *before])
    if not list((ROOT / "src" / "crossentropy").glob("_native*.so")):
        found.setdefault("CROSSENTROPY_BACKEND", "reference")
    return found


class Part:
    """A script of this folder, running; its lines are printed as they come, its records kept."""

    def __init__(self, name, script, *arguments, **variables):
        self.name, self.records, self.ended, self.closed = name, [], "", False
        self.seconds, self._last, self._start = 0.0, "", time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=environment() | variables, cwd=HERE, text=True, errors="replace", start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._process.stdout:
            line = line.rstrip()
            if line.startswith(lines.MARK):
                self.records.append(json.loads(line[1:]))
            elif line:
                self._last = line
                print(f"[{self.name}] {line}", flush=True)
        self.seconds = round(time.monotonic() - self._start, 1)

    def of_kind(self, kind):
        """Its records of a kind."""
        return [{k: v for k, v in r.items() if k != "kind"} for r in list(self.records) if r["kind"] == kind]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether it waits for the order to go, or needs none any more."""
        return bool(self.of_kind("ready")) or not self.running

    def tell(self, order):
        """Give an order; one that has ended hears none."""
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{order}\n")
            self._process.stdin.flush()

    def finish(self, seconds) -> str:
        """Wait for it, and end it and what it started after so many seconds; why it ended otherwise than well."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            self.ended = "its time was up"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # compilers that it started too
        code = self._process.wait()
        self._reader.join(5)
        self.closed = True
        if not self.ended and code:
            last = self._last.replace(str(ROOT), "").replace(sys.prefix, "")  # a document names no path
            self.ended = f"it ended with {code}: {last[:300]}"
        return self.ended
