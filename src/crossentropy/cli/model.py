"""The model as scikit-learn has it: columns to features, standardised, to a softmax regression, in one Pipeline."""

from __future__ import annotations

import sys
import warnings
import zipfile
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from .. import training
from .columns import Column
from .source import BadData

__all__ = ["Saved", "SoftmaxRegression", "as_file", "date_parts", "features", "load"]


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """Softmax regression, trained by `crossentropy.training.fit`: x float (N, D), classes as text.

    Parameters
    ----------
    epochs, batch_size, learning_rate, momentum, weight_decay, label_smoothing, class_weight, seed
        Of `crossentropy.training.fit`.
    """

    def __init__(
        self,
        epochs=100,
        batch_size=64,
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=1e-3,
        label_smoothing=0.0,
        class_weight=None,
        seed=0,
    ):
        self.epochs, self.batch_size, self.learning_rate, self.momentum = epochs, batch_size, learning_rate, momentum
        self.weight_decay, self.label_smoothing, self.class_weight = weight_decay, label_smoothing, class_weight
        self.seed = seed

    def fit(self, x, y, callback=None):
        """Train on features x (N, D) and labels y (N,); ``costs_`` are the batches', in nats."""
        self.classes_, numbers = np.unique(np.asarray(y, dtype=object), return_inverse=True)
        return self.fit_numbers(x, numbers, self.classes_, callback)

    def fit_numbers(self, x, numbers, classes, callback=None):
        """The same with classes in an order of the caller's own, and labels as their numbers."""
        self.classes_ = np.asarray(classes, dtype=object)
        model, self.costs_ = training.fit(
            x, numbers, num_classes=len(self.classes_), callback=callback, **self.get_params()
        )
        return self.set_model(model)

    def set_model(self, model: training.Model):
        """Take weights and bias, as they were after some epoch."""
        self.weights_, self.bias_ = (np.array(each) for each in model)
        return self

    @property
    def model(self) -> training.Model:
        """Weights and bias, as `crossentropy.training` has them."""
        return training.Model(self.weights_, self.bias_)

    def decision_function(self, x):
        """The logits z = x W + bias, shape (N, K)."""
        return self.model.logits(np.asarray(x, dtype=np.float64))

    def predict_proba(self, x):
        """p~_c of each class, shape (N, K)."""
        return self.model.probabilities(np.asarray(x, dtype=np.float64))

    def predict(self, x):
        """The most probable class of each observation, as text, shape (N,)."""
        return self.classes_[self.decision_function(x).argmax(axis=1)]


def date_parts(frame):
    """Each column of dates as numbers: days since 1970, year, month, day, day of the week from Monday, hour."""
    parts = []
    for name in frame.columns:
        dates = frame[name].dt
        days = (frame[name] - np.datetime64("1970-01-01")).dt.total_seconds() / 86400
        hour = dates.hour + dates.minute / 60
        parts += [days, dates.year, dates.month, dates.day, dates.day_of_week, hour]
    return np.stack([part.to_numpy(dtype=np.float64) for part in parts], axis=1)


def date_part_names(transformer, names):
    """What `date_parts` makes of columns with those names."""
    return [f"{name} {part}" for name in names for part in ("days", "year", "month", "day", "weekday", "hour")]


GROUP = 16


def features(columns: list[Column]) -> Pipeline:
    """From the columns of a pandas.DataFrame to standardised features."""
    numbers = [column.name for column in columns if column.kind in ("number", "boolean")]
    categories = [column.name for column in columns if column.kind == "category"]
    dates = [column.name for column in columns if column.kind == "date"]
    impute = {"strategy": "median", "add_indicator": True, "keep_empty_features": True}
    parts = FunctionTransformer(date_parts, feature_names_out=date_part_names)
    encode = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100, sparse_output=False)
    steps = [
        # A few columns at a time: what scikit-learn copies between the steps is little then.
        *((f"numbers{i}", SimpleImputer(**impute), numbers[i : i + GROUP]) for i in range(0, len(numbers), GROUP)),
        ("categories", encode, categories),
        ("dates", make_pipeline(parts, SimpleImputer(**impute)), dates),
    ]
    columns_to_features = ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0)
    return Pipeline([("columns", columns_to_features), ("standardise", StandardScaler())])


BLOCK = 8192  # rows that become features at a time: the copies between scikit-learn's steps are of these
SAMPLE = 10_000  # rows that medians are taken of


def blockwise(pipeline: Pipeline, frame, rows) -> np.ndarray:
    """The features of those rows, float64 (N, D)."""
    x, scaler = _unscaled(pipeline, frame, rows), pipeline.named_steps["standardise"]
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        block -= scaler.mean_
        block /= scaler.scale_
    return x


