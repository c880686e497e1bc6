"""What a part says to the command that started it, and what it is told: lines of text both ways."""

import json
import os
import select
import time

MARK = "@"  # what a record's line begins with; other lines are for people


def record(kind, **fields):
    """A result, for the JSON document."""
    print(MARK + json.dumps({"kind": kind, **fields}), flush=True)


def say(text):
    print(text, flush=True)


class Orders:
    """What comes on standard input: ``hold`` (prepare no further), then ``go SECONDS`` (the card is yours so long).

    Parts that time something compile while checks run, and time when nobody else uses the card.
    """

    def __init__(self):
        self._text, self._deadline = "", None

    def held(self) -> bool:
        """Whether no more is to be prepared."""
        while "hold" not in self._text and select.select([0], [], [], 0)[0]:
            if not self._more():
                return True
        return "hold" in self._text

    def wait(self):
        """Until told to go."""
        record("ready")
        while "go" not in self._text or not self._text.endswith("\n"):
            if not self._more():
                raise SystemExit("never told to go")
        self._deadline = time.monotonic() + float(self._text.split()[-1])

    def left(self) -> float:
        """Seconds that are left of those given; 0 before any were."""
        return self._deadline - time.monotonic() if self._deadline else 0.0

    def _more(self):
        more = os.read(0, 4096).decode()
        self._text += more
        return more
