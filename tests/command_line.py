"""Run the command line in this process: what it costs to start one is more than most tests of it need."""

import contextlib
import io
import warnings

import pytest


def within(*arguments, cwd, code=0):
    """What the command prints on standard output and error; its exit code must be as expected."""
    from crossentropy.cli import outputs
    from crossentropy.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    outputs.console.width, width = 200, outputs.console.width
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(action="default"),
            pytest.raises(SystemExit) as ended,
        ):
            main(list(map(str, arguments)), prog_name="crossentropy")
    finally:
        outputs.console.width = width
    assert (ended.value.code or 0) == code, f"{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue(), err.getvalue()
