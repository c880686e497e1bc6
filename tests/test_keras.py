"""Keras trains with the losses, on both of its backends that they are for, as it does with its own."""

import pytest
from subprocesses import run

pytest.importorskip("keras", reason="needs Keras")

PROGRAM = """
import doctest, warnings
warnings.simplefilter("ignore")  # keras and its backends have some of their own
import numpy as np
import crossentropy
import keras
from crossentropy import keras as ours

rng = np.random.default_rng(1)
x, y = rng.normal(size=(60, 5)).astype("float32"), rng.integers(0, 3, 60)
y[:9] = -1
weight = rng.random(60).astype("float32")
q = rng.dirichlet(np.ones(3), 60).astype("float32")

def trained(loss, y, **fit):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1), loss=loss)
    history = model.fit(x, y, batch_size=20, epochs=2, shuffle=False, verbose=0, **fit)
    return history.history["loss"] + model.get_weights()

def alike(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)

own = keras.losses
alike(trained(ours.SparseCategoricalCrossentropy(ignore_class=-1), y, sample_weight=weight),
      trained(own.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), y, sample_weight=weight))
alike(trained(ours.CategoricalCrossentropy(label_smoothing=0.1), q),
      trained(own.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), q))

logits, labels = rng.normal(size=(4, 3, 2, 5)).astype("float32"), rng.integers(0, 3, (4, 2, 5))
for name, ignored in (("sum_over_batch_size", 1), ("mean", None), ("sum", 1), (None, None), (None, 1)):
    mine = ours.SparseCategoricalCrossentropy(ignore_class=ignored, reduction=name, axis=1)
    last = own.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored, reduction=name)
    want = last(labels, np.moveaxis(logits, 1, -1))  # Keras's own takes other axes on some backends only
    alike([keras.ops.convert_to_numpy(mine(labels, logits))], [keras.ops.convert_to_numpy(want)])

again = ours.SparseCategoricalCrossentropy.from_config(ours.SparseCategoricalCrossentropy(ignore_class=2).get_config())
assert again.ignore_class == 2
again = ours.CategoricalCrossentropy.from_config(ours.CategoricalCrossentropy(label_smoothing=0.5).get_config())
assert again.label_smoothing == 0.5
for make, message in (
    (lambda: ours.SparseCategoricalCrossentropy(from_logits=False), "from_logits must be True, got False"),
    (lambda: ours.CategoricalCrossentropy(label_smoothing=2), "label_smoothing must be in [0, 1], got 2"),
):
    try:
        make()
        raise AssertionError("no error")
    except ValueError as error:
        assert message in str(error), error
assert doctest.testmod(ours, extraglobs={"np": np, "crossentropy": crossentropy}).failed == 0
print("trained on", keras.backend.backend())
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_trains(backend):
    pytest.importorskip(backend)
    assert run(PROGRAM, timeout=240, KERAS_BACKEND=backend) == f"trained on {backend}\n"


@pytest.mark.slow
def test_a_backend_of_keras_that_it_is_not_for():
    run(
        """
        import numpy as np
        from crossentropy.keras import SparseCategoricalCrossentropy

        try:
            SparseCategoricalCrossentropy()(np.array([0]), np.zeros((1, 2)))
            raise AssertionError("no error")
        except RuntimeError as error:
            assert "is for Keras's backends 'jax' and 'torch', got 'numpy'" in str(error), error
        """,
        options=("-W", "ignore"),
        KERAS_BACKEND="numpy",
    )
