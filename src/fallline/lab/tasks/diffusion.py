"""Denoising diffusion of digits (Ho et al. 2020, 2006.11239)."""

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import nn

from fallline.lab.tasks.digits import OnDigits, load_pool
from fallline.lab.tasks.networks.denoiser import Denoiser
from fallline.lab.tasks.supervised import Batch

_NOISE_SEED = 1797  # of validation and test; an image has the same time and noise in every split


class DigitsDiffusion(OnDigits):
    """Predict the noise that was added to a digit.

    At time t from 0 to 1, the noisy image is cos(πt/2) image + sin(πt/2) noise: the variances of Nichol and Dhariwal
    (2021, 2102.09672), without their offset. Training draws new times and noise for every batch. An image of validation
    or test always has the same ones.
    """

    name: ClassVar[str] = "digits-diffusion"
    steps: ClassVar[int] = 2000
    summary: ClassVar[str] = "noise in 1,797 handwritten digits (8 × 8), denoising MLP 76-256-256-64, batch 64"
    network: ClassVar[str] = "perceptron"
    unit: ClassVar[str] = ""

    def model(self) -> nn.Module:
        """Return a perceptron with two hidden layers of 256 units."""
        return Denoiser(64, width=256)

    def load(self, split: str) -> Batch:
        """Return the pixels (n, 64) of a split, from -1 to 1, and the times and noise (n, 65) of an evaluation."""
        pixels = load_pool()[0].flatten(1) * 2 - 1
        draws = _draw(len(pixels), torch.Generator().manual_seed(_NOISE_SEED))
        chosen = self.rows(split)
        return pixels[chosen], draws[chosen]

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield noisy images with their times (n, 65), and noise (n, 64); all of "val" and "test" in one batch."""
        pixels, draws = self.load(split)
        if split != "train":
            yield _add_noise(pixels, draws)
            return
        for chosen in self.training_rows(len(pixels), generator):
            yield _add_noise(pixels[chosen], _draw(len(chosen), generator))

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the squared error of the noise of every image, the mean over its pixels, (n,)."""
        inputs, noise = batch
        return {"loss": (model(inputs) - noise).square().mean(1)}

    def trivial_loss(self) -> float:
        """Return the validation loss of always predicting the mean noise of every pixel in that split."""
        return float(self.load("val")[1][:, 1:].double().var(0, correction=0).mean())


def _draw(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return times, uniform from 0 to 1, and standard normal noise in the columns of (count, 65)."""
    return torch.cat([torch.rand(count, 1, generator=generator), torch.randn(count, 64, generator=generator)], 1)


def _add_noise(pixels: torch.Tensor, draws: torch.Tensor) -> Batch:
    times, noise = draws[:, :1], draws[:, 1:]
    angles = times * (math.pi / 2)
    return torch.cat([angles.cos() * pixels + angles.sin() * noise, times], 1), noise
