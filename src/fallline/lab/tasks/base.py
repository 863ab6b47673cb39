"""What a task is: data, a model and a loss; the lab owns everything else."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from fallline.errors import ArgumentError, suggest
from fallline.lab.tasks.download import Progress
from fallline.landscape.loss.batches import count_rows

T = TypeVar("T", bound="Task")

# What is tried of a task before its first trial; `fallline.lab.contract.checks` has the functions.
CHECKS = (
    "model",
    "batches",
    "size",
    "splits",
    "overlap",
    "resplit",
    "param_groups",
    "loss",
    "evaluate",
    "losses",
    "deterministic",
    "overfit",
)


class Task(ABC):
    """A learning problem on which optimizers are compared.

    Attributes:
        name: as given on the command line.
        steps: optimizer steps of a full run.
        summary: one line for people: data, model, what is measured.
        settings: what a study may set or vary of the task, with its default; each becomes an attribute.
        metric: what configurations are selected by, measured on validation; the test split's is the headline.
        mode: "min" when a smaller metric is better, "max" when a larger one is.
        unit: of the loss, for axes and tables; "" when it has none.
        precision: "float32", or "bfloat16" to run model and loss under autocast.
        accumulate: batches whose gradients are averaged into one step.
        resplit: whether the data are one pool that the task splits by `split_indices`; every confirmation seed then
            draws a split of its own.
        split_seed: which split; the default is the one that configurations are tuned on.
        split_sizes: the sizes of "pool", "train", "val" and "test" at the last call of `split_indices`; None before.
        skip_checks: names of checks of the contract that are not made, see CHECKS; the report lists them.
    """

    name: ClassVar[str]
    steps: ClassVar[int]
    summary: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    metric: ClassVar[str] = "val_loss"
    mode: ClassVar[str] = "min"
    unit: ClassVar[str] = "nats"
    precision: ClassVar[str] = "float32"
    accumulate: ClassVar[int] = 1
    resplit: ClassVar[bool] = False
    split_seed: int = 0
    split_sizes: Mapping[str, int] | None = None
    skip_checks: ClassVar[tuple[str, ...]] = ()

    def __new__(cls: type[T], *, split_seed: int | None = None, **settings: Any) -> T:
        """Create the task with other settings than its defaults; they are attributes before any `__init__` runs.

        Raises:
            ArgumentError: the task has no such setting, or it is of another type than its default.
        """
        task = super().__new__(cls)
        if split_seed is not None:
            task.split_seed = split_seed
        for key, value in {**cls.settings, **settings}.items():
            setattr(task, key, cls._setting(key, value))
        return task

    @classmethod
    def _setting(cls, key: str, value: Any) -> Any:
        if key not in cls.settings:
            known = ", ".join(cls.settings) or "none"
            raise ArgumentError(
                f"task {cls.name}: its settings are {known}, got {key}={value!r}; "
                + suggest(key, cls.settings, "leave it out")
            )
        kind = type(cls.settings[key])
        if kind is float and type(value) is int:  # `--vary lr_scale=1,0.5` means numbers of one kind
            return float(value)
        if type(value) is not kind:
            raise ArgumentError(
                f"task {cls.name}: {key} must be of type {kind.__name__}, got {key}={value!r}; "
                f"{cls.settings[key]} is its default"
            )
        return value

    @abstractmethod
    def model(self) -> torch.nn.Module:
        """Return a freshly initialised model; the lab has seeded torch's generator."""

    @abstractmethod
    def batches(self, split: str, generator: torch.Generator) -> Iterator[Any]:
        """Yield batches of "train" (without end, shuffled by `generator`), "val" or "test" (one pass each)."""

    @abstractmethod
    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar."""

    def size(self, batch: Any) -> int:
        """Return how many items a batch holds; averages over batches weigh by it.

        By default, the length of the first tensor that has one; of a batch of texts, how many there are.

        Raises:
            ArgumentError: there is nothing to count.
        """
        rows = count_rows(batch)
        if rows is None:
            raise ArgumentError(
                f"task {self.name}: size must be defined for batches without a tensor, got a batch of type "
                f"{type(batch).__name__}; write def size(self, batch) and return its number of items"
            )
        return rows

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor | Mapping[str, torch.Tensor] | None:
        """Return the loss of every item of a batch, (n,); their mean is `loss`. By default None, which means unknown.

        With them a verdict holds for new test examples too. A mapping gives further metrics of `evaluate` by item, such
        as {"loss": …, "accuracy": …}. Items must be independent of each other: a contiguous text gives one value per
        block, not one per byte.
        """
        return None

    def split_indices(self, count: int, val: float = 0.2, test: float = 0.2) -> dict[str, torch.Tensor]:
        """Return which of `count` examples are in "train", "val" and "test": (n,) indices each, drawn by `split_seed`.

        Args:
            count: size of the pool.
            val, test: how many examples; below 1, which share of the pool.

        Raises:
            ArgumentError: a part would be empty.

        Example:
            >>> from fallline.lab.tasks import Digits
            >>> {name: len(part) for name, part in Digits().split_indices(10).items()}
            {'train': 6, 'val': 2, 'test': 2}
        """
        sizes = [round(count * part) if part < 1 else int(part) for part in (val, test)]
        if min(*sizes, count - sum(sizes)) < 1:
            raise ArgumentError(
                f"split_indices: train, val and test must have an example each, got val={val:g}, test={test:g} of "
                f"{count}; leave val and test out for a fifth each"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.split_seed))
        names = ("train", "val", "test")
        parts = dict(zip(names, order.split([count - sum(sizes), *sizes]), strict=True))
        self.split_sizes = {"pool": count, **{name: len(part) for name, part in parts.items()}}
        return parts

    def trivial_loss(self) -> float | None:
        """Return the validation loss of the best predictor that ignores its input; worse is "not learned".

        None stands for the validation loss of the model before its first step.
        """
        return None

    def evaluate(self, model: torch.nn.Module, batch: Any) -> dict[str, float]:
        """Return further metrics of a batch, each a mean over its items."""
        return {}

    def data_files(self, progress: Progress | None = None) -> list[Path]:
        """Return the files or folders that the task reads, after fetching what is missing; by default none.

        Raises:
            StudyError: something is missing and cannot be fetched.
        """
        return []

    def data_digest(self) -> str | None:
        """Return a hash of the data as they are split, for the manifest of a study; None stands for unknown."""
        return None

    def param_groups(self, model: torch.nn.Module) -> Iterable[Any]:
        """Return what the optimizer is given: parameters, or groups with options of their own."""
        return list(model.parameters())
