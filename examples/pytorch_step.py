"""A step of training in PyTorch, its loss by this package and by PyTorch, side by side.

python examples/pytorch_step.py
"""

import torch

from crossentropy.torch import cross_entropy, linear_cross_entropy

OURS = "crossentropy.torch"


def main() -> None:
    """The same loss and the same gradients; and those of hidden states, with no logits at all."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Tanh())
    head = torch.nn.Linear(64, 500)
    batch, targets = torch.randn(256, 16), torch.randint(0, 500, (256,))
    gradients = {}
    losses = {
        "torch": lambda: torch.nn.functional.cross_entropy(head(model(batch)), targets, label_smoothing=0.1),
        OURS: lambda: cross_entropy(head(model(batch)), targets, label_smoothing=0.1),
        "of hidden states": lambda: linear_cross_entropy(
            model(batch), head.weight, targets, linear_bias=head.bias, label_smoothing=0.1
        ),
    }
    for name, loss_of in losses.items():
        head.zero_grad()
        loss = loss_of()
        loss.backward()
        gradients[name] = head.weight.grad.clone()
        print(f"{name:>18}: loss {loss.item():.7f}, gradient's norm {gradients[name].norm().item():.7f}")
    apart = max((gradients["torch"] - other).abs().max().item() for other in gradients.values())
    print(f"the gradients differ by {apart:.1e} at most, of {gradients[OURS].abs().max().item():.1e}")
    assert apart < 1e-7


if __name__ == "__main__":
    main()
