"""``crossentropy evaluate``: a trained model's report on a table with labels."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from .data_options import reading_options
from .outputs import check_directory, check_free, console, say, warn, write_all
from .source import BadData

FILES = ("evaluation-confusion.png", "evaluation-calibration.png", "evaluation.html")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--label", help="Column of the labels.  [default: of the model's own]")
@reading_options
@click.option("--out", "directory", type=click.Path(path_type=Path), help="Where pictures and evaluation.html go.")
@click.option("--force", is_flag=True, help="Write over results that are there.")
def evaluate(model, data, label, reading, directory, force):
    """Report how good MODEL, a model.skops that train wrote, is on DATA, which has labels."""
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
