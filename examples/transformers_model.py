"""A small Llama of the library transformers, trained with its own loss, with this package's, and with no logits at all.

python examples/transformers_model.py
"""

import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from crossentropy.torch import patch
from crossentropy.transformers import causal_lm_loss, fuse_head

CLASSES = 500


def train(model: LlamaForCausalLM, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[float]:
    """The losses of steps of four micro-batches, each mean over the tokens of all four."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for start in range(0, len(batches), 4):
        step = batches[start : start + 4]
        count = sum(int((labels[:, 1:] != -100).sum()) for _, labels in step)
        total = 0.0
        for tokens, labels in step:
            loss = model(tokens, labels=labels, num_items_in_batch=count, use_cache=False).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def main() -> None:
    """The same losses four times."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=CLASSES, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    model, batches = LlamaForCausalLM(config).train(), []
    for _ in range(40):  # each token is the one before plus 1 or 2, and the rows are of unequal lengths
        tokens = (torch.randint(CLASSES, (4, 1)) + torch.randint(1, 3, (4, 24)).cumsum(1)) % CLASSES
        labels = torch.where(torch.arange(24) < torch.randint(8, 25, (4, 1)), tokens, -100)
        batches.append((tokens, labels))
    losses = {"its own loss": train(copy.deepcopy(model), batches)}
    with patch() as patched:
        losses["its own loss, under patch()"] = train(copy.deepcopy(model), batches)
    other = copy.deepcopy(model)
    other.loss_function = causal_lm_loss
    losses["causal_lm_loss"] = train(other, batches)
    losses["fuse_head"] = train(fuse_head(model), batches)
    for name, found in losses.items():
        print(f"{name:>28}: {found[0]:.6f} -> {found[-1]:.6f}")
    print(patched)
    apart = max(abs(x - y) for found in losses.values() for x, y in zip(found, losses["its own loss"], strict=True))
    print(f"the losses differ by {apart:.1e} at most")
    assert apart < 1e-3


if __name__ == "__main__":
    main()
