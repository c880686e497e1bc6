"""``crossentropy train``: softmax regression, its pictures, and a report on held-out data."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .. import distributions, training
from . import datasets, plots
from .inputs import BadInput, Finite
from .outputs import check_directory, console, write_all


@click.command()
@click.option("--data", default="digits", help=f"{', '.join(datasets.BUNDLED)}, or a .csv or .npz file.")
@click.option("--label", help="Column of the labels in a .csv, or their array in a .npz (there: y if not given).")
@click.option(
    "--out", "directory", default="crossentropy-train", type=click.Path(path_type=Path), help="Where results go."
)
@click.option("--epochs", default=30, type=click.IntRange(1), help="E: passes over the training data.")
@click.option("--batch-size", default=64, type=click.IntRange(1), help="n_b: observations in a batch.")
@click.option("--learning-rate", default=0.05, type=Finite(0, min_open=True))
@click.option("--momentum", default=0.9, type=Finite(0, 1, max_open=True))
@click.option("--weight-decay", default=1e-3, type=Finite(0))
@click.option("--label-smoothing", default=0.0, type=Finite(0, 1))
@click.option("--class-weight", default="none", type=click.Choice(["none", "balanced"]), help="balanced: N / (K k_c).")
@click.option("--test-fraction", default=0.25, type=Finite(0, 1, min_open=True, max_open=True))
@click.option("--seed", default=0, type=click.IntRange(0, 2**32 - 1), help="Of the split and of the batches.")
def train(data, label, directory, epochs, batch_size, test_fraction, class_weight, seed, **settings):
    """Train softmax regression by mini-batch descent; report on held-out data.

    Writes loss.png, confusion.png and model.npz.
    """
    try:
        dataset = datasets.load(data, label)
        fitted, held_out = datasets.split(dataset, test_fraction, seed)
    except datasets.BadData as error:
        raise BadInput(str(error)) from None
    check_directory(directory)

    mean, scale = standardisation(dataset.x[fitted])
    if not np.isfinite(scale).all():
        raise BadInput(f"feature {dataset.features[int(np.isinf(scale).argmax())]!r} is too large to standardise")
    x = (dataset.x - mean) / scale
    weights = balanced(dataset.y[fitted]) if class_weight == "balanced" else None
    test = x[held_out], dataset.y[held_out]
    try:
        model, costs, test_losses = fit_with_progress(
            x[fitted],
            dataset.y[fitted],
            test,
            epochs=epochs,
            batch_size=batch_size,
            class_weight=weights,
            seed=seed,
            **settings,
        )
    except FloatingPointError as error:
        raise BadInput(str(error)) from None
    predicted = model.predict(test[0])
    files = {
        "loss.png": plots.cost(costs, test_losses, dataset.name).savefig,
        "confusion.png": plots.confusion(test[1], predicted, dataset.classes).savefig,
        "model.npz": lambda path: np.savez(
            path,
            weights=model.weights,
            bias=model.bias,
            mean=mean,
            scale=scale,
            classes=np.array(dataset.classes),
            features=np.array(dataset.features),
        ),
    }
    write_all(directory, files)
    report(dataset, fitted, held_out, predicted, model.loss(*test))
    console.print(f"wrote {', '.join(files)} to {directory}", soft_wrap=True, markup=False)


def standardisation(x):
    """Mean and standard deviation of each feature of the training data.

    1 for a feature that does not vary: 1347 times 0.1 have a computed standard deviation of 1e-17, not 0.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # to inf, which the caller refuses
        mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[np.isnan(scale)] = np.inf
    scale[scale <= 1e-13 * np.abs(mean)] = 1.0
    scale[scale == 0] = 1.0
    return mean, scale


def balanced(y):
    """Class weights N / (K k_c), under which every class counts the same in the mean."""
    counts = distributions.class_counts(y)
    return len(y) / (len(counts) * counts)


def fit_with_progress(x, y, test, *, epochs, **settings):
    """Train under a progress bar with the running cost; also returns the test loss after each epoch."""
    test_losses = []
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cost {task.fields[cost]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, epoch=0, cost=float("nan"))
        running = None

        def after_batch(step):
            nonlocal running
            running = step.cost if running is None else 0.95 * running + 0.05 * step.cost
            progress.update(task, total=epochs * step.batches, advance=1, epoch=step.epoch + 1, cost=running)
            if step.batch == step.batches - 1:
                test_losses.append(float(step.model.loss(*test)))

        num_classes = int(max(y.max(), test[1].max())) + 1
        model, costs = training.fit(x, y, num_classes=num_classes, epochs=epochs, callback=after_batch, **settings)
    return model, costs, test_losses


def report(dataset, fitted, held_out, predicted, loss):
    """Test loss and accuracy, then for each class its counts, p_c and p^_c, and their cross-entropy."""
    y, k = dataset.y[held_out], len(dataset.classes)
    p, q = (distributions.class_probabilities(labels, k) for labels in (y, predicted))
    counts = [distributions.class_counts(labels, k) for labels in (dataset.y[fitted], y, predicted, y[predicted == y])]
    table = Table(title=Text(f"{dataset.name}: {len(fitted)} training, {len(y)} test observations"))
    table.add_column("class")
    for heading in ("training", "test k_c", "predicted k̂_c", "of these right", "p_c", "p̂_c"):
        table.add_column(heading, justify="right")
    for c, name in enumerate(dataset.classes):
        table.add_row(Text(name), *(str(count[c]) for count in counts), f"{p[c]:.4f}", f"{q[c]:.4f}")
    console.print(table)
    console.print(f"test loss  {loss:.4f} nats    accuracy  {np.mean(predicted == y):.4f}")
    console.print(
        f"H(P,Q)  {distributions.cross_entropy_of(p, q):.6f} nats    H(P)  {distributions.entropy(p):.6f}"
        f"    D(P||Q)  {distributions.kl_divergence(p, q):.6f}"
    )
