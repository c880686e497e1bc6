"""The last layer of a language model: hidden states against a vocabulary, in micro-batches, and what memory it takes.

    python examples/language_model_loss.py

Sequences of several lengths, padded; the next token is the target; gradients of the weight are added up where they lie.
"""

import math
import tracemalloc

import numpy as np

import crossentropy

TOKENS, FEATURES, VOCABULARY = 128, 64, 8000


def peak(call) -> tuple[object, float]:
    """What a call returns, and the most that NumPy had meanwhile, in MB."""
    tracemalloc.start()
    with crossentropy.config(keep_memory=False):  # or the logits would lie where tracemalloc does not look
        found = call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found, most / 1e6


def main() -> None:
    """One batch, and the same in two halves."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((8, TOKENS, FEATURES), dtype=np.float32)
    weight = rng.standard_normal((VOCABULARY, FEATURES), dtype=np.float32) / 8
    tokens = rng.integers(0, VOCABULARY, (8, TOKENS))
    padded = np.where(np.arange(TOKENS) < rng.integers(20, TOKENS, (8, 1)), tokens, -100)
    states, targets = hidden[:, :-1], padded[:, 1:]  # a token is judged by the next one

    def all_logits():
        return crossentropy.cross_entropy_and_grad(states @ weight.T, targets, ignore_index=-100)

    def some_at_a_time():
        return crossentropy.linear_cross_entropy_and_grad(states, weight, targets, ignore_index=-100)

    whole, mb = peak(all_logits)
    print(f"all logits:    loss {whole.loss:.6f}, at most {mb:.0f} MB")
    found, mb = peak(some_at_a_time)
    print(f"hidden states: loss {found.loss:.6f}, at most {mb:.0f} MB, with the gradients on both")

    count, total, sums = float((targets != -100).sum()), 0.0, {"weight": np.zeros_like(weight)}
    for half in (slice(0, 4), slice(4, 8)):
        part = crossentropy.linear_cross_entropy_and_grad(
            states[half], weight, targets[half], ignore_index=-100, normalizer=count, out=sums, accumulate=True
        )
        total += float(part.loss)
    print(f"in two halves: loss {total:.6f}, perplexity {math.exp(total):.1f}")
    np.testing.assert_allclose(sums["weight"], found.weight, atol=1e-7)


if __name__ == "__main__":
    main()
