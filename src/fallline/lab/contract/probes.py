"""Measurements for the contract checks: models, batches and examples of a task, and training on a single batch."""

import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from fallline.lab.design.param_groups import scale_groups
from fallline.lab.isolation import seed_everything, seeded
from fallline.lab.tasks import Task
from fallline.landscape.loss.batches import as_bytes, count_rows, examples, leaves, only_row
from fallline.optimizers import create_optimizer

# The checks of a task should take a second or two. Running out of time is never an error of the task.
SECONDS = 2.0  # time limit for reading a split
HASHING_SECONDS = 1.0  # time limit for hashing the examples of a split
OVERFIT_SECONDS = 6.0
OVERFIT_STEPS = 200
GOOD_DROP = 0.5  # a batch is learned if its loss falls by this fraction
LEARNING_RATES = (1e-3, 1e-2, 1e-4)  # of Adam, in the order of how likely they are to work
COMPARED = 4  # batches that must be the same in two passes
EXAMPLES = 100_000  # largest number of examples of a split that are hashed
FEW_PAIRS = 3  # with fewer pairs of equal examples, data do not count as discrete
SINGLE_EXAMPLES = 8  # examples whose single gradients are computed
# Size of the gradients of single examples after 200 steps, relative to the start. Measured: 0.07 on digits, 0.20 on
# digits-cnn, 0.42 to 0.48 for models that barely fit the batch, 0.66 to 0.86 for models that ignore the inputs.
SMALL_RESIDUAL = 0.5


def make(task: Task) -> torch.nn.Module:
    """Return the task's model, created with the same seed in every call."""
    seed_everything(0)
    return task.model()


def again(task: Task, split_seed: int | None = None) -> Task:
    """Return a new instance of the task with the same settings, as in every trial, and another split if given."""
    with seeded(0):
        settings = {name: getattr(task, name) for name in task.settings}
        return type(task)(**({} if split_seed is None else {"split_seed": split_seed}), **settings)


