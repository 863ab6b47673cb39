"""A perceptron that predicts the noise in an image (Ho et al. 2020, 2006.11239)."""

import math

import torch
from torch import nn


class Denoiser(nn.Module):
    """A perceptron with two hidden layers that receives a noisy image and the time of the diffusion.

    Args:
        pixels: number of pixels.
        width: units of the hidden layers.
        frequencies: number of sines and of cosines that represent the time, each of twice the frequency of the one
            before.
    """

    frequencies: torch.Tensor

    def __init__(self, pixels: int, width: int, frequencies: int = 6) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(frequencies))
        self.body = nn.Sequential(
            nn.Linear(pixels + 2 * frequencies, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, pixels),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the predicted noise (n, pixels); `inputs` (n, pixels + 1) are noisy pixels, and a time from 0 to 1."""
        angles = inputs[:, -1:] * self.frequencies
        return self.body(torch.cat([inputs[:, :-1], angles.sin(), angles.cos()], 1))  # type: ignore[no-any-return]
