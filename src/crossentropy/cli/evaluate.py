"""``crossentropy evaluate``: how good a trained model is on a table with labels, or logits in files are on targets."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from click.core import ParameterSource

from .data_options import Reading, reading_options
from .inputs import BadInput
from .logit_files import is_of_arrays
from .outputs import aside, check_directory, check_free, console, say, warn, write_all
from .source import BadData

FILES = ("evaluation-confusion.png", "evaluation-calibration.png", "evaluation.html")


LOGIT_FILES = ("evaluation.json", "calibration.png", "per_class.png")
MODELS_ALONE = ("label", *Reading._fields)


@click.command()
@click.argument("what", metavar="MODEL|LOGITS")
@click.argument("data", metavar="DATA|TARGETS")
@click.option("--label", help="Column of the labels.  [default: of the model's own]")
@reading_options
@click.option("--ignore-index", type=int, help="Targets that do not count.  (From here on: of logits.)")
@click.option("--top", default="1,5", metavar="K,...", help="Of which numbers of largest logits the accuracies are.")
@click.option("--bins", default=15, type=click.IntRange(1), help="Of the calibration.")
@click.option(
    "--engine", default="threads", metavar="threads|dask[:ADDRESS]", help="Who computes; dask starts processes here."
)
@click.option("--state", type=click.Path(path_type=Path), help="A file to go on from after a Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and no tables.")
@click.option(
    "--out", "directory", type=click.Path(path_type=Path), help="Where pictures and evaluation.html, or .json, go."
)
@click.option("--force", is_flag=True, help="Write over results that are there.")
@click.pass_context
def evaluate(context, what, data, label, reading, directory, force, **of_logits):
    """Report how good MODEL, a model.skops that train wrote, is on DATA, which has labels.

    Or how good LOGITS of shape (..., C) are on TARGETS, integers of shape (...): each an .npy or .npz file, a Zarr
    store, or a folder of .npy parts, as large as may be. What the first argument is decides.
    """
    if is_of_arrays(what):
        _refuse(context, MODELS_ALONE, "is for a model and a table")
        evaluate_logits(what, data, directory, force, **of_logits)
    else:
        _refuse(context, (*of_logits,), "is for logits in files")
        evaluate_model(Path(what), data, label, reading, directory, force)


def _refuse(context, names, told):
    """Options of the other kind, which would change nothing."""
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise BadInput(f"{option.opts[0]} {told}")


def evaluate_logits(logits, targets, directory, force, ignore_index, top, bins, engine, state, as_json):
    """The report of logits in files."""
    from . import logit_evaluation as run

    try:
        best = tuple(int(k) for k in top.split(",") if k.strip())
    except ValueError:
        raise BadInput(f"--top must be numbers, as 1,5, got {top!r}") from None
    options = {"top": best, "bins": bins} | ({} if ignore_index is None else {"ignore_index": ignore_index})
    name, _, address = engine.partition(":")
    if name not in ("threads", "dask") or (name == "threads" and address):
        raise BadInput(f"--engine must be threads, dask or dask:ADDRESS, got {engine!r}")
    if directory:
        check_directory(directory)
        check_free(directory, LOGIT_FILES, force)
    if state:
        check_directory(state.parent, "--state")
    work = run.checked_work(logits, targets, options)
    progress = run.Progress(work, state, (logits, targets))
    if progress.resumed:
        say(f"going on after {progress.resumed} of {work.logits.shape[0]} rows, from {state}", to=aside)
    run.complete(work, progress, name, address)
    found = progress.evaluation.compute()
    if as_json:
        click.echo(found.to_json())
    else:
        for line in run.tables(found, f"{logits}, {found.rows} rows"):
            console.print(line)
    if directory:
        from . import evaluation_plots, report_page

        pictures = {
            LOGIT_FILES[1]: report_page.png(evaluation_plots.reliability(found)),
            LOGIT_FILES[2]: report_page.png(evaluation_plots.per_class(found)),
        }
        files = {each: lambda path, bytes_=content: path.write_bytes(bytes_) for each, content in pictures.items()}
        files[LOGIT_FILES[0]] = lambda path: path.write_text(found.to_json() + "\n", encoding="utf-8")
        write_all(directory, files)
        say(f"wrote {', '.join(LOGIT_FILES)} to {directory}", to=aside if as_json else None)


def evaluate_model(model, data, label, reading, directory, force):
    """The report of a trained model."""
    if directory:
        check_directory(directory)
        check_free(directory, FILES, force)
    from . import model as models
    from .predict import model_and_data

    label = label or models.load(model).label
    saved, taken, texts, name = model_and_data(model, data, reading, label)
    from . import scores

    classes = [str(each) for each in saved.pipeline.classes_]
    number = {each: c for c, each in enumerate(classes)}
    y = np.array([number.get(text, -1) for text in texts])
    known = y >= 0
    notes = []
    blank, unknown = int((texts == "").sum()), sorted(set(texts[~known]) - {""})
    if blank:
        notes.append(f"{blank} observation{'s' * (blank > 1)} without a label left out")
    if unknown:
        some = ", ".join(map(repr, unknown[:5])) + " …" * (len(unknown) > 5)
        notes.append(
            f"{int((~known).sum()) - blank} observations of classes that the model does not know left out: {some}"
        )
    if not known.any():
        raise BadData(f"{data}: column {label!r} has no label that the model knows; it knows {', '.join(classes[:20])}")
    for note in notes:
        warn(note)
    logits = saved.pipeline.decision_function(taken)[known]
    found = scores.score(logits, y[known], classes)
    for table in scores.tables(found, f"{name}: {len(logits)} observations", console.width):
        console.print(table)
    for line in scores.lines(found, "the"):
        say(line)
    if directory:
        from . import plots, report_page

        pictures = {
            FILES[0]: report_page.png(plots.confusion(y[known], found.predicted, classes, "observations")),
            FILES[1]: report_page.png(plots.calibration(found)),
        }
        page = report_page.page(
            title=f"{model.name} on {name}: {len(logits)} observations",
            scores=found,
            notes=notes,
            columns=saved.columns,
            said="as the model was trained on them",
            settings=[("model", model), ("data", data)],
            pictures=list(zip(("Confusion", "Calibration"), pictures.values(), strict=True)),
            on="",
        )
        files = {each: lambda path, bytes_=content: path.write_bytes(bytes_) for each, content in pictures.items()}
        files[FILES[2]] = lambda path: path.write_text(page, encoding="utf-8")
        write_all(directory, files)
        say(f"wrote {', '.join(files)} to {directory}")
