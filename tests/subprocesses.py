"""Run a piece of Python in a process of its own."""

import os
import subprocess
import sys
import textwrap


def run(code, timeout=60, **environment):
    """Standard output of the code; a failure shows what it printed. Values of None unset a variable."""
    env = {**os.environ, **environment}
    env = {name: value for name, value in env.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
