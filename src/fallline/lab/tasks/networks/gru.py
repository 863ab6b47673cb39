"""A gated recurrent network for bytes (Cho et al. 2014, 1406.1078)."""

import torch
from torch import nn


class ByteGRU(nn.Module):
    """An embedding, layers of gated recurrent units, and a linear layer.

    The state is zero before the first byte, and every layer has two biases for each gate, as in cuDNN.

    Args:
        width: size of the embedding.
        units: recurrent units per layer.
        depth: number of recurrent layers.
    """

    def __init__(self, width: int, units: int, depth: int) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.recurrent = nn.GRU(width, units, depth, batch_first=True)
        self.head = nn.Linear(units, 256)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Return logits (n, length, 256) of the next byte at each position; `text` is (n, length) of dtype int64."""
        states, _ = self.recurrent(self.token(text))
        return self.head(states)  # type: ignore[no-any-return]
