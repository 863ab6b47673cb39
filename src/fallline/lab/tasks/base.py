"""What a task is: data, a model and a loss; the lab owns everything else."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch


class Task(ABC):
    """A learning problem on which optimizers are compared.

    Attributes:
        name: as given on the command line.
        steps: optimizer steps of a full run.
        summary: one line for people: data, model, what is measured.
    """

    name: ClassVar[str]
    steps: ClassVar[int]
    summary: ClassVar[str]

    @abstractmethod
    def model(self) -> torch.nn.Module:
        """Return a freshly initialised model; the lab has seeded torch's generator."""

    @abstractmethod
    def batches(self, split: str, generator: torch.Generator) -> Iterator[Any]:
        """Yield batches of "train" (without end, shuffled by `generator`), "val" or "test" (one pass each)."""

    @abstractmethod
    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar."""

    @abstractmethod
    def size(self, batch: Any) -> int:
        """Return how many items a batch holds; averages over batches weigh by it."""

    @abstractmethod
    def trivial_loss(self) -> float:
        """Return the validation loss of the best predictor that ignores its input; worse is "not learned"."""

    def evaluate(self, model: torch.nn.Module, batch: Any) -> dict[str, float]:
        """Return further metrics of a batch, each a mean over its items."""
        return {}
