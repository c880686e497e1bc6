"""The command: which parts run when, and the document of what they found.

First what decides, with nobody else on the card: whether a few kernels load and are right, and how long they take next
to the card's memory and PyTorch. Then all checks at once, while the parts that time something make their first calls;
then those one by one. The whole has a limit, and what no longer fits is left out and named.
"""

import argparse
import datetime
import os
import subprocess
import tempfile
import time
from pathlib import Path

import document
from parts import ROOT, Part

from crossentropy.bench import to_json

RESULTS = ROOT / "benchmarks" / "results"
DTYPES = ("bfloat16", "float32")  # that are timed
REGIME_DTYPES = ("bfloat16", "float32", "float16", "float64")
STAGES = ("first", "conformance", "regimes", "targets", "sanitizers", "host", "speed")
MOST_SHARES = 8  # of the conformance suite: as many groups as compile apart
FIRST_CALLS_SECONDS, FIRST_SECONDS = 60.0, 12.0  # that what decides takes at most, until it is timed and then
HOST_SECONDS, HOLD_SECONDS, START_SECONDS, WIND_UP = 30.0, 45.0, 20.0, 12.0
FIRST_SHARE = 0.55  # of the time that is left, for the first dtype of those that follow


def arguments(given=None):
    parser = argparse.ArgumentParser(
        description="All that is to be run on a machine with an NVIDIA card: checks, times, a JSON document of them."
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="the document (benchmarks/results/CARD.json)")
    parser.add_argument("--seconds", type=float, default=450, help="that the whole takes at most (450)")
    parser.add_argument("--check-seconds", type=float, default=170, help="that the checks take of them at most (170)")
    parser.add_argument(
        "--skip", nargs="+", default=[], choices=STAGES, metavar="STAGE", help=f"of {', '.join(STAGES)}"
    )
    parser.add_argument("--commit", help="to be written down, where there is no git")
    parser.add_argument("--rehearse", action="store_true", help="without a card: what of this can run without one")
    found = parser.parse_args(given)
    if found.rehearse and found.json and found.json.resolve().is_relative_to(RESULTS):
        parser.error("what a rehearsal finds is no result")
    return found


