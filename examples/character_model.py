"""A character model trained three times from the same seed: with torch's loss, this package's, and its fused head.

A small recurrent network learns to predict the next character of the Python manual's pages that come with Python. The
runs differ in one thing, what computes the loss and its gradient: of logits, or, fused with the linear layer that makes
them, of hidden states. What they print and draw says whether that is seen in the result, and in the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch.nn import functional

import crossentropy.torch

LENGTH = 64  # characters of a sequence in training
LEARNING_RATE = 4e-3  # at the first step; it falls to nothing at the last
TEMPERATURE = 0.7  # of the sample: less than 1 prefers the probable
PROMPT = "The "

console = Console()


# ---------------------------------------------------------------------- the text


def text() -> str:
    """What ``help()`` shows on Python's topics, each paragraph once.

    Some topics repeat whole sections of others: the held-out text would otherwise be partly known from training. Tables
    are left out; little is to be learnt from long rows of blanks.
    """
    paragraphs = {}
    for _, topic in sorted(topics.items()):
        for paragraph in topic.split("\n\n"):
            if not paragraph.lstrip().startswith("+-"):
                paragraphs.setdefault(paragraph.strip(), paragraph)
    return "\n\n".join(paragraphs.values())


class Corpus(NamedTuple):
    """A text as indices into its characters: nine tenths to learn from, and the rest."""

    characters: str
    training: torch.Tensor
    held_out: torch.Tensor

    @classmethod
    def of(cls, written: str) -> Corpus:
        """The corpus of a text."""
        characters = "".join(sorted(set(written)))
        indices = encode(written, characters)
        cut = len(indices) * 9 // 10
        return cls(characters, indices[:cut], indices[cut:])


def encode(written: str, characters: str) -> torch.Tensor:
    """The index of each character of a text."""
    index = {character: i for i, character in enumerate(characters)}
    return torch.tensor([index[character] for character in written])


def batches(indices: torch.Tensor, count: int, size: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of sequences from anywhere in the text: the same seed gives the same.

    Yields
    ------
    inputs, targets : Tensor of int64, shape (size, LENGTH)
        A target is the character that follows its input.
    """
    generator = torch.Generator().manual_seed(seed)
    sequences = indices.unfold(0, LENGTH + 1, 1)
    for _ in range(count):
        chosen = sequences[torch.randint(len(sequences), (size,), generator=generator)]
        yield chosen[:, :-1], chosen[:, 1:]


# ---------------------------------------------------------------------- the model


class Model(torch.nn.Module):
    """Embedding, one recurrent layer, and a linear layer to the logits of the next character."""

    def __init__(self, num_characters: int, embedding: int = 64, hidden: int = 256):
        super().__init__()
        self.embedding = torch.nn.Embedding(num_characters, embedding)
        self.recurrent = torch.nn.GRU(embedding, hidden, batch_first=True)
        self.output = torch.nn.Linear(hidden, num_characters)

    def hidden(self, inputs, state=None):
        """Hidden states (batch, length, features), and the state to go on from."""
        return self.recurrent(self.embedding(inputs), state)

    def forward(self, inputs, state=None):
        """Logits (batch, length, characters), and the state to go on from."""
        hidden, state = self.hidden(inputs, state)
        return self.output(hidden), state


Head = Callable[[torch.Tensor, torch.nn.Linear, torch.Tensor], torch.Tensor]  # the loss of hidden states and targets


def of_logits(loss_function: Callable) -> Head:
    """All logits first, then their loss: `torch.nn.functional.cross_entropy`, or what stands in for it."""
    return lambda hidden, layer, targets: loss_function(layer(hidden), targets)