def fit_features(pipeline: Pipeline, frame, rows) -> np.ndarray:
    """Fit a pipeline of `features` to those rows, the training data; their features."""
    columns, scaler = pipeline.named_steps["columns"], pipeline.named_steps["standardise"]
    columns.fit(frame.iloc[_sample(frame, rows)])
    with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):  # to inf, which is refused
        x = _unscaled(pipeline, frame, rows)
        for start in range(0, len(x), BLOCK):
            scaler.partial_fit(x[start : start + BLOCK])
        for start in range(0, len(x), BLOCK):
            block = x[start : start + BLOCK]
            block -= scaler.mean_
            block /= scaler.scale_
    bad = ~(np.isfinite(scaler.scale_) & np.isfinite(x).all(axis=0))
    if bad.any():
        raise BadData(f"feature {feature_names(pipeline)[int(bad.argmax())]!r} is too large to standardise")
    return x


def _unscaled(pipeline, frame, rows) -> np.ndarray:
    """What the step "columns" makes of those rows: of numbers without scikit-learn's copies of them."""
    columns = pipeline.named_steps["columns"]
    x = np.empty((len(rows), len(feature_names(pipeline))))
    for name, step, names in columns.transformers_:
        if names:
            at = columns.output_indices_[name]
            numbers = [frame[each].to_numpy() for each in names] if isinstance(step, SimpleImputer) else None
            for start in range(0, len(rows), BLOCK):
                part, out = rows[start : start + BLOCK], x[start : start + BLOCK, at]
                if numbers is None:
                    out[:] = step.transform(frame[names].iloc[part])
                else:
                    _impute(step, numbers, part, out)
    return x


def _impute(imputer: SimpleImputer, numbers, part, out):
    """What the imputer makes of those rows of its columns."""
    indicators = {int(j): len(numbers) + i for i, j in enumerate(imputer.indicator_.features_)}
    for j, (column, instead) in enumerate(zip(numbers, imputer.statistics_, strict=True)):
        values = column[part]
        missing = np.isnan(values)
        if missing.any():
            values[missing] = instead
        out[:, j] = values
        if j in indicators:
            out[:, indicators[j]] = missing


def _sample(frame, rows) -> np.ndarray:
    """Of those rows the ones that tell medians, and every category and every column that has missing values."""
    if len(rows) <= SAMPLE:
        return rows
    chosen = np.zeros(len(rows), bool)
    chosen[:: -(-len(rows) // SAMPLE)] = True
    for name in frame.columns:
        if frame[name].hasnans:
            missing = frame[name].isna().to_numpy()[rows]
            chosen[missing.argmax()] |= missing.any()
        if frame[name].dtype == object:
            chosen |= ~frame[name].iloc[rows].duplicated().to_numpy()
    return rows[chosen]


def feature_names(pipeline: Pipeline) -> list[str]:
    """What the features are called: as their column, or "city_Paris" for a category."""
    return [name.split("__", 1)[1] for name in pipeline.named_steps["columns"].get_feature_names_out()]


# ---------------------------------------------------------------------- files


class Saved(NamedTuple):
    """A trained model: the Pipeline, and what its data were."""

    pipeline: Pipeline
    columns: list[Column]
    label: str  # the name of the column of the labels
    names: list[str]  # of all columns of its file
    header: bool


# Types in a model that skops asks about: whoever loads one without `load` trusts them by name.
TYPES = [
    "crossentropy.cli.model.SoftmaxRegression",
    "crossentropy.cli.model.date_part_names",
    "crossentropy.cli.model.date_parts",
    "numpy.dtype",
]


def skops():
    """skops.io, without PyTorch and pytest: it goes through all of scikit-learn, of which parts would import these."""
    blocked = [name for name in ("torch", "pytest") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))
    try:
        from skops import io
    finally:
        for name in blocked:
            del sys.modules[name]
    return io


def as_file(saved: Saved) -> bytes:
    """A model as the bytes of a .skops file: a dict of the fields of `Saved`, columns as lists."""
    io = skops()
    document = saved._asdict() | {"columns": [list(column) for column in saved.columns]}
    return io.dumps(document, compression=zipfile.ZIP_DEFLATED)


def load(path) -> Saved:
    """The model in a .skops file, which may hold no other types than scikit-learn's and this package's."""
    io = skops()
    try:
        unknown = set(io.get_untrusted_types(file=path)) - set(TYPES)
        if unknown:
            raise BadData(f"{path}: holds types that no model of this package has: {', '.join(sorted(unknown))}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another version of scikit-learn
            document = io.load(path, trusted=TYPES)
        return Saved(**document | {"columns": [Column(*column) for column in document["columns"]]})
    except BadData:
        raise
    except FileNotFoundError:
        raise BadData(f"{path}: no such file") from None
    except Exception as error:  # not a zip, not skops', not ours
        raise BadData(f"{path}: not a model that crossentropy train wrote (model.skops): {error}") from None
