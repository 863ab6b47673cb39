"""What tasks of image classification share: shuffled batches, cross-entropy and accuracy."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn

from fallline.errors import ArgumentError
from fallline.lab.tasks.base import Task

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_EVALUATED_AT_ONCE = 1000  # images; bounds the memory of an evaluation


class Images(Task):
    """Images with one label each.

    Attributes:
        batch_size: images a step.
    """

    settings: ClassVar[Mapping[str, Any]] = {"batch_size": 64}
    batch_size: int

    @abstractmethod
    def load(self, split: str) -> Batch:
        """Return the images (n, channels, height, width) and the labels (n,) of a split."""

    def augment(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return training images, as `load` gives them, with random changes; unchanged by default."""
        return images

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return images as the model is to see them: what is loaded as bytes becomes float32 a batch at a time."""
        return images

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield shuffled training batches without end, or the whole of another split once."""
        images, labels = self.load(split)
        if split != "train":
            for chunk, answers in zip(images.split(_EVALUATED_AT_ONCE), labels.split(_EVALUATED_AT_ONCE), strict=True):
                yield self.prepare(chunk), answers
            return
        if not 1 <= self.batch_size <= len(labels):
            raise ArgumentError(
                f"task {self.name}: batch_size must be from 1 to {len(labels)}, the size of the training set, "
                f"got batch_size={self.batch_size}"
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
        """Return the loss and the share of images classified rightly, from one forward pass."""
        images, labels = batch
        logits = model(images)
        return {
            "loss": nn.functional.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        }

    def trivial_loss(self) -> float:
        """Return the validation cross-entropy of always answering with the class frequencies of that split."""
        # Those of the training set can do worse than a network that has not been trained (digits: 2.313, 2.303).
        frequencies = torch.bincount(self.load("val")[1]).double()
        return float(torch.special.entr(frequencies / frequencies.sum()).sum())
