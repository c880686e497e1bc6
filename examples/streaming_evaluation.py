"""A character model's logits of the whole of its held-out text, evaluated as they come, in parts that are merged.

The logits are made a sequence at a time and are never all there. Every second one goes to another evaluation, as if to
another process; merged, and in any order, they have the bits of one evaluation of all.
"""

import torch
from character_model import HEADS, LENGTH, Corpus, held_out_loss, text, train

import crossentropy


@torch.no_grad()
def parts(model, corpus, length=8 * LENGTH):
    """The logits and targets of the held-out text, a sequence after the other."""
    for sequence in corpus.held_out.unfold(0, length + 1, length):
        logits, _ = model(sequence[None, :-1])
        yield logits[0], sequence[1:]


def main():
    """Train for a few seconds, evaluate, print."""
    torch.set_num_threads(1)
    corpus = Corpus.of(text())
    (run,) = train(HEADS["crossentropy"], corpus=corpus, steps=30)

    whole, one, other = crossentropy.Evaluation(), crossentropy.Evaluation(), crossentropy.Evaluation()
    for i, (logits, targets) in enumerate(parts(run.model, corpus)):
        whole.update(logits, targets)
        (one if i % 2 else other).update(logits, targets)
    found = whole.compute()
    print(f"{len(corpus.characters)} characters, {found.rows} of held-out text\n\n{found}\n")

    merged = other.merge_state(one).compute()
    print(f"two evaluations of half of it each, merged: the same bits: {merged.to_json() == found.to_json()}")
    by_torch = held_out_loss(run.model, corpus, HEADS["torch"])
    print(f"torch's loss of all logits at once, in float32: {by_torch:.6f}, {by_torch - found.loss:+.1e}")
    often = found.class_counts.argsort()[-5:][::-1]
    for c in often:
        recall = found.right_counts[c] / found.class_counts[c]
        print(f"{corpus.characters[c]!r:5} p_c {found.p[c]:.4f}   p̂_c {found.q[c]:.4f}   found {recall:.3f}")


if __name__ == "__main__":
    main()
