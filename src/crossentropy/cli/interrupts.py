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


def after_imports(number: int, frame: FrameType | None) -> None:
    """What handles SIGINT: KeyboardInterrupt, as by Python's own, at once or when what is being imported has been."""
    if not is_importing(frame):
        raise KeyboardInterrupt
    later = threading.Timer(AGAIN, _thread.interrupt_main)
    later.daemon = True
    later.start()


@contextlib.contextmanager
def none_is_lost() -> Iterator[None]:
    """Within it, Ctrl-C waits for imports. Where somebody else handles the signal, or ignores it, that stays so."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, after_imports)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
