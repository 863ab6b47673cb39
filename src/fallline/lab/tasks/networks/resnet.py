"""A small residual network for CIFAR-10 (He et al. 2015, 1512.03385, section 4.2)."""

import torch
from torch import nn


class _Block(nn.Module):
    """Two 3 × 3 convolutions with a shortcut, which is a 1 × 1 convolution if the shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        # Option B of the paper: it trains as well as zero padding, and most libraries use it.
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the block's output; `images` is (n, channels, height, width)."""
        return nn.functional.relu(self.body(images) + self.shortcut(images))


def resnet8(classes: int = 10) -> nn.Module:
    """Return a network of 78,042 parameters: a convolution, three blocks of 16, 32 and 64 channels, a linear layer.

    Its input is images (n, 3, 32, 32) and its output logits (n, classes).
    """
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        _Block(16, 16, 1),
        _Block(16, 32, 2),
        _Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, classes),
    )
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model
