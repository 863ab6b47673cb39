"""A deep autoencoder, the classic test of optimizers (Hinton and Salakhutdinov 2006; Martens 2010)."""

from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from fallline.lab.tasks.digits import OnDigits, load_pool
from fallline.lab.tasks.supervised import Batch

_WIDTHS = (64, 128, 64, 32, 8)  # of the encoder; the decoder mirrors them


class DigitsAutoencoder(OnDigits):
    """Digits compressed to 8 numbers and reconstructed.

    The papers have 784 pixels, widths 1000, 500, 250 and 30, and logistic units, which need pretraining or a sparse
    initialization. Here the units are tanh with the initialization of Glorot and Bengio (2010). The code is linear and
    the loss is the cross-entropy of the pixels, as in the papers.
    """

    name: ClassVar[str] = "digits-autoencoder"
    steps: ClassVar[int] = 1000
    summary: ClassVar[str] = "1,797 handwritten digits (8 × 8), tanh autoencoder 64-128-64-32-8-32-64-128-64, batch 64"
    network: ClassVar[str] = "perceptron"
    unit: ClassVar[str] = "nats per image"

    def model(self) -> nn.Module:
        """Return the autoencoder, which maps pixels (n, 64) to the logits (n, 64) of their reconstruction."""
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((*_WIDTHS, *reversed(_WIDTHS[:-1]))):
            linear = nn.Linear(inputs, outputs)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear] if outputs == _WIDTHS[-1] else [linear, nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def load(self, split: str) -> Batch:
        """Return the pixels (n, 64) of a split, from 0 to 1, as inputs and as targets."""
        pixels = load_pool()[0].flatten(1)
        chosen = self.rows(split)
        return pixels[chosen], pixels[chosen]

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the cross-entropy and the squared error of every image, summed over its pixels, (n,) each."""
        pixels, targets = batch
        logits = model(pixels)
        entropy = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return {"loss": entropy.sum(1), "squared_error": (logits.sigmoid() - targets).square().sum(1)}

    def trivial_loss(self) -> float:
        """Return the validation loss of always reconstructing the mean image of that split."""
        mean = self.load("val")[1].double().mean(0)
        return float((torch.special.entr(mean) + torch.special.entr(1 - mean)).sum())
