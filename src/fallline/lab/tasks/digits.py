"""Handwritten digits: 1,797 grey images of 8 × 8 pixels from the UCI archive, inside scikit-learn's wheel."""

import functools
from collections.abc import Iterator
from typing import ClassVar, TypeAlias

import torch
from torch import nn

from fallline.lab.tasks.base import Task

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

BATCH_SIZE = 64
_SPLIT_SEED = 1797  # the split is part of the task: the same for every study
_SIZES = {"train": 1077, "val": 360, "test": 360}


@functools.cache
def load(split: str) -> Batch:
    """Return the images (n, 1, 8, 8) scaled to [0, 1] and the labels (n,) of a split."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).div_(16).unsqueeze(1)
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    parts = dict(zip(_SIZES, order.split(list(_SIZES.values())), strict=True))
    return images[parts[split]], labels[parts[split]]


class Digits(Task):
    """Digits under a multilayer perceptron."""

    name: ClassVar[str] = "digits"
    steps: ClassVar[int] = 400
    summary: ClassVar[str] = "1,797 handwritten digits (8 × 8), MLP 64-128-128-10, cross-entropy, batch 64"

    def model(self) -> nn.Module:
        """Return a perceptron with two hidden layers of 128 units."""
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield shuffled training batches without end, or the whole of another split once."""
        images, labels = load(split)
        if split != "train":
            yield images, labels
            return
        while True:
            order = torch.randperm(len(labels), generator=generator)
            for start in range(0, len(labels) - BATCH_SIZE + 1, BATCH_SIZE):
                chosen = order[start : start + BATCH_SIZE]
                yield images[chosen], labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy in nats."""
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    def size(self, batch: Batch) -> int:
        """Return the number of images."""
        return len(batch[1])

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Return the share of images classified rightly."""
        images, labels = batch
        return {"accuracy": (model(images).argmax(1) == labels).double().mean().item()}

    def trivial_loss(self) -> float:
        """Return the validation cross-entropy of always answering with the class frequencies of that split."""
        # Those of the training set would do worse than a network that has not been trained (2.313 against 2.303).
        frequencies = torch.bincount(load("val")[1], minlength=10).double()
        return float(torch.special.entr(frequencies / frequencies.sum()).sum())


class DigitsCNN(Digits):
    """Digits under a small convolutional network."""

    name: ClassVar[str] = "digits-cnn"
    steps: ClassVar[int] = 300
    summary: ClassVar[str] = "1,797 handwritten digits (8 × 8), CNN of 2 convolutions, cross-entropy, batch 64"

    def model(self) -> nn.Module:
        """Return two 3 × 3 convolutions (16 and 32 channels), a 2 × 2 pooling after each, and a linear layer."""
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
