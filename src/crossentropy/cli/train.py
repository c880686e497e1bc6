"""``crossentropy train``: softmax regression on a table, its pictures, its model, and a report on held-out data."""

from __future__ import annotations

import contextlib
import gc
import threading
from pathlib import Path

import click
import numpy as np

from . import results
from .beside import Beside
from .bundled import BUNDLED
from .data_options import reading_options
from .inputs import BadInput, Finite
from .outputs import check_directory, check_free, console, loading, say, warn, write_all
from .source import TAKEN, BadData, open_source

FILES = (*results.PICTURES, "model.skops", "model.npz", "report.html")


@click.command()
@click.option("--data", default="digits", help=f"{', '.join(BUNDLED)}, or {TAKEN}.")
@click.option(
    "--label", help="Column of the labels: a name, or a number from 1, from -1 at the end (.npz: an array, y)."
)
@click.option("--drop", multiple=True, metavar="COLUMN", help="A column to leave out.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="A column to take that looks of no use.")
@reading_options
@click.option(
    "--out", "directory", default="crossentropy-train", type=click.Path(path_type=Path), help="Where results go."
)
@click.option("--force", is_flag=True, help="Write over results that are there.")
@click.option("--epochs", default=200, type=click.IntRange(1), help="E: passes over the training data at most.")
@click.option(
    "--patience",
    type=click.IntRange(0),
    help="Epochs without a lower validation loss that end training; 0: none do.  [default: 20, or fewer large ones]",
)
@click.option("--batch-size", type=click.IntRange(1), help="n_b.  [default: 64, or for 300 batches an epoch]")
@click.option(
    "--learning-rate",
    type=Finite(0, min_open=True),
    help="Of a step.  [default: 0.05, or less where features vary together]",
)
@click.option("--momentum", default=0.9, type=Finite(0, 1, max_open=True))
@click.option("--weight-decay", type=Finite(0), help="Of W, not of the bias.  [default: 2 / N, 0.002 at most]")
@click.option("--label-smoothing", default=0.0, type=Finite(0, 1))
@click.option("--class-weight", default="none", type=click.Choice(["none", "balanced"]), help="balanced: N / (K k_c).")
@click.option("--test-fraction", default=0.25, type=Finite(0, 1, min_open=True, max_open=True))
@click.option("--validation-fraction", default=0.15, type=Finite(0, 1, max_open=True), help="Of the rest.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**32 - 1), help="Of the split and of the batches.")
def train(data, label, drop, keep, reading, directory, force, **settings):
    """Train softmax regression by mini-batch descent; report on held-out data.

    Columns may be numbers, booleans, categories, dates, and have missing values. Writes pictures, model.skops (a
    scikit-learn Pipeline), model.npz (NumPy arrays) and report.html.
    """
    check_directory(directory)
    check_free(directory, FILES, force)
    beside = Beside()
    table, texts, frame, columns, label_name = load(data, label, drop, keep, reading, beside)
    from . import column_table, labels

    held = texts != ""
    blank = int(len(texts) - held.sum())
    if blank:
        frame, texts = frame[held], texts[held]
    classes = labels.natural(set(texts))
    number = {name: c for c, name in enumerate(classes)}
    y = np.fromiter((number[text] for text in texts), np.int64, len(texts))
    if len(classes) < 2:
        one = f"a single class, {classes[0]!r}: there is nothing to tell apart" if classes else "every label is blank"
        raise BadData(f"{table.where}: {one}")
    counts = np.bincount(y)
    if counts.max() == 1:
        raise BadData(
            f"{table.where}: every label of {label_name!r} occurs once, such as {classes[0]!r}: these are no classes"
        )
    notes = column_table.label_words(label_name, classes, counts, blank)
    say(f"{table.where}: {len(y)} observations; {table.said}")
    console.print(column_table.column_table(columns))
    some = ", ".join(classes[:12]) + " …" * (len(classes) > 12)
    say(f"label {label_name!r}: {len(classes)} classes: {some}")
    for note in notes:
        warn(note)
    rows = split(y, settings.pop("test_fraction"), settings.pop("validation_fraction"), settings["seed"])
    names = label_name, table.names, table.header
    from . import model

    pipeline = model.features([column for column in columns if column.kind])
    count, rest = len(rows[0]), np.concatenate(rows[:2])
    x = model.fit_features(pipeline, frame, rest)
    test = model.blockwise(pipeline, frame, rows[2]), y[rows[2]]
    del frame  # whose memory training has use for
    name = Path(data).name
    run(pipeline, x, y[rest], count, test, columns, classes, names, directory, notes, name, beside, **settings)


def load(data, label, drop, keep, reading, beside):
    """A bundled set or a file: the table, the labels as text, the columns' values, and what they were taken as."""
    if data in BUNDLED:
        if label is not None:
            raise BadInput(f"--label goes with a file; {data} has its own labels")
        from . import bundled

        table, texts, columns = bundled.load(data)
        return table, texts, table.frame, columns, "class"
    source = open_source(data, BUNDLED)
    with contextlib.closing(source.raw), loading(source.name, source.size) as progress:
        if source.size > LARGE:
            beside.start(results.imports)
            threading.Thread(target=import_the_rest, daemon=True).start()
        from . import columns as taking
        from . import labels
        from . import reading as readers

        where = label
        if label is None and source.kind == "npz":
            where = "y"
        table = readers.read(source, reading, where, progress=progress)
        at = taking.label_column(table, where)
        texts = labels.as_text(table.frame[at], reading.na)
        frame, columns = taking.take(table, label=at, drop=drop, keep=keep, na=reading.na)
    return table._replace(frame=None), texts, frame, columns, taking.unique_names(table.names)[at]


LARGE = 20_000_000  # bytes, that take longer to read than modules to be imported


def import_the_rest():
    """What is needed after reading, imported meanwhile by another thread."""
    gc.disable()  # which finds nothing in modules, and looks often
    try:
        from . import model, scores  # noqa: F401
    finally:
        gc.enable()


def split(y, test_fraction, validation_fraction, seed):
    """Indices of the observations to train on, to validate with and to test on."""
    from . import labels

    rest, test = labels.divided(y, test_fraction, seed)
    if not len(test):
        raise BadData(f"{len(y)} observations leave none to test on: --test-fraction {test_fraction:g} is too little")
    if not validation_fraction:
        return rest, rest[:0], test
    fitted, watched = labels.divided(y[rest], validation_fraction, seed)
    return rest[fitted], rest[watched], test


def run(pipeline, x, y, count, test, columns, classes, names, directory, notes, name, beside, **settings):
    """Train on the first ``count`` observations, validate with the others, report on the test part, write."""
    from . import fitting, model, report_page, scores

    seed = settings.pop("seed")
    weighted = settings.pop("class_weight") == "balanced"
    settings["batch_size"] = settings["batch_size"] or fitting.usual_batch_size(count)
    settings["learning_rate"] = settings["learning_rate"] or fitting.usual_learning_rate(x)
    if settings["weight_decay"] is None:
        settings["weight_decay"] = fitting.usual_weight_decay(len(x))
    patience = settings.pop("patience")
    if patience is None:
        patience = fitting.usual_patience(-(-count // settings["batch_size"]))
    patience *= count < len(x)
    weights = balanced(y) if weighted else None
    estimator = model.SoftmaxRegression(seed=seed, class_weight=weights, **settings)
    say(
        f"{count} to train, {len(x) - count} to validate, {len(test[1])} to test; {x.shape[1]} features, standardised; "
        f"batches of {settings['batch_size']}, learning rate {settings['learning_rate']:.3g}"
    )
    with progress_bar() as progress:
        try:
            history = fitting.train(estimator, x, y, classes, count, test=test, patience=patience, progress=progress)
        except FloatingPointError as error:
            raise BadInput(f"{error} (--learning-rate {settings['learning_rate']:g})") from None
    say(f"trained {history.ended}")
    if history.warning:
        warn(history.warning)
        notes = [history.warning, *notes]
    pipeline.steps.append(("softmax", estimator))
    found = scores.score(estimator.decision_function(test[0]), test[1], classes)
    saved = model.Saved(pipeline, columns, *names)
    made = beside.ask(results.made, history, name, test[1], found, classes, saved)
    trained = np.bincount(y, minlength=len(classes))
    for table in scores.tables(
        found, f"{name}: {trained.sum()} training, {len(test[1])} test observations", console.width, trained
    ):
        console.print(table)
    if len(classes) > scores.MOST_ROWS:
        say(f"the {scores.MOST_ROWS} classes of {len(classes)} with the lowest F1; all are in report.html")
    for line in scores.lines(found):
        say(line)

    contents = made()
    pictures = [contents[file] for file in results.PICTURES]
    shown = {"patience": patience, "class_weight": "balanced" if weighted else "none", "seed": seed, **settings}
    page = report_page.page(
        title=f"{name}: {len(classes)} classes of {len(y) + len(test[1])} observations",
        scores=found,
        notes=notes,
        columns=columns,
        said=f"{x.shape[1]} features, standardised",
        settings=[("trained", history.ended), *((key.replace("_", " "), value) for key, value in shown.items())],
        pictures=list(zip(("Training", "Confusion", "Calibration"), pictures, strict=True)),
        training_counts=trained,
    )
    standard = pipeline.named_steps["standardise"]
    features = np.array(model.feature_names(pipeline))
    files = {each: lambda path, bytes_=content: path.write_bytes(bytes_) for each, content in contents.items()}
    files["model.npz"] = lambda path: np.savez(
        path,
        weights=estimator.weights_,
        bias=estimator.bias_,
        mean=standard.mean_,
        scale=standard.scale_,
        classes=np.array(classes),
        features=features,
    )
    files["report.html"] = lambda path: path.write_text(page, encoding="utf-8")
    write_all(directory, files)
    say(f"wrote {', '.join(files)} to {directory}")


def balanced(y):
    """Class weights N / (K k_c), under which every class counts the same in the mean."""
    counts = np.bincount(y)
    return len(y) / (len(counts) * counts)


def progress_bar():
    """A bar with the running cost; a line when it's done, where nobody watches."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    @contextlib.contextmanager
    def bar():
        columns = (
            TextColumn("{task.description} {task.fields[epoch]}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TextColumn("cost {task.fields[cost]:.4f}"),
            TimeRemainingColumn(),
        )
        running, task, tasks = None, None, {}
        with Progress(*columns, console=console) as progress:

            def after_batch(step, epochs, word="epoch"):
                nonlocal running, task
                running = step.cost if running is None else 0.95 * running + 0.05 * step.cost
                if step.batch % 16 == 0 or step.batch == step.batches - 1:
                    if word not in tasks:
                        end(task)
                        tasks[word] = progress.add_task(word, total=None, epoch=0, cost=running)
                    task = tasks[word]
                    progress.update(
                        task,
                        total=epochs * step.batches,
                        completed=step.epoch * step.batches + step.batch + 1,
                        epoch=step.epoch + 1,
                        cost=running,
                    )

            def end(task):
                """Where training ended is the end."""
                if task is not None:
                    progress.update(task, total=progress.tasks[task].completed)

            yield after_batch
            end(task)

    return bar()
