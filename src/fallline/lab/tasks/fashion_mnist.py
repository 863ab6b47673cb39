"""Fashion-MNIST: 70,000 grey images of clothes, 28 × 28 pixels, in ten classes (Xiao et al. 2017, 1708.07747)."""

import functools
import gzip
import os
import struct
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from fallline.errors import StudyError
from fallline.lab.tasks.images import Batch, Images

_SPLIT_SEED = 60000  # the split is part of the task: the same for every study
_VALIDATION = 1 / 30  # of the training images: 2,000; a run evaluates them twenty times, and that must stay cheap
_MEAN, _SD = 0.2860, 0.3530  # of the pixels of the training set, on the scale from 0 to 1
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@functools.cache
def _read(part: str) -> Batch:
    """Return the images (n, 1, 28, 28) as bytes and the labels (n,) of the archive's "train" or "t10k"."""
    images = torch.from_numpy(_idx(_find(f"{part}-images-idx3-ubyte.gz"), 3)).unsqueeze(1)
    labels = torch.from_numpy(_idx(_find(f"{part}-labels-idx1-ubyte.gz"), 1)).long()
    return images, labels


@functools.cache
def load(split: str) -> Batch:
    """Return the images (n, 1, 28, 28) as bytes and the labels (n,) of "train", "val" or "test"."""
    if split == "test":
        return _read("t10k")
    images, labels = _read("train")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    n = round(len(labels) * _VALIDATION)
    chosen = order[:n] if split == "val" else order[n:]
    return images[chosen], labels[chosen]


def _find(name: str) -> Path:
    folders = [Path(os.environ["FALLLINE_DATA"])] if "FALLLINE_DATA" in os.environ else []
    for folder in (*folders, _DEBIAN):
        if (folder / name).is_file():
            return folder / name
    raise StudyError(
        f"task fashion-mnist: {name} must be in the folder FALLLINE_DATA or in {_DEBIAN}, got neither; "
        "install Debian's package dataset-fashion-mnist, or set FALLLINE_DATA"
    )


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the array in a gzipped IDX file: two zero bytes, 8 for bytes, the number of axes, their sizes, data."""
    data = gzip.decompress(path.read_bytes())
    shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    return np.frombuffer(bytearray(data), np.uint8, offset=4 + 4 * dimensions).reshape(shape)


class FashionMNIST(Images):
    """Fashion-MNIST under a small convolutional network."""

    name: ClassVar[str] = "fashion-mnist"
    steps: ClassVar[int] = 1000
    summary: ClassVar[str] = "Fashion-MNIST, 70,000 images (28 × 28), CNN of 55,594 parameters, cross-entropy, batch 64"

    def model(self) -> nn.Module:
        """Return two convolutions of stride 2 (16 and 32 channels) and two linear layers."""
        # Strides instead of pooling: 2.5 ms a step of 64 images on one thread, against 6.8 and more.
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 7 * 7, 32),
            nn.ReLU(),
            nn.Linear(32, 10),
        )

    def load(self, split: str) -> Batch:
        """Return images (n, 1, 28, 28) as bytes and labels (n,) of a split."""
        return load(split)

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return images as float32 of mean 0 and variance 1 over the training set."""
        return images.float().div_(255).sub_(_MEAN).div_(_SD)