def fused(hidden: torch.Tensor, layer: torch.nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """The layer and its loss at once: the logits are never all there."""
    return crossentropy.torch.linear_cross_entropy(hidden, layer.weight, targets, linear_bias=layer.bias)


HEADS: dict[str, Head] = {
    "torch": of_logits(functional.cross_entropy),
    "crossentropy": of_logits(crossentropy.torch.cross_entropy),
    "crossentropy, fused": fused,
}


class Run(NamedTuple):
    """What a training leaves: the loss of each batch in nats a character, each step's times in seconds, the model."""

    curve: np.ndarray
    head_times: np.ndarray
    step_times: np.ndarray
    model: Model


def train(
    *heads: Head,
    corpus: Corpus,
    steps: int = 600,
    seed: int = 0,
    batch: int = 16,
    after_step: Callable[[float], object] | None = None,
) -> list[Run]:
    """Train a model with each head, all from the same seed.

    They take their steps in turn, so that whatever else the machine does falls on all of them.

    Parameters
    ----------
    *heads : callable
        The loss of hidden states (N, features), the linear layer that makes logits of them, and targets (N,).
    corpus : Corpus
    steps, seed, batch : int
        Batches, the seed of them and of the models, and the sequences in each.
    after_step : callable, optional
        Called with the last head's loss after each batch.

    Returns
    -------
    list of Run
    """
    runs, optimizers, schedules = [], [], []
    for _ in heads:
        torch.manual_seed(seed)
        runs.append(Run(*np.empty((3, steps)), Model(len(corpus.characters))))
        optimizers.append(torch.optim.AdamW(runs[-1].model.parameters(), lr=LEARNING_RATE))
        schedules.append(torch.optim.lr_scheduler.LinearLR(optimizers[-1], 1.0, 0.0, total_iters=steps))
    for step, (inputs, targets) in enumerate(batches(corpus.training, steps, batch, seed)):
        for run, head, optimizer, schedule in zip(runs, heads, optimizers, schedules, strict=True):
            start = time.perf_counter()
            optimizer.zero_grad()
            hidden = run.model.hidden(inputs)[0].flatten(0, 1)
            # Cut off from what is below, so that the backward of the head is timed without it.
            leaf = hidden.detach().requires_grad_()
            before = time.perf_counter()
            loss = head(leaf, run.model.output, targets.flatten())
            loss.backward()
            run.head_times[step] = time.perf_counter() - before
            hidden.backward(leaf.grad)
            optimizer.step()
            run.step_times[step] = time.perf_counter() - start
            schedule.step()
            run.curve[step] = loss.item()
        if after_step is not None:
            after_step(run.curve[step])
    return runs


@torch.no_grad()
def held_out_loss(model: Model, corpus: Corpus, head: Head) -> float:
    """Nats a character of the held-out text, read in sequences long enough that their cold starts hardly count."""
    sequences = corpus.held_out.unfold(0, 8 * LENGTH + 1, 8 * LENGTH)
    hidden = model.hidden(sequences[:, :-1])[0].flatten(0, 1)
    return head(hidden, model.output, sequences[:, 1:].flatten()).item()


@torch.no_grad()
def sample(model: Model, characters: str, length: int, seed: int) -> str:
    """A text that the model writes, one character at a time."""
    generator = torch.Generator().manual_seed(seed)
    written, inputs, state = PROMPT, encode(PROMPT, characters), None
    for _ in range(length):
        logits, state = model(inputs[None], state)
        inputs = torch.multinomial((logits[0, -1] / TEMPERATURE).softmax(0), 1, generator=generator)
        written += characters[int(inputs)]
    return written


# ---------------------------------------------------------------------- the picture


STYLES = {
    "torch": {"color": "#d9701a", "lw": 3, "label": "torch's loss"},
    "crossentropy": {"color": "#123f73", "lw": 1.2, "ls": (0, (4, 8)), "label": "crossentropy.torch in its place"},
    "crossentropy, fused": {
        "color": "#2a9d8f",
        "lw": 1.2,
        "ls": (6, (4, 8)),
        "label": "crossentropy.torch, fused with the linear layer",
    },
}


def picture(curves: dict[str, np.ndarray]) -> Figure:
    """The training curves, and how far each is from torch's."""
    figure = Figure(figsize=(8, 6), layout="constrained", dpi=120)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    torchs = curves["torch"]
    step = np.arange(1, len(torchs) + 1)
    for name, curve in curves.items():
        above.plot(step, curve, **STYLES[name])
    above.set(
        ylabel="loss of a batch, nats per character", title="a character model, trained three times from one seed"
    )
    above.legend(frameon=False, handlelength=4)

    equal = []
    for name, size in zip(list(curves)[1:], (7, 3), strict=True):  # where they agree, one is seen around the other
        apart = np.abs(curves[name] - torchs)
        equal.append(str(int((apart == 0).sum())))
        # Zero has no logarithm: such steps are left out here and counted in the title.
        below.plot(step, np.where(apart > 0, apart, np.nan), ".", ms=size, color=STYLES[name]["color"], label=name)
    spacing = np.spacing(torchs.astype(np.float32))
    below.plot(step, spacing, color="#767f89", lw=1, label="float32: one unit in the last place")
    below.set_yscale("log")
    below.margins(y=0.1)
    title = f"how far from torch's: bits equal in {' and '.join(equal)} of {len(step)} steps"
    below.set(xlabel="step", ylabel="nats per character", title=title)
    below.legend(frameon=False)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


# ---------------------------------------------------------------------- the command


def _picture_path(context, parameter, path: Path) -> Path:
    """Refused before any time is spent, not after."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise click.BadParameter(f"must end in .png, .pdf or .svg, got {str(path)!r}")
    if not path.parent.is_dir():
        raise click.BadParameter(f"{path.parent} is not a directory")
    return path


def report(runs: dict[str, Run], losses: dict[str, float]) -> Table:
    """Held-out loss and median times of each run."""
    table = Table()
    table.add_column("")
    rows = {
        "held-out loss, nats per character": [f"{loss:.6f}" for loss in losses.values()],
        "held-out loss, bits per character": [f"{loss / math.log(2):.6f}" for loss in losses.values()],
        "head and loss, forward + backward, median ms": [
            f"{1e3 * np.median(run.head_times):.3f}" for run in runs.values()
        ],
        "whole step, median ms": [f"{1e3 * np.median(run.step_times):.3f}" for run in runs.values()],
    }
    for name in runs:
        table.add_column(name, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--steps", default=600, type=click.IntRange(1), help="Batches in each of the trainings.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**63 - 1), help="Of the model, the batches, the sample.")
@click.option("--batch", default=16, type=click.IntRange(1), help=f"Sequences of {LENGTH} characters in a batch.")
# So small a model gains little from more, and on a busy machine its threads would wait for each other.
@click.option("--threads", default=1, type=click.IntRange(1), help="For torch; crossentropy.torch takes no more.")
@click.option(
    "--out",
    default="character_model.png",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_picture_path,
    help="The plot: a .png, .pdf or .svg file.",
)
def main(steps, seed, batch, threads, out):
    """Train a character model with torch's loss, with crossentropy's, and with its fused head, and compare."""
    torch.set_num_threads(threads)
    corpus = Corpus.of(text())
    console.print(
        f"{len(corpus.training)} characters to learn from, {len(corpus.held_out)} held out, {len(corpus.characters)} "
        f"different: with all equally likely, {math.log(len(corpus.characters)):.4f} nats per character",
        highlight=False,
    )
    columns = (
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps, loss=math.nan)
        trained = train(
            *HEADS.values(),
            corpus=corpus,
            steps=steps,
            seed=seed,
            batch=batch,
            after_step=lambda loss: progress.update(task, advance=1, loss=loss),
        )
    runs = dict(zip(HEADS, trained, strict=True))
    losses = {name: held_out_loss(runs[name].model, corpus, head) for name, head in HEADS.items()}
    console.print(report(runs, losses))
    console.print("\nwritten by the model trained with the fused head:\n")
    console.print(
        sample(runs["crossentropy, fused"].model, corpus.characters, 400, seed),
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    picture({name: run.curve for name, run in runs.items()}).savefig(out)
    console.print(f"\nwrote {out}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
