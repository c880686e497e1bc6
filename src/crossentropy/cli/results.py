"""What a training leaves as files, made from what it found: the pictures, and the model as skops has it."""

from __future__ import annotations

PICTURES = ("loss.png", "confusion.png", "calibration.png")


def imports() -> None:
    """What `made` needs, imported."""
    from . import model, plots, report_page  # noqa: F401

    model.skops()


def made(history, name: str, y, found, classes, saved) -> dict[str, bytes]:
    """The files' contents by name, of observations y (N,) of the test part and the scores that were found there."""
    from . import model, plots, report_page

    figures = plots.cost(history, name), plots.confusion(y, found.predicted, classes), plots.calibration(found)
    pictures = dict(zip(PICTURES, map(report_page.png, figures), strict=True))
    return {**pictures, "model.skops": model.as_file(saved)}
