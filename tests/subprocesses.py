"""Run a piece of Python in a process of its own."""

import os
import signal
import subprocess
import sys
import textwrap


def run(code, timeout=60, options=(), cwd=None, **environment):
    """Standard output of the code; a failure shows what it printed. Values of None unset a variable."""
    env = {**os.environ, **environment}
    env = {name: value for name, value in env.items() if value is not None}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", *options, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        # Its children too: one that hangs would hold the pipes, and this process with them.
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, f"exit code {process.returncode}\n{out}\n{err}"
    return out
