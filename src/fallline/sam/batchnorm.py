"""Batch normalisation that does not learn from a second look at the same batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_batchnorm(model: torch.nn.Module) -> Iterator[None]:
    """Keep the running statistics of every batch normalisation in `model` as they are, for the duration of the block.

    Training goes on: each layer still normalises by the statistics of its batch. Neither `running_mean` and
    `running_var` nor `num_batches_tracked` changes, in `BatchNorm1d` to `3d` and in `SyncBatchNorm`.

    Example:
        >>> import torch, fallline as fl
        >>> layer = torch.nn.BatchNorm1d(1)
        >>> with fl.frozen_batchnorm(layer):
        ...     [round(x, 3) for x in layer(torch.tensor([[1.0], [3.0]])).flatten().tolist()]
        [-1.0, 1.0]
        >>> layer.running_mean.item(), layer.num_batches_tracked.item()
        (0.0, 0)
    """
    # A momentum of 0 would not do: num_batches_tracked rises all the same, and 0·Inf spoils the running variance.
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
