"""Keras 3's losses of logits by this package's kernels, on Keras's JAX and PyTorch backends.

    from crossentropy.keras import SparseCategoricalCrossentropy, CategoricalCrossentropy
    model.compile("adam", loss=SparseCategoricalCrossentropy())

They are Keras's losses of these names with ``from_logits=True``: the model's last layer has no softmax.
"""

from __future__ import annotations

from typing import Any

try:
    import keras
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}: crossentropy.keras needs it; pip install keras") from None
from keras import ops

__all__ = ["CategoricalCrossentropy", "SparseCategoricalCrossentropy"]

_OF_BATCH = ("sum_over_batch_size", "mean")  # which divide by the rows that count


def _losses(logits: Any, targets: Any, axis: int, smoothing: float = 0.0, counts: Any = None) -> Any:
    """The losses of the rows, by Keras's backend."""
    backend = keras.backend.backend()
    classes = counts is not None or len(targets.shape) < len(logits.shape)
    if backend == "jax":
        from . import jax as of_jax

        if classes:
            return of_jax.softmax_cross_entropy_with_integer_labels(logits, targets, axis, counts)
        smooth = (1 - smoothing) * targets + smoothing / logits.shape[axis] if smoothing else targets
        return of_jax.softmax_cross_entropy(logits, smooth, axis)
    if backend == "torch":
        from . import torch as of_torch

        if counts is not None:
            targets = ops.where(counts, targets, -100)
        logits = logits.movedim(axis, 1)
        targets = targets if classes else targets.movedim(axis, 1)
        return of_torch.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    raise RuntimeError(f"crossentropy.keras is for Keras's backends 'jax' and 'torch', got {backend!r}")


def _require_logits(from_logits: Any) -> None:
    if from_logits is not True:
        raise ValueError(
            f"from_logits must be True, got {from_logits!r}: it is of logits, and the last layer has no softmax"
        )


class SparseCategoricalCrossentropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy of classes, as `keras.losses.SparseCategoricalCrossentropy` of logits.

    Parameters
    ----------
    from_logits : True
        The only choice; there for calls that say so.
    ignore_class : int, optional
        Rows with this label do not count.
    reduction, axis, name, dtype : optional
        As Keras's.

    Raises
    ------
    ValueError
        For ``from_logits=False``.
    RuntimeError
        When it is called on a backend of Keras's that is neither JAX nor PyTorch.

    Notes
    -----
    In nats, as Keras's; the loss is eq. 6 of the note.

    Examples
    --------
    >>> loss = crossentropy.keras.SparseCategoricalCrossentropy()
    >>> round(float(loss(np.array([0, 1]), np.zeros((2, 2), np.float32))), 6)
    0.693147
    """

    def __init__(
        self,
        from_logits: bool = True,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        _require_logits(from_logits)
        self.ignore_class, self.axis = ignore_class, axis

    def _classes(self, y_true: Any, y_pred: Any) -> Any:
        classes = ops.cast(y_true, "int32")
        same_rank = len(classes.shape) == len(y_pred.shape) and classes.shape[self.axis] == 1
        return ops.squeeze(classes, self.axis) if same_rank else classes

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss, reduced."""
        if self.ignore_class is not None:
            classes = self._classes(ops.convert_to_tensor(y_true), y_pred)
            counts = ops.cast(ops.not_equal(classes, self.ignore_class), self.dtype)
            if self.reduction in _OF_BATCH:
                counts = counts * (ops.cast(ops.size(counts), self.dtype) / ops.maximum(ops.sum(counts), 1))
            if sample_weight is not None:
                weight = ops.convert_to_tensor(sample_weight, self.dtype)
                counts = counts * ops.reshape(weight, weight.shape + (1,) * (len(counts.shape) - len(weight.shape)))
            sample_weight = counts
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of the rows."""
        classes = self._classes(y_true, y_pred)
        counts = None if self.ignore_class is None else ops.not_equal(classes, self.ignore_class)
        return _losses(y_pred, classes, self.axis, counts=counts)

    def get_config(self) -> dict[str, Any]:
        """What a saved model needs to have it again."""
        return {**super().get_config(), "ignore_class": self.ignore_class, "axis": self.axis}


class CategoricalCrossentropy(keras.losses.Loss):  # type: ignore[misc]
    """Cross-entropy of probabilities or one-hot labels, as `keras.losses.CategoricalCrossentropy` of logits.

    Parameters
    ----------
    from_logits : True
        The only choice; there for calls that say so.
    label_smoothing : float in [0, 1], default 0
        epsilon: labels become (1 - epsilon) of themselves plus epsilon / C.
    axis, reduction, name, dtype : optional
        As Keras's.

    Raises
    ------
    ValueError, RuntimeError
        As for `SparseCategoricalCrossentropy`.

    Notes
    -----
    In nats, as Keras's; the loss is eq. 5 of the note.

    Examples
    --------
    >>> loss = crossentropy.keras.CategoricalCrossentropy(label_smoothing=0.1)
    >>> round(float(loss(np.eye(2, dtype=np.float32), np.zeros((2, 2), np.float32))), 6)
    0.693147
    """

    def __init__(
        self,
        from_logits: bool = True,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        _require_logits(from_logits)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing!r}")
        self.label_smoothing, self.axis = label_smoothing, axis

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The losses of the rows."""
        return _losses(y_pred, y_true, self.axis, self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        """What a saved model needs to have it again."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing, "axis": self.axis}
