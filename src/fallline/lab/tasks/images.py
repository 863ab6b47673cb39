"""Base class of image classification tasks: shuffled batches, cross-entropy and accuracy."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn

from fallline.errors import ArgumentError
from fallline.lab.tasks.base import Task

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_EVALUATED_AT_ONCE = 500  # images; limits the memory of an evaluation, and 1,000 are slower per image


def hold_out(data: Batch, count: int, seed: int) -> tuple[Batch, Batch]:
    """Split images and labels into two parts: all but `count` examples, and `count` examples chosen by the seed.

    Example:
        >>> kept, held_out = hold_out((torch.arange(5), torch.arange(5)), 2, seed=0)
        >>> sorted(kept[0].tolist() + held_out[0].tolist())
        [0, 1, 2, 3, 4]
    """
    images, labels = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept, held_out = order[count:], order[:count]
    return (images[kept], labels[kept]), (images[held_out], labels[held_out])


class Images(Task):
    """Images with one label each.

    Attributes:
        batch_size: images per step.
    """

    settings: ClassVar[Mapping[str, Any]] = {"batch_size": 64}
    batch_size: int

    @abstractmethod
    def load(self, split: str) -> Batch:
        """Return the images (n, channels, height, width) and the labels (n,) of a split."""

    def augment(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return training images from `load` with random augmentation; unchanged by default."""
        return images

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return a batch of images as model input, for example uint8 converted to float32."""
        return images

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield shuffled training batches indefinitely, or one pass over another split."""
        images, labels = self.load(split)
        if split != "train":
            for chunk, answers in zip(images.split(_EVALUATED_AT_ONCE), labels.split(_EVALUATED_AT_ONCE), strict=True):
                yield self.prepare(chunk), answers
            return
        if not 1 <= self.batch_size <= len(labels):
            raise ArgumentError(
                f"task {self.name}: batch_size must be from 1 to {len(labels)}, the size of the training set, "
                f"got batch_size={self.batch_size}; the default is {self.settings['batch_size']}"
            )
        while True:
            order = torch.randperm(len(labels), generator=generator)
            for chosen in order.split(self.batch_size):
                if len(chosen) == self.batch_size:
                    yield self.prepare(self.augment(images[chosen], generator)), labels[chosen]

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy in nats."""
        images, labels = batch
        return nn.functional.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Return the loss and the fraction of images classified correctly, from one forward pass."""
        images, labels = batch
        logits = model(images)
        return {
            "loss": nn.functional.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        }

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the cross-entropy and the accuracy of every image, (n,) each."""
        images, labels = batch
        logits = model(images)
        return {
            "loss": nn.functional.cross_entropy(logits, labels, reduction="none"),
            "accuracy": (logits.argmax(1) == labels).double(),
        }

    def data_digest(self) -> str:
        """Return a hash of the images and labels of every split."""
        digest = hashlib.sha256()
        for split in ("train", "val", "test"):
            for tensor in self.load(split):
                digest.update(f"{split} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def trivial_loss(self) -> float:
        """Return the validation cross-entropy of always predicting the class frequencies of that split."""
        # The frequencies of the training set can score worse than an untrained network (digits: 2.313 against 2.303).
        frequencies = torch.bincount(self.load("val")[1]).double()
        return float(torch.special.entr(frequencies / frequencies.sum()).sum())
