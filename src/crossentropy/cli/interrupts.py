"""Ctrl-C while modules are imported waits until they are: some extension modules lose an interrupt in there."""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

AGAIN = 0.05  # seconds until it is asked again whether modules are being imported


def is_importing(frame: FrameType | None) -> bool:
    """Whether that frame was called for an import, be it through C."""
    while frame:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


class AfterImports:
    """What handles SIGINT: KeyboardInterrupt, as by Python's own, at once or when what is being imported has been.

    A second Ctrl-C does not wait, for an import may never end.
    """

    def __init__(self) -> None:
        self.later: threading.Timer | None = None  # while a signal waits
        self.is_again = False  # whether the next one is that, not a second one

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if not is_importing(frame) or (self.later and not self.is_again):
            if self.later:
                self.later.cancel()
            self.later = None
            raise KeyboardInterrupt
        self.later, self.is_again = threading.Timer(AGAIN, self._ask_again), False
        self.later.daemon = True
        self.later.start()

    def _ask_again(self) -> None:
        self.is_again = True
        _thread.interrupt_main()


@contextlib.contextmanager
def none_is_lost() -> Iterator[None]:
    """Within it, Ctrl-C waits for imports. Where somebody else handles the signal, or ignores it, that stays so."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, AfterImports())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
