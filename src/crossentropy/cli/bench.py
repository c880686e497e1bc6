"""``crossentropy bench``: the kernels beside the machine's own memory and other libraries."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .inputs import BadInput, Finite
from .outputs import check_directory, console, write_all


@click.command()
@click.option("--quick", is_flag=True, help="Within a minute: a few cases, and a verdict in words.")
@click.option("--linear", is_flag=True, help="Losses of hidden states against a vocabulary, with peak memory.")
@click.option("--only", multiple=True, metavar="TEXT", help="Of 'op, shape, dtype, inputs, implementation, …'.")
@click.option("--peers/--no-peers", default=True, help="Time the other libraries that are installed too.")
@click.option(
    "--seconds",
    type=Finite(0),
    show_default="3, --quick: 0.5",
    help="For the rounds of a case; there are at least 7 (--linear: 3).",
)
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Where the results go.")
@click.option("--out", "directory", type=click.Path(path_type=Path), help="Where bench.json and plots go.")
def bench(quick, linear, only, peers, seconds, file, directory):
    """Time the kernels beside the machine's own memory and other libraries.

    --only may be given more than once: all of its texts must occur. --quick with --only has every case on small arrays,
    and all that compute it.
    """
    try:
        from ..bench import OPS, cases, plots, run, to_json, verdict
        from ..bench.linear import cases as linear_cases
        from ..bench.linear import contest
        from .bench_table import tables
    except ImportError as error:
        raise BadInput(str(error)) from None
    for path, option in ((file and file.parent, "--json"), (directory, "--out")):
        if path:
            check_directory(path, option)
    files = {"bench.json": lambda path: path.write_text(to_json(document), encoding="utf-8")}

    def write_json(found):
        nonlocal document
        document = found
        if file:
            write_all(file.parent, {file.name: files["bench.json"]}, "--json")

    brief, start = quick and not linear and not only, time.monotonic()
    document, settings = None, {"peers": peers, "seconds": (0.5 if brief else 3.0) if seconds is None else seconds}
    settings["wanted"] = lambda text: all(each in text for each in only)
    if brief:
        settings["wanted"] = lambda text: verdict.takes_part(text, time.monotonic() - start)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None)
        settings["progress"] = lambda done, total, text: progress.update(
            task, completed=done, total=total, description=text
        )
        if linear:  # what takes minutes is written down case by case
            document = contest.run(linear_cases.cases(quick), **settings, after=write_json)
        else:
            document = run(list(verdict.CASES) if brief else cases(quick), **settings)
    if not document["records"] and not document.get("linear"):
        nothing = f"--only {' --only '.join(only)}: no case and implementation with that text"
        raise BadInput("; ".join(document["left_out"]) or nothing)
    console.print(*tables(document), sep="\n\n")
    for line in document["left_out"]:
        console.print(f"left out: {line}", soft_wrap=True, markup=False)
    if brief:
        console.print()
        for line in verdict.sentences(document):
            console.print(line, markup=False, highlight=False)
    write_json(document)
    if directory:
        for op in OPS:
            figure = plots.rates(document["records"], op, every=True)
            if figure:
                files[f"bench-{plots.file_name(op)}.png"] = figure.savefig
        write_all(directory, files)
        console.print(f"wrote {', '.join(files)} to {directory}", soft_wrap=True, markup=False)