def git(*words) -> str:
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def commit():
    """The commit of the checkout, '+' where files are changed; None without git."""
    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def check_parts(skip, seconds, rehearse):
    """The checks, started: (stage, part). A rehearsal has a few of those that the simulator can run."""
    simulator = {"NUMBA_ENABLE_CUDASIM": "1", "CROSSENTROPY_BACKEND": "reference"} if rehearse else {}
    if "targets" not in skip:
        yield "targets", Part("targets", "bad_targets.py", *(["--rehearse"] if rehearse else []), **simulator)
    if "conformance" not in skip:
        shares = 2 if rehearse else max(1, min(MOST_SHARES, (os.cpu_count() or 1) // 2))
        for share in range(shares):
            given = [share, shares, seconds - START_SECONDS, *([3] if rehearse else [])]
            yield "conformance", Part(f"conformance {share + 1}/{shares}", "conformance.py", *given, **simulator)
    if rehearse:
        return
    if "regimes" not in skip:
        for dtype in REGIME_DTYPES:
            yield "regimes", Part(f"regimes {dtype}", "regimes.py", dtype, seconds - START_SECONDS)
    if "sanitizers" not in skip:
        for tool in ("memcheck", "racecheck"):
            yield "sanitizers", Part(tool, "sanitizer.py", tool, seconds)


def timing_parts(skip, cache, rehearse):
    """The parts that wait for the card, started."""
    if "host" not in skip and not rehearse:
        yield "host", Part("host", "host_times.py")
    if "speed" not in skip:
        caches = {"TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}  # empty ones
        for dtype in DTYPES[1:] if rehearse else DTYPES:
            given = [dtype, *(["--rehearse"] if rehearse else [])]
            yield "speed", Part(f"speed {dtype}", "speed.py", *given, **caches)


class Run:
    """One run: its clock, its parts and what they said."""

    def __init__(self, args):
        self.args, self.end = args, time.monotonic() + args.seconds
        self.parts, self.found = [], document.Found()

    def left(self):
        return self.end - time.monotonic()

    def finished(self, stage, part, seconds):
        """Wait for a part, and keep its records."""
        part.finish(seconds)
        self.found.add(stage, part)

    def decides(self):
        """What a minute of a card is to tell."""
        given = [DTYPES[0], "--first", *(["--rehearse"] if self.args.rehearse else [])]
        part = Part("first", "speed.py", *given)
        self.parts.append(part)
        until = time.monotonic() + min(FIRST_CALLS_SECONDS, self.left() / 4)
        while time.monotonic() < until and not part.ready:
            time.sleep(0.1)
        if part.ready:
            part.tell(f"go {FIRST_SECONDS:.1f}")
        self.finished("first", part, FIRST_SECONDS + 10 if part.ready else 0)
        print(document.beside_predictions(self.found.decided, self.machine), flush=True)

    def checks(self, checks, timed):
        """Until all checks have ended and the others are ready, or the checks' time is up."""
        until = time.monotonic() + min(self.args.check_seconds, max(10.0, self.left() - 60))
        while time.monotonic() < until and not all(part.ready for _, part in (*checks, *timed)):
            time.sleep(0.2)
        for stage, part in checks:
            self.finished(stage, part, until - time.monotonic())

    def times(self, timed):
        """One after the other."""
        for _, part in timed:
            part.tell("hold")
        until = time.monotonic() + min(HOLD_SECONDS, self.left())
        while time.monotonic() < until and not all(part.ready for _, part in timed):
            time.sleep(0.1)
        waiting = [(stage, part) for stage, part in timed if part.ready]
        for stage, part in timed:
            if not part.ready:
                self.finished(stage, part, 0)
        for i, (stage, part) in enumerate(waiting):
            seconds = self.left() - WIND_UP
            if stage == "host":
                seconds = min(seconds, HOST_SECONDS)
            elif i + 1 < len(waiting):
                seconds *= FIRST_SHARE
            print(f"--- {part.name}: {max(0.0, seconds):.0f} s from now, {self.left():.0f} s are left", flush=True)
            part.tell(f"go {max(0.0, seconds):.1f}")
            self.finished(stage, part, max(0.0, min(seconds + 10, self.left() - 2)))

    def whole(self):
        """All of it; the exit status."""
        args = self.args
        for stage in args.skip:
            self.found.skip(stage, "as asked")
        if args.rehearse:
            for stage in ("first", "regimes", "sanitizers", "host"):
                self.found.skip(stage, "a rehearsal has no card")
        card = Part("card", "card.py", *(["--rehearse"] if args.rehearse else []))
        self.parts.append(card)
        if card.finish(60) or not card.of_kind("machine"):
            print(f"no card to run on: {card.ended}")
            return 2
        self.machine = card.of_kind("machine")[0]
        if "first" not in args.skip and not args.rehearse:
            self.decides()
        with tempfile.TemporaryDirectory() as cache:
            checks, timed = [], []
            for started, to in (
                (check_parts(args.skip, args.check_seconds, args.rehearse), checks),
                (timing_parts(args.skip, cache, args.rehearse), timed),
            ):
                for stage, part in started:
                    self.parts.append(part)
                    to.append((stage, part))
            self.checks(checks, timed)
            self.times(timed)
        result = self.found.document(
            self.machine,
            card.of_kind("versions")[0],
            datetime.date.today().isoformat(),
            args.commit or commit(),
            round(args.seconds - self.left()),
        )
        result["rehearsal"] = args.rehearse
        print(document.summary(result), flush=True)
        path = args.json or (None if args.rehearse else RESULTS / f"{document.slug(result['machine']['gpu'])}.json")
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(to_json(result), encoding="utf-8")
            print(f"written: {path.name}")
        return int(bool(self.found.failures))

    def close(self):
        """End every process that is left."""
        for part in self.parts:
            if not part.closed:
                part.finish(0)


def main(given=None) -> int:
    run = Run(arguments(given))
    try:
        return run.whole()
    finally:
        run.close()
