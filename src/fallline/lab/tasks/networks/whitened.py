"""A small convolutional network for CIFAR-10 that learns quickly (after Jordan 2024, 2404.00498)."""

import torch
from torch import nn

_EPS = 5e-4  # added to the variances of the patches, so that the weakest directions are not amplified
_MOMENTUM = 0.4  # of the running averages of BatchNorm, which runs of a few hundred steps need to be fast
_LOGIT_SCALE = 1 / 9


class _Whitening(nn.Module):
    """A fixed 2 × 2 convolution whose outputs have variance 1 and are uncorrelated, and a trained bias.

    Its filters are the principal components of the patches of training images, each with both signs.
    """

    filters: torch.Tensor

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        channels = images.shape[1]
        patches = nn.functional.unfold(images, 2).transpose(1, 2).reshape(-1, 4 * channels)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + _EPS).sqrt()).T.reshape(-1, channels, 2, 2)
        self.register_buffer("filters", torch.cat([filters, -filters]))
        self.bias = nn.Parameter(torch.zeros(8 * channels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.filters, self.bias)


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    for layer in (first, second):
        nn.init.dirac_(layer.weight[: layer.in_channels])  # each input channel is passed on; the others stay random
    norms = [nn.BatchNorm2d(outputs, momentum=_MOMENTUM) for _ in range(2)]
    return [first, nn.MaxPool2d(2), norms[0], nn.GELU(), second, norms[1], nn.GELU()]


class _Scale(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return _LOGIT_SCALE * logits


def whitened_cnn(images: torch.Tensor, widths: tuple[int, int, int] = (16, 64, 128), classes: int = 10) -> nn.Module:
    """Return a network of six 3 × 3 convolutions behind a fixed one that whitens patches of 2 × 2 pixels.

    Its input is images (n, 3, 32, 32) and its output logits (n, classes).

    Args:
        images: training images (n, 3, 32, 32) from which the whitening is computed.
        widths: channels of the three blocks, of two convolutions each.
        classes: number of classes.
    """
    return nn.Sequential(
        _Whitening(images),
        nn.GELU(),
        *_block(8 * images.shape[1], widths[0]),
        *_block(widths[0], widths[1]),
        *_block(widths[1], widths[2]),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(widths[2], classes, bias=False),
        _Scale(),
    )
