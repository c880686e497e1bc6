"""scikit-learn's bundled data sets, for the command line."""

from __future__ import annotations

from .columns import Column
from .table import Table

BUNDLED = ("digits", "wine", "iris", "breast_cancer")


def load(name: str):
    """The table of that set, its labels as text, and its columns, which are numbers all."""
    import pandas as pd
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    names = list(map(str, bunch.feature_names))
    frame = pd.DataFrame(bunch.data.astype(float), columns=names)
    columns = [Column(each, "number") for each in names]
    table = Table(name, name, frame, names, True, "bundled with scikit-learn")
    return table, bunch.target_names.astype(str).astype(object)[bunch.target], columns
