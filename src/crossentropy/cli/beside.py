"""Another process, for work whose imports alone take seconds: it begins with these while this process reads a file."""

from __future__ import annotations

import functools
import gc
import multiprocessing
import signal
from collections.abc import Callable


class Beside:
    """A process that does one thing and sends back what came of it; where there is none, the caller does it."""

    def __init__(self) -> None:
        self.connection = None

    def start(self, prepare: Callable[[], object]) -> None:
        """Start it, with what it is to do first; both functions are a module's own, so that it finds them by name."""
        context = multiprocessing.get_context("spawn")  # what is forked beside other threads may hang
        ours, theirs = context.Pipe()
        try:
            context.Process(target=_serve, args=(theirs, prepare), daemon=True).start()
        except OSError:  # as many processes as are allowed
            return
        finally:
            theirs.close()
        self.connection = ours

    def ask(self, function: Callable[..., object], *args: object) -> Callable[[], object]:
        """Have a function called there; what is returned waits for its result, or does it here if the process ended."""
        if self.connection is not None:
            try:
                self.connection.send((function, args))
            except OSError:
                self.connection = None
        return functools.partial(self._result, function, args)

    def _result(self, function, args):
        if self.connection is not None:
            try:
                result = self.connection.recv()
            except (EOFError, OSError):  # it has ended
                pass
            else:
                if isinstance(result, Exception):
                    raise result
                return result
        return function(*args)


def _serve(connection, prepare):
    """What the process does. Ctrl-C is the caller's, with whom it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()  # which finds nothing in modules, and looks often
    prepare()
    try:
        function, args = connection.recv()
    except EOFError:
        return
    try:
        connection.send(function(*args))
    except Exception as error:
        connection.send(error)
