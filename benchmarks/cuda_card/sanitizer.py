"""NVIDIA's compute-sanitizer over regimes.py: `sanitizer.py memcheck|racecheck SECONDS`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lines

FOUND = 86  # the exit code by which it says that it found something
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (.*)")
CLEAN = re.compile(r"0 errors|0 hazards displayed \(0 errors, 0 warnings\)")


def program() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def judged(text, code) -> tuple[list[str], int]:
    """What went wrong, by its output and exit code; and how many regimes were run."""
    regimes = len(re.findall(r"^regime ", text, re.MULTILINE))
    summary = SUMMARY.search(text)
    if summary and not CLEAN.match(summary[1]):
        return [f"summary: {summary[1]}"], regimes
    if code == FOUND:
        return ["it found something, and said no more"], regimes
    if code or not summary:
        return [f"it ended with {code} and {'a' if summary else 'no'} summary"], regimes
    return [], regimes


def main(tool, seconds):
    found = program()
    if found is None:
        lines.record("skipped", what=tool, why="compute-sanitizer is not installed")
        return
    # PyTorch's allocator off: each array is an allocation of its own, whose end is known.
    environment = dict(os.environ, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    script = Path(__file__).with_name("regimes.py")
    options = ["--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "20"]
    if tool == "memcheck":
        options += ["--report-api-errors", "no"]  # libraries ask for entry points that drivers may lack
    command = [found, *options, sys.executable, str(script), "once", str(seconds - 30)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    text = []
    for line in process.stdout:
        text.append(line)
        lines.say(line.rstrip())
    failed, regimes = judged("".join(text), process.wait())
    lines.record("checks", passed=regimes if not failed else 0, failed=failed, not_run=0, of=regimes)
    lines.say(f"{tool}: {regimes} regimes, {failed or 'nothing found'}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
