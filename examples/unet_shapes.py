"""Segment discs and squares in noise with a small U-Net: `fallline compare examples/unet_shapes.py:Shapes --quick`."""
# ruff: noqa: D102

import torch
from torch import nn

import fallline


def _conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


class _Skip(nn.Sequential):
    def forward(self, fine):  # concatenates the features of the full and of the half resolution
        return torch.cat([fine, super().forward(fine)], 1)


@fallline.task(steps=200, unit="nats", batch_size=16)
class Shapes:
    """Discs and squares in images of 24 × 24 noisy pixels, U-Net of two levels, cross-entropy per pixel."""

    def model(self):
        low = _Skip(nn.MaxPool2d(2), _conv(16, 16), nn.Upsample(scale_factor=2))
        middle = _Skip(nn.MaxPool2d(2), _conv(8, 16), low, _conv(32, 16), nn.Upsample(scale_factor=2))
        return nn.Sequential(_conv(1, 8), middle, _conv(24, 8), nn.Conv2d(8, 3, 1))

    def batches(self, split, generator):
        source = generator if split == "train" else torch.Generator().manual_seed({"val": 1, "test": 2}[split])
        for _ in iter(int, 1) if split == "train" else range(128 // self.batch_size):
            down, across, size = torch.empty(3, self.batch_size, 2, 1, 1).uniform_(5, 19, generator=source)
            down, across = (torch.arange(24.0)[:, None] - down).abs(), (torch.arange(24.0) - across).abs()
            disc, square = down.hypot(across) < size / 2.5, torch.maximum(down, across) < size / 3
            target = torch.where(disc[:, 0], 1, torch.where(square[:, 1], 2, 0))
            yield target[:, None].sign() + torch.randn(target[:, None].shape, generator=source) / 4, target

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])