def forward(task: Task, model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Return the loss, computed in the precision of the task."""
    with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bfloat16"):
        return task.loss(model, batch)


def seeded_loss(task: Task, batch: Any) -> float:
    """Return the loss of a fresh model in training mode, after seeding all generators with a fixed seed."""
    model = make(task).train()
    seed_everything(1)
    return forward(task, model, batch).item()


def read(task: Task, split: str, seed: int = 0) -> Iterator[Any]:
    """Return an iterator over the batches of a split, with this seed of the generator."""
    return iter(task.batches(split, torch.Generator().manual_seed(seed)))


def digests(task: Task, seed: int) -> list[bytes]:
    """Return the content of the first training batches."""
    return [content(batch) for batch in itertools.islice(read(task, "train", seed), COMPARED)]


def content(batch: Any) -> bytes:
    """Return the content of a batch as bytes."""
    return b"|".join(as_bytes(leaf) for leaf in leaves(batch))


class Examples(Counter[int]):
    """Number of occurrences of each example (inputs and targets together), by its hash, as many as time allows."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0

    @property
    def full(self) -> bool:
        """Whether no more examples are added."""
        return len(self) > EXAMPLES or self._seconds > HASHING_SECONDS

    def add(self, batch: Any) -> None:
        """Add the examples of a batch."""
        if not self.full:
            began = time.monotonic()
            self.update(map(hash, examples(batch)))
            self._seconds += time.monotonic() - began


def chance_of_equality(seen: Sequence[Examples]) -> float:
    """Return an upper estimate of the probability that two examples of a split are equal; 0 if hardly any are."""
    equal = sum(count * (count - 1) / 2 for found in seen for count in found.values())
    pairs = sum(found.total() * (found.total() - 1) / 2 for found in seen)
    return min(1.0, (equal + 2 * math.sqrt(equal)) / pairs) if equal >= FEW_PAIRS else 0.0


@dataclass
class Reading:
    """Everything that the checks need from one pass over validation or test, since reading may take long.

    Attributes:
        count: number of batches.
        items: number of items; None if sizes are unknown or the pass was not finished.
        first: the first batches.
        examples: the examples that were read.
        stopped: why the split was not read to its end: "repeats", "too many" or "time"; None if it was.
    """

    count: int = 0
    items: int | None = 0
    first: list[Any] = field(default_factory=list)
    examples: Examples = field(default_factory=Examples)
    stopped: str | None = None


def read_once(task: Task, split: str, sized: bool, most: int, seconds: float) -> Reading:
    """Read a split once and return the results.

    Args:
        task: the task.
        split: "val" or "test".
        sized: whether the task's method `size` works.
        most: number of batches after which the split is reported as endless.
        seconds: time limit.
    """
    found, first, began, items = Reading(), b"", time.monotonic(), 0
    for batch in read(task, split):
        found.count += 1
        digest = content(batch)
        if found.count > 1 and (digest == first or found.count > most):
            found.stopped = "repeats" if digest == first else "too many"
            break
        first = first or digest
        found.first += [batch] if len(found.first) < COMPARED else []
        found.examples.add(batch)
        items += task.size(batch) if sized else 0
        if time.monotonic() - began > seconds:
            found.stopped = "time"
            break
    found.items = items if sized and found.stopped is None else None
    return found


def training_examples(task: Task) -> Examples:
    """Return the training examples of as many batches as a run reads."""
    found = Examples()
    for batch in itertools.islice(read(task, "train"), task.steps * task.accumulate):
        found.add(batch)
        if found.full:
            break
    return found


def share_by_chance(other: Examples, equality: float) -> float:
    """Return the expected fraction of the examples of a split that are in another split by chance.

    It is exact if all examples are equally likely, and an upper bound otherwise.

    Args:
        other: the examples that were read from the other split, possibly in several passes.
        equality: the probability that two examples are equal.
    """
    if not equality:
        return 0.0
    # Size of the other split, which may have been read several times: the number of draws for which so many distinct
    # examples are expected.
    unseen = 1 - len(other) * equality
    held = other.total() if unseen <= 0 else min(other.total(), -math.log(unseen) / equality)
    return float(1 - (1 - equality) ** held)


@dataclass
class Overfit:
    """The result of training on a single batch.

    Attributes:
        start: loss at the start.
        best: lowest loss.
        steps: largest number of steps made with one learning rate.
        residual: size of the gradients of single examples at the end relative to the start, the smallest over the
            learning rates; infinite if a batch cannot be separated into examples. It does not depend on a constant
            in the loss, and is not small if the model ignores the inputs.
        probabilities: whether `cross_entropy` received probabilities instead of logits.
    """

    start: float = math.nan
    best: float = math.inf
    steps: int = 0
    residual: float = math.inf
    probabilities: bool = False


def overfit_batch(task: Task, trivial: float) -> Overfit:
    """Train on a single batch until its loss is halved and below `trivial`."""
    batch = next(read(task, "train"))
    found, began = Overfit(), time.monotonic()
    for lr in LEARNING_RATES:
        model = make(task).train()
        initial = _sizes_of_gradients(task, model, batch)
        groups = scale_groups(task.param_groups(model), {"lr": lr}, {"lr": lr})
        optimizer = create_optimizer("adam", groups, lr=lr, backend="reference")
        for step in range(OVERFIT_STEPS + 1):
            loss = forward(task, model, batch)
            value = loss.item()
            found.start = value if math.isnan(found.start) else found.start
            found.steps = max(found.steps, step)
            if not math.isfinite(value):
                break
            found.best = min(found.best, value)
            learned = found.start - found.best > GOOD_DROP * abs(found.start) and found.best < trivial
            if learned or time.monotonic() - began > OVERFIT_SECONDS:
                return found
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if initial > 0:
            found.residual = min(found.residual, _sizes_of_gradients(task, model, batch) / initial)
        if found.residual <= SMALL_RESIDUAL and found.best < trivial:
            break
    found.probabilities = _is_given_probabilities(task, batch)
    return found


def _sizes_of_gradients(task: Task, model: torch.nn.Module, batch: Any) -> float:
    """Return the root mean square of the gradients of single examples in eval mode; NaN if they are not available."""
    rows, was_training = count_rows(batch), model.training
    if rows is None or rows < 2:
        return math.nan
    squares = []
    try:
        model.eval()
        for row in range(min(rows, SINGLE_EXAMPLES)):
            model.zero_grad()
            forward(task, model, only_row(batch, row)).backward()
            squares.append(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
    except Exception:  # the loss is not defined for single examples, such as a contrastive loss
        return math.nan
    finally:
        model.train(was_training)
        model.zero_grad()
    return math.sqrt(math.fsum(squares) / len(squares))


def _is_given_probabilities(task: Task, batch: Any) -> bool:
    """Return whether all inputs of `cross_entropy` are non-negative with equal row sums, as after a softmax."""
    seen: list[bool] = []

    class CrossEntropyInputs(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.nn.functional.cross_entropy:
                logits = (args[0] if args else kwargs["input"]).detach().float()
                sums = logits.sum(1 if logits.dim() > 1 else 0).reshape(-1)
                seen.append(bool((logits >= 0).all()) and bool((sums - sums[0]).abs().max() <= 1e-3 * sums[0]))
            return function(*args, **(kwargs or {}))

    with CrossEntropyInputs(), torch.no_grad():
        forward(task, make(task), batch)
    return bool(seen) and all(seen)


def source(task: Task) -> Path | None:
    """Return the file that defines a task, or None."""
    file = getattr(sys.modules.get(type(task).__module__), "__file__", None)
    return Path(file).resolve() if file else None
