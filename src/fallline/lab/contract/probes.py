"""What the contract checks look at: models, batches and examples of a task, and how fast one batch is learned."""

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

# A task must pass in a second or two; what the time runs out for is not held against it.
SECONDS = 2.0  # for reading each split
HASHING_SECONDS = 1.0  # for its examples
OVERFIT_SECONDS = 6.0
OVERFIT_STEPS = 200
GOOD_DROP = 0.5  # of one batch's loss: it has been learned
LEARNING_RATES = (1e-3, 1e-2, 1e-4)  # of Adam, the likeliest first
COMPARED = 4  # batches that must come out the same twice
EXAMPLES = 100_000  # of a split at most
FEW_PAIRS = 3  # equal pairs of examples below which data are not said to be discrete
SINGLE_EXAMPLES = 8  # whose gradients are looked at
# Gradients of single examples after 200 steps relative to the start. Measured: 0.07 on digits, 0.20 on digits-cnn, 0.42
# to 0.48 for models that barely fit the batch; 0.66 to 0.86 where the inputs are ignored.
SMALL_RESIDUAL = 0.5


def make(task: Task) -> torch.nn.Module:
    """Return the task's model from the same seed every time."""
    seed_everything(0)
    return task.model()


def again(task: Task, split_seed: int | None = None) -> Task:
    """Return the task made anew with the same settings, as every trial makes it; with another split if one is given."""
    with seeded(0):
        settings = {name: getattr(task, name) for name in task.settings}
        return type(task)(**({} if split_seed is None else {"split_seed": split_seed}), **settings)


def forward(task: Task, model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Return the loss in the precision of the task."""
    with torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bfloat16"):
        return task.loss(model, batch)


def seeded_loss(task: Task, batch: Any) -> float:
    """Return the loss of a fresh model in training, after seeding all generators with one seed."""
    model = make(task).train()
    seed_everything(1)
    return forward(task, model, batch).item()


def read(task: Task, split: str, seed: int = 0) -> Iterator[Any]:
    """Return a split's batches for a seed of the generator."""
    return iter(task.batches(split, torch.Generator().manual_seed(seed)))


def digests(task: Task, seed: int) -> list[bytes]:
    """Return the content of the first training batches."""
    return [content(batch) for batch in itertools.islice(read(task, "train", seed), COMPARED)]


def content(batch: Any) -> bytes:
    """Return all that a batch holds, as bytes."""
    return b"|".join(as_bytes(leaf) for leaf in leaves(batch))


class Examples(Counter[int]):
    """How often each example, inputs and targets together, was seen: by its hash, as many as time allows."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0

    @property
    def full(self) -> bool:
        """Whether no more are taken in."""
        return len(self) > EXAMPLES or self._seconds > HASHING_SECONDS

    def add(self, batch: Any) -> None:
        """Take in a batch."""
        if not self.full:
            began = time.monotonic()
            self.update(map(hash, examples(batch)))
            self._seconds += time.monotonic() - began


def chance_of_equality(seen: Sequence[Examples]) -> float:
    """Return an upper estimate of the chance that two examples of a split are equal; 0 if hardly any are."""
    equal = sum(count * (count - 1) / 2 for found in seen for count in found.values())
    pairs = sum(found.total() * (found.total() - 1) / 2 for found in seen)
    return min(1.0, (equal + 2 * math.sqrt(equal)) / pairs) if equal >= FEW_PAIRS else 0.0


@dataclass
class Reading:
    """One pass over validation or test, with all that the checks need of it, since reading may take long.

    Attributes:
        count: how many batches there were.
        items: how many items; None when sizes are unknown or the pass was not finished.
        first: the first batches.
        examples: what was seen in it.
        stopped: None; or why it was not read to its end: "repeats", "too many" or "time".
    """

    count: int = 0
    items: int | None = 0
    first: list[Any] = field(default_factory=list)
    examples: Examples = field(default_factory=Examples)
    stopped: str | None = None


def read_once(task: Task, split: str, sized: bool, most: int, seconds: float) -> Reading:
    """Return what is in a split of one pass.

    Args:
        task, split: what is read.
        sized: whether the task's `size` can be called.
        most: batches beyond which the split is said never to end.
        seconds: for which it is read.
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
    """Return the examples of training, read for as long as a run does."""
    found = Examples()
    for batch in itertools.islice(read(task, "train"), task.steps * task.accumulate):
        found.add(batch)
        if found.full:
            break
    return found


def share_by_chance(other: Examples, equality: float) -> float:
    """Return the share of the examples of a split that are in another split by chance alone.

    It is exact for examples that are equally likely, and an upper bound for others.

    Args:
        other: what was seen of the other split, perhaps several times over.
        equality: the chance that two examples are equal.
    """
    if not equality:
        return 0.0
    # How many examples it holds, of which one was seen several times over: so many give that number of distinct ones.
    unseen = 1 - len(other) * equality
    held = other.total() if unseen <= 0 else min(other.total(), -math.log(unseen) / equality)
    return float(1 - (1 - equality) ** held)


@dataclass
class Memorised:
    """What training on a single batch came to.

    Attributes:
        start, best: the loss at the start and the lowest one.
        steps: the most that were made at a learning rate.
        residual: size of the gradients of single examples at the end, relative to the start, at the learning rate
            where it is least; infinite where single examples cannot be told apart. It does not depend on a constant
            in the loss, and is not small where the inputs are ignored.
        probabilities: whether `cross_entropy` was given probabilities instead of logits.
    """

    start: float = math.nan
    best: float = math.inf
    steps: int = 0
    residual: float = math.inf
    probabilities: bool = False


def memorise(task: Task, trivial: float) -> Memorised:
    """Train on one batch alone until its loss is halved and below `trivial`."""
    batch = next(read(task, "train"))
    found, began = Memorised(), time.monotonic()
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
    """Return the root mean square of the gradients of single examples, in eval mode; NaN if they cannot be had."""
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
    except Exception:  # a loss that is none of single examples, as a contrastive one
        return math.nan
    finally:
        model.train(was_training)
        model.zero_grad()
    return math.sqrt(math.fsum(squares) / len(squares))


def _is_given_probabilities(task: Task, batch: Any) -> bool:
    """Return whether every input of `cross_entropy` is non-negative with rows of one sum, as a softmax makes it."""
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
