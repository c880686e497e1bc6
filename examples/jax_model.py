"""A small network trained by JAX, with the loss of crossentropy.jax inside of jit, grad and vmap.

    python examples/jax_model.py

Softmax regression on random features, by gradient descent; then the same gradient for each observation by itself.
"""

import jax
import jax.numpy as jnp
import numpy as np

from crossentropy.jax import softmax_cross_entropy_with_integer_labels


def logits_of(weight, x):
    """The last layer, on fixed random features."""
    features = jax.random.normal(jax.random.key(1), (x.shape[-1], len(weight))) * 0.4
    return jnp.tanh(x @ features) @ weight


def loss_of(weight, x, labels):
    """The mean over the observations: its value and gradient take one pass over the logits."""
    return softmax_cross_entropy_with_integer_labels(logits_of(weight, x), labels).mean()


@jax.jit
def step(weight, x, labels):
    """One step of gradient descent."""
    loss, gradient = jax.value_and_grad(loss_of)(weight, x, labels)
    return weight - 0.5 * gradient, loss


def main() -> None:
    """Train on one half of points about six centres, and look at the other."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 2000)
    x = (rng.standard_normal((6, 4)) * 2)[labels] + rng.standard_normal((2000, 4))
    weight = jnp.zeros((64, 6))
    for turn in range(101):
        weight, loss = step(weight, x[::2], labels[::2])
        if turn % 25 == 0:
            print(f"step {turn}: loss {loss:.4f}")
    each = jax.vmap(jax.grad(loss_of), (None, 0, 0))(weight, x[:8, None], labels[:8, None])
    print("gradients of eight observations, their norms:", np.linalg.norm(each, axis=(1, 2)).round(3))
    right = (logits_of(weight, x[1::2]).argmax(-1) == labels[1::2]).mean()
    print(f"afterwards: {right:.1%} right on the other half")


if __name__ == "__main__":
    main()
