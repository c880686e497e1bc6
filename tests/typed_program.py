"""A program of a user's, for mypy --strict: the lines with a comment are errors, of that kind; the others are none."""

import numpy as np

import crossentropy
from crossentropy import autograd, distributions, training
from crossentropy.testing import conformance

x, y = np.zeros((2, 3), np.float32), np.array([0, 1])
options: crossentropy.LossOptions = {"label_smoothing": 0.1, "reduction": "sum"}

loss, grad = crossentropy.cross_entropy_and_grad(x, y, z_loss=1e-4, normalizer=2.0, grad_output=0.5, out=x)
grad.sum(axis=0)
crossentropy.cross_entropy([[1.0, 2.0]], [0], class_weight=[1.0, 2.0], ignore_index=-100)
crossentropy.cross_entropy(x, y, **options)
crossentropy.cross_entropy_grad(x, y, reduction="none", sample_weight=np.ones(2)).astype(np.float64)
crossentropy.log_softmax(x, axis=0, out=x).max()
float(crossentropy.logsumexp(x[0]))
found, saved = autograd.forward(x, y, label_smoothing=0.1)
autograd.backward(saved, out=x).any()
entropy: float = distributions.entropy([0.5, 0.5])
model, costs = training.fit(x, y, epochs=1)
model.predict(x).sum()
model.loss(x, y, z_loss=1e-4)
with crossentropy.config(backend="native", threads=1):
    available: bool = crossentropy.backends()[0].available
crossentropy.set_config(threads=1, backend=None)
threads: int = crossentropy.get_config()["threads"]
for name, check in conformance():
    name.upper()
    check()

crossentropy.cross_entropy(x, y, label_smothing=0.1)  # call-arg
crossentropy.cross_entropy(x, y, reduction="average")  # arg-type
crossentropy.cross_entropy_and_grad(x, y, z_loss="much")  # arg-type
crossentropy.cross_entropy_grad(x, y, out=[0.0])  # arg-type
crossentropy.config(thread=1)  # call-arg
crossentropy.set_config(threads="1")  # arg-type
crossentropy.softmax(x, keepdims=True)  # call-arg
autograd.forward(x, y, smoothing=0.1)  # call-arg
crossentropy.cross_entropi(x, y)  # attr-defined
wrong: crossentropy.LossOptions = {"z_los": 0.1}  # typeddict-unknown-key
