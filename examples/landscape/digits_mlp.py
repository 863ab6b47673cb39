"""Data and model of the examples on sharpness: 400 handwritten digits in one batch, and a small tanh network."""

import torch
from sklearn.datasets import load_digits
from torch import nn


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs (400, 64), centred, and targets (400, 10), one-hot."""
    images, digits = load_digits(return_X_y=True)
    inputs = torch.tensor(images[:400] / 16, dtype=torch.float32)
    return inputs - inputs.mean(0), nn.functional.one_hot(torch.tensor(digits[:400]), 10).float()


def network(seed: int = 0) -> nn.Module:
    """Return the network 64-32-32-10, initialised from a seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


def squared_error(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return half the squared error per example, averaged over the batch."""
    inputs, targets = batch
    return (model(inputs) - targets).square().sum(1).mean() / 2
