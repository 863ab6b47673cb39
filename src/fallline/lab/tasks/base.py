"""Base class of tasks: a task defines data, a model and a loss; the lab does everything else."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from fallline.errors import ArgumentError, suggest
from fallline.lab.tasks.download import Progress
from fallline.landscape.loss.batches import count_rows

T = TypeVar("T", bound="Task")

PRECISIONS = ("float32", "bfloat16")  # of the model and the loss; parameters are float32

# Checks that a task must pass before its first trial; `fallline.lab.contract.checks` defines the functions.
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
        name: name on the command line.
        steps: optimizer steps of a full run.
        summary: one-line description of data, model and metric.
        settings: settings that a study may set or vary, with their defaults; each becomes an attribute. In a subclass,
            a class attribute of the same name is another default.
        metric: validation metric by which configurations are selected; reports show the same metric on the test split.
        mode: "min" if a smaller metric is better, "max" if a larger one is.
        unit: unit of the loss, for axes and tables; "" if it has none.
        network: kind of the network, by which a survey groups tasks: "perceptron", "convolutional", "transformer",
            "recurrent"; "" if it is not known.
        precision: "float32", or "bfloat16" to run model and loss under autocast. It is a setting of the built-in tasks,
            which also accept "auto": bfloat16 if the device supports it in hardware, otherwise float32. That is the
            default of the tasks whose networks are large enough to gain from it.
        accumulate: number of batches whose gradients are averaged for one step.
        resplit: whether the data are one pool that the task splits with `split_indices`; every confirmation seed then
            draws a different split.
        split_seed: seed of the split; the default gives the split used for tuning.
        split_sizes: the sizes of "pool", "train", "val" and "test" at the last call of `split_indices`; None before.
        skip_checks: names of the contract checks to skip, see CHECKS; the report lists them.
        study_settings: names of settings that concern the study as a whole and change no trial.
        own_loop: whether the user's code trains and evaluates the model, see `fallline.lab.tasks.own_loop`.
    """

    name: ClassVar[str]
    steps: ClassVar[int]
    summary: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    metric: ClassVar[str] = "val_loss"
    mode: ClassVar[str] = "min"
    unit: ClassVar[str] = "nats"
    network: ClassVar[str] = ""
    precision: ClassVar[str] = "float32"
    accumulate: ClassVar[int] = 1
    resplit: ClassVar[bool] = False
    split_seed: int = 0
    split_sizes: Mapping[str, int] | None = None
    skip_checks: ClassVar[tuple[str, ...]] = ()
    own_loop: ClassVar[bool] = False
    study_settings: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.settings = {key: vars(cls).get(key, value) for key, value in cls.settings.items()}

    def __new__(cls: type[T], *, split_seed: int | None = None, **settings: Any) -> T:
        """Create the task and set its settings as attributes, before any `__init__` runs.

        Raises:
            ArgumentError: the task has no such setting, or the value is not of the type of the default.
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
        if key == "precision" and value not in (*PRECISIONS, "auto"):
            raise ArgumentError(
                f"task {cls.name}: precision must be one of {', '.join(PRECISIONS)} and auto, got {value!r}; "
                f"leave it out for {cls.settings[key]}"
            )
        kind = type(cls.settings[key])
        if kind is float and type(value) is int:  # `--vary lr_scale=1,0.5` mixes int and float
            return float(value)
        if type(value) is not kind:
            raise ArgumentError(
                f"task {cls.name}: {key} must be of type {kind.__name__}, got {key}={value!r}; "
                f"the default is {cls.settings[key]}"
            )
        return value

    @abstractmethod
    def model(self) -> torch.nn.Module:
        """Return a newly initialized model; the lab has seeded torch's global generator."""

    @abstractmethod
    def batches(self, split: str, generator: torch.Generator) -> Iterator[Any]:
        """Yield batches of "train" (indefinitely, shuffled by `generator`), "val" or "test" (one pass each)."""

    @abstractmethod
    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar."""

    def size(self, batch: Any) -> int:
        """Return the number of items in a batch, by which averages over batches are weighted.

        By default, this is the length of the first tensor that has a dimension, or the number of texts in a batch of
        texts.

        Raises:
            ArgumentError: the batch contains nothing to count.
        """
        rows = count_rows(batch)
        if rows is None:
            raise ArgumentError(
                f"task {self.name}: size must be defined for batches without a tensor, got a batch of type "
                f"{type(batch).__name__}; write def size(self, batch) and return its number of items"
            )
        return rows

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor | Mapping[str, torch.Tensor] | None:
        """Return the loss of every item of a batch, (n,), whose mean is `loss`; None by default, which means unknown.

        With these values, a verdict also holds for new test examples. Return a mapping such as
        {"loss": …, "accuracy": …} to include other metrics of `evaluate` per item. Items must be independent: for a
        contiguous text, return one value per block, not one per byte.
        """
        return None

    def split_indices(self, count: int, val: float = 0.2, test: float = 0.2) -> dict[str, torch.Tensor]:
        """Return the indices (n,) of the examples in "train", "val" and "test", drawn with `split_seed`.

        Args:
            count: number of examples in the pool.
            val, test: number of examples, or a fraction of the pool if below 1.

        Raises:
            ArgumentError: a split would be empty.

        Example:
            >>> from fallline.lab.tasks import Digits
            >>> {name: len(part) for name, part in Digits().split_indices(10).items()}
            {'train': 6, 'val': 2, 'test': 2}
        """
        sizes = [round(count * part) if part < 1 else int(part) for part in (val, test)]
        if min(*sizes, count - sum(sizes)) < 1:
            raise ArgumentError(
                f"split_indices: train, val and test must each have an example, got val={val:g}, test={test:g} of "
                f"{count}; leave val and test out to use 20 % for each"
            )
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.split_seed))
        names = ("train", "val", "test")
        parts = dict(zip(names, order.split([count - sum(sizes), *sizes]), strict=True))
        self.split_sizes = {"pool": count, **{name: len(part) for name, part in parts.items()}}
        return parts

    def trivial_loss(self) -> float | None:
        """Return the validation loss of the best predictor that ignores its input; a worse run has "not learned".

        If None, the validation loss of the model before its first step is used.
        """
        return None

    def evaluate(self, model: torch.nn.Module, batch: Any) -> dict[str, float]:
        """Return additional metrics of a batch, each a mean over its items."""
        return {}

    def data_files(self, progress: Progress | None = None) -> list[Path]:
        """Return the files or folders that the task reads, and download missing ones; empty by default.

        Raises:
            StudyError: a file is missing and cannot be downloaded.
        """
        return []

    def data_digest(self) -> str | None:
        """Return a hash of the data and their splits for the manifest of a study, or None if unknown."""
        return None

    def param_groups(self, model: torch.nn.Module) -> Iterable[Any]:
        """Return the parameters for the optimizer, or parameter groups with separate options."""
        return list(model.parameters())
