"""``crossentropy predict``: the classes that a trained model gives to a table's rows, as CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from pathlib import Path

import click

from .data_options import reading_options
from .outputs import aside, check_directory, check_free, say, warn, write_all


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@click.option("--probabilities", is_flag=True, help="The probability of every class, too.")
@reading_options
@click.option("--out", "path", type=click.Path(path_type=Path, dir_okay=False), help="A .csv file, in place of stdout.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def predict(model, data, probabilities, reading, path, force):
    """Predict the class of each row of DATA by MODEL, a model.skops that train wrote.

    One line of CSV for each row, in their order: the class, and its probability. DATA has the columns that the model
    was trained on, by the same names, and may have others.
    """
    if path:
        check_directory(path.parent)
        check_free(path.parent, [path.name], force)
    saved, pipeline_input, _, _ = model_and_data(model, data, reading)
    p = saved.pipeline.predict_proba(pipeline_input)
    classes = saved.pipeline.classes_
    best = p.argmax(axis=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["predicted", "probability", *(f"p({name})" for name in classes if probabilities)])
    for row, c in zip(p, best, strict=True):
        writer.writerow([classes[c], f"{row[c]:.6g}", *(f"{each:.6g}" for each in row if probabilities)])
    if path:
        write_all(path.parent, {path.name: lambda file: file.write_text(text.getvalue(), encoding="utf-8")})
        say(f"wrote {len(p)} predictions to {path}", to=aside)
    else:
        sys.stdout.write(text.getvalue())


def model_and_data(path, data, reading, label=None):
    """A model, and a file's columns as it takes them; with a label its labels as text, else None; and its name.

    What there is to say goes to standard error, since predictions go to standard output.
    """
    from . import model
    from .outputs import loading
    from .source import BadData, open_source

    saved = model.load(path)
    source = open_source(data)
    with contextlib.closing(source.raw), loading(source.name, source.size, aside) as progress:
        from . import columns, labels
        from . import reading as readers

        needed = [column for column in saved.columns if column.kind]
        known = [*needed, columns.Column(label, "")] if label else needed
        where = label
        if source.kind == "npz" and label is None:
            where = saved.label
        if reading.header is None and not saved.header:
            reading = reading._replace(header=False)
        table = readers.read(source, reading, where if label or source.kind == "npz" else None, known, progress)
        if not table.header and len(table.names) == len(saved.names) - 1 and not label:
            # The same columns without that of the labels, from which on their numbers are one less.
            table = table._replace(names=[name for name in saved.names if name != saved.label])
        taken, unread = columns.take_as(table, needed, reading.na)
        texts = None
        if label:
            texts = labels.as_text(table.frame[columns.label_column(table, label)], reading.na)
    for name, count in unread.items():
        warn(
            f"{count} value{'s' * (count > 1)} of column {name!r} can't be read as the model's data: taken as missing",
            aside,
        )
    if not len(taken):
        raise BadData(f"{data}: no observations")
    return saved, taken, texts, source.name
