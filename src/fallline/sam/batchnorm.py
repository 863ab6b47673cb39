"""Freeze the running statistics of batch normalization for a second forward pass over the same batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_batchnorm(model: torch.nn.Module) -> Iterator[None]:
    """Freeze the running statistics of all batch normalization layers in `model` for the duration of the block.

    The layers stay in training mode and normalize by the statistics of the batch, but `running_mean`, `running_var`
    and `num_batches_tracked` do not change. This applies to `BatchNorm1d` to `BatchNorm3d` and `SyncBatchNorm`.

    Example:
        >>> import torch, fallline as fl
        >>> layer = torch.nn.BatchNorm1d(1)
        >>> with fl.frozen_batchnorm(layer):
        ...     [round(x, 3) for x in layer(torch.tensor([[1.0], [3.0]])).flatten().tolist()]
        [-1.0, 1.0]
        >>> layer.running_mean.item(), layer.num_batches_tracked.item()
        (0.0, 0)
    """
    # A momentum of 0 does not work: num_batches_tracked would still increase, and 0·Inf would make running_var NaN.
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
