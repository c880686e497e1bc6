"""Linear cross-entropy: the loss of hidden states against a vocabulary."""
