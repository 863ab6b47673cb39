"""What the tests of the monitor train."""

import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def batch(seed, n=8):
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, k, generator=g, dtype=torch.float64) for k in (3, 2))
