"""Base classes of supervised tasks: shuffled batches of examples with one target each; classification; regression."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import nn

from fallline.errors import ArgumentError
from fallline.lab.tasks.base import Task

Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]

_EVALUATED_AT_ONCE = 500  # examples; limits the memory of an evaluation, and 1,000 images are slower per image


def hold_out(data: Batch, count: int, seed: int) -> tuple[Batch, Batch]:
    """Split inputs and targets into two parts: all but `count` examples, and `count` examples chosen by the seed.

    Example:
        >>> kept, held_out = hold_out((torch.arange(5), torch.arange(5)), 2, seed=0)
        >>> sorted(kept[0].tolist() + held_out[0].tolist())
        [0, 1, 2, 3, 4]
    """
    inputs, targets = data
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    kept, held_out = order[count:], order[:count]
    return (inputs[kept], targets[kept]), (inputs[held_out], targets[held_out])


class Supervised(Task):
    """Examples with one target each.

    Attributes:
        batch_size: examples per step.
    """

    settings: ClassVar[Mapping[str, Any]] = {"batch_size": 64, "precision": "float32"}
    batch_size: int

    @abstractmethod
    def load(self, split: str) -> Batch:
        """Return the inputs and the targets of a split, (n, …) each."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the metrics of every example, (n,) each; one of them is "loss"."""

    def augment(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return training inputs from `load` with random augmentation; unchanged by default."""
        return inputs

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return a batch of inputs as the model takes them, for example uint8 converted to float32."""
        return inputs

    def batches(self, split: str, generator: torch.Generator) -> Iterator[Batch]:
        """Yield shuffled training batches indefinitely, or one pass over another split."""
        inputs, targets = self.load(split)
        if split != "train":
            for chunk, answers in zip(inputs.split(_EVALUATED_AT_ONCE), targets.split(_EVALUATED_AT_ONCE), strict=True):
                yield self.prepare(chunk), answers
            return
        for chosen in self.training_rows(len(targets), generator):
            yield self.prepare(self.augment(inputs[chosen], generator)), targets[chosen]

    def training_rows(self, count: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Yield the rows (batch_size,) of shuffled training batches out of `count` examples, indefinitely.

        Raises:
            ArgumentError: the training set has fewer than `batch_size` examples.
        """
        if not 1 <= self.batch_size <= count:
            raise ArgumentError(
                f"task {self.name}: batch_size must be from 1 to {count}, the size of the training set, "
                f"got batch_size={self.batch_size}; the default is {self.settings['batch_size']}"
            )
        while True:
            order = torch.randperm(count, generator=generator)
            yield from (chosen for chosen in order.split(self.batch_size) if len(chosen) == self.batch_size)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch."""
        return self.losses(model, batch)["loss"].mean()

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Return the mean of every metric, from one forward pass."""
        return {name: values.mean().item() for name, values in self.losses(model, batch).items()}

    def data_digest(self) -> str:
        """Return a hash of the inputs and targets of every split."""
        digest = hashlib.sha256()
        for split in ("train", "val", "test"):
            for tensor in self.load(split):
                digest.update(f"{split} {tuple(tensor.shape)} {tensor.dtype}".encode())
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()[:16]


class Classification(Supervised):
    """Cross-entropy and accuracy of examples with one class each."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean cross-entropy in nats."""
        inputs, labels = batch
        return nn.functional.cross_entropy(model(inputs), labels)

    def evaluate(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Return the loss and the fraction of examples classified correctly, from one forward pass."""
        inputs, labels = batch
        logits = model(inputs)
        return {
            "loss": nn.functional.cross_entropy(logits, labels).item(),
            "accuracy": (logits.argmax(1) == labels).double().mean().item(),
        }

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the cross-entropy and the accuracy of every example, (n,) each."""
        inputs, labels = batch
        logits = model(inputs)
        return {
            "loss": nn.functional.cross_entropy(logits, labels, reduction="none"),
            "accuracy": (logits.argmax(1) == labels).double(),
        }

    def trivial_loss(self) -> float:
        """Return the validation cross-entropy of always predicting the class frequencies of that split."""
        # The frequencies of the training set can score worse than an untrained network (digits: 2.313 against 2.303).
        frequencies = torch.bincount(self.load("val")[1]).double()
        return float(torch.special.entr(frequencies / frequencies.sum()).sum())


class Regression(Supervised):
    """Squared error of examples with one number each."""

    unit: ClassVar[str] = ""

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the squared and the absolute error of every example, (n,) each."""
        inputs, targets = batch
        errors = model(inputs).squeeze(1) - targets
        return {"loss": errors.square(), "absolute_error": errors.abs()}

    def trivial_loss(self) -> float:
        """Return the validation loss of always predicting the mean of that split, which is its variance."""
        return float(self.load("val")[1].double().var(correction=0))
