"""What ``crossentropy`` without a command shows: what there is, on a screen of 80 columns and 24 lines."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator

from .. import __version__, backends

FIRST = (
    ("crossentropy train", "a classifier of handwritten digits"),
    ("crossentropy train --data T.csv --label C", "one of your own table's column C"),
    ("crossentropy predict MODEL TABLE", "the classes that it gives to other rows"),
    ("crossentropy evaluate MODEL TABLE", "how right it is on rows with labels"),
    ("crossentropy bench --quick", "how fast it is here: a minute, and a verdict"),
    ("crossentropy plot", "the loss of one observation, drawn"),
    ("crossentropy info", "what runs here, for a report of an error"),
)


def tour() -> Iterator[str]:
    """The lines."""
    yield f"crossentropy {__version__}: cross-entropy and its gradient, accurate to the last place"
    yield ""
    yield f"Here    {_here()}"
    yield "NumPy   loss, grad = crossentropy.cross_entropy_and_grad(logits, targets)"
    yield "Torch   from crossentropy.torch import cross_entropy, CrossEntropyLoss"
    yield "Models  crossentropy.linear_cross_entropy(hidden, weight, targets)"
    yield "Others  crossentropy.jax, .keras, .transformers, .sklearn, .boosting, .dask"
    yield ""
    for command, text in FIRST:
        yield f"{command:<34} {text}" if len(command) < 34 else f"{command}\n{'':<34} {text}"
    yield ""
    yield "crossentropy COMMAND --help lists a command's options."
    address = _documentation()
    if address:
        yield f"Every function, with examples: {address}"


def _here() -> str:
    available = [backend.name for backend in backends() if backend.available]
    text = f"backends {', '.join(available)}"
    if available[0] != "native":
        return f"{text}: no C kernels, and crossentropy info says why"
    from .. import native

    threads = native.current_threads()
    return f"{native.current_isa()} on {threads} thread{'s' * (threads > 1)}; {text}"


def _documentation() -> str:
    """The address that pyproject.toml has; none where the package is not installed."""
    try:
        addresses = importlib.metadata.metadata("crossentropy").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        return ""
    return next((each.partition(", ")[2] for each in addresses if each.startswith("Documentation, ")), "")
