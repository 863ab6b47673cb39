"""The single checks of a task's contract; each takes what is known of the task, and returns a warning or None."""

import itertools
import math
import time
from collections.abc import Mapping
from typing import Any

import torch

import fallline.lab.contract.probes as probing
from fallline.lab.contract.probes import OVERFIT_STEPS, SECONDS, Reading, forward, make, read
from fallline.lab.isolation import seed_everything
from fallline.lab.tasks import Task
from fallline.landscape.loss.batches import as_bytes
from fallline.optimizers import create_optimizer

ENDLESS = 10_000  # batches of validation or test beyond which they are said never to end
LEAST_DROP = 0.1  # of one batch's loss, below which nothing is learned; real batches drop by far more
FEW = 3  # examples that two splits may share when they are less than SHARED_BADLY of either: data hold things twice
SHARED, SHARED_BADLY = 0.01, 0.1


class Breach(Exception):
    """A breach of the contract; when it is not fatal, what builds upon it can be checked all the same."""

    def __init__(self, must: str, got: str, remedy: str, fatal: bool = True) -> None:
        super().__init__(f"{must}, got {got}; {remedy}")
        self.fatal = fatal


class Subject:
    """A task under examination, and what has been read of it: validation and test are read once for all checks.

    Attributes:
        task: the task.
        sized: whether its `size` can be called.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.sized = task, False
        self._readings: dict[str, Reading] = {}

    def reading(self, split: str) -> Reading:
        """Return what one pass over validation or test has shown."""
        if split not in self._readings:
            self._readings[split] = probing.read_once(self.task, split, self.sized, ENDLESS, SECONDS)
        return self._readings[split]

    @property
    def val_items(self) -> int | None:
        """How many items validation has, if it has been read to its end."""
        return self._readings["val"].items if "val" in self._readings else None


def check_model(subject: Subject) -> None:
    """Check that the model is new on every call, the same for the same seed, and has something to train."""
    first, second = make(subject.task), make(subject.task)
    if not isinstance(first, torch.nn.Module):
        raise Breach("model must return a torch.nn.Module", type(first).__name__, "return the network itself")
    if not any(p.requires_grad for p in first.parameters()):
        raise Breach("model must have parameters that require gradients", "none", "unfreeze what is to be trained")
    if {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}:
        remedy = "build it inside the method, or return copy.deepcopy of it"
        raise Breach("model must return a new model on every call", "the same twice", remedy, fatal=False)
    states = [{k: as_bytes(v) for k, v in model.state_dict().items()} for model in (first, second)]
    if different := [name for name in states[0] if states[0][name] != states[1].get(name)]:
        raise Breach(
            "model must start from the same values for the same seed",
            f"others in {different[0]}",
            "initialise from the global generators of torch, NumPy or random, which the lab seeds, not from one "
            "without a seed, as np.random.default_rng(), nor from the time",
            fatal=False,
        )


def check_batches(subject: Subject) -> str | None:
    """Check that training batches depend on the generator alone, and do not end."""
    task = subject.task
    first, again, other = (probing.digests(task, seed) for seed in (0, 0, 1))  # global generators advance meanwhile
    if not first:
        raise Breach('batches("train", …) must go on without end', "no batch", "yield inside while True:")
    if first != again:
        raise Breach(
            "batches of training must be the same for the same generator",
            "others in a second pass",
            "draw from `generator` alone: torch.randperm(n, generator=generator), DataLoader(…, generator=generator)",
            fatal=False,
        )
    needed, began = task.steps * task.accumulate, time.monotonic()
    for count, _ in enumerate(read(task, "train"), 1):
        if count >= needed or time.monotonic() - began > SECONDS:
            break
    else:
        remedy = "put while True: around the loop over the training set"
        got = f"an end after {count} of the {needed} batches that {task.steps} steps need"
        raise Breach('batches("train", …) must go on without end', got, remedy, fatal=False)
    if first == other:
        return (
            "batches of training should come in another order for another seed of the generator, got the same; "
            "shuffle by torch.randperm(n, generator=generator), or seeds differ by the initialisation only"
        )
    return None


def check_size(subject: Subject) -> None:
    """Check that a batch has a size."""
    size = subject.task.size(next(read(subject.task, "train")))
    if type(size) is not int or size < 1:
        remedy = "return len of a tensor of the batch"
        raise Breach("size must return a whole number of items, at least 1", repr(size), remedy)


def check_splits(subject: Subject) -> str | None:
    """Check that validation and test end after one pass and are not empty."""
    slow = None
    for split in ("val", "test"):
        found = subject.reading(split)
        if found.stopped in ("repeats", "too many"):
            repeated = f"the first batch again as number {found.count}"
            got = repeated if found.stopped == "repeats" else f"over {ENDLESS} batches"
            remedy = 'go round and round only if split == "train"'
            raise Breach(f'batches("{split}", …) must end after one pass', got, remedy)
        if found.stopped == "time":
            slow = (
                f'batches("{split}", …) should be read in {SECONDS:g} s, got {found.count} batches by then and no end; '
                "see that it ends, or evaluate on fewer examples"
            )
        if found.count == 0:
            raise Breach(f'batches("{split}", …) must give at least one batch', "none", "split off some examples")
    return slow


def check_overlap(subject: Subject) -> str | None:
    """Check that no more examples are in two splits than chance explains, where data have few distinct examples."""
    seen = {split: subject.reading(split).examples for split in ("val", "test")}
    equality = probing.chance_of_equality(list(seen.values()))  # in one pass over each
    seen["train"] = probing.training_examples(subject.task)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        common = len(seen[one].keys() & seen[other].keys())
        # Of a large training set little was read; then its own share shows the leak.
        excess = max(
            common / max(len(seen[name]), 1) - probing.share_by_chance(seen[by], equality)
            for name, by in ((one, other), (other, one))
        )
        got = f"{common} of the {len(seen[other])} examples of {other} also in {one}"
        if excess >= SHARED_BADLY or (excess >= SHARED and common > FEW):
            remedy = "split once, with a seed of its own, and give val and test examples of their own"
            raise Breach("no example may be in two splits", got, remedy)
        if common and excess > 0:
            return f"no example should be in two splits, got {got}; remove what the data hold twice"
    return None


def check_param_groups(subject: Subject) -> None:
    """Check that an optimizer takes the parameters, and that they are the model's."""
    model = make(subject.task)
    groups = create_optimizer("sgd", subject.task.param_groups(model), lr=0.0).param_groups
    if {id(p) for group in groups for p in group["params"]} - {id(p) for p in model.parameters()}:
        raise Breach("param_groups must give parameters of the model", "others", "use the model that is passed")


def check_loss(subject: Subject) -> None:
    """Check that the loss is one finite number with a gradient, decided by model, batch and seed."""
    task, batch = subject.task, next(read(subject.task, "train"))
    loss = forward(task, make(task), batch)
    if not isinstance(loss, torch.Tensor) or loss.shape != ():
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise Breach("loss must return a tensor with one number", got, "take the mean over the batch")
    if not math.isfinite(loss.item()):
        raise Breach("loss must be finite at the start", f"{loss.item()}", "look for log(0), 0/0 or unscaled inputs")
    if not loss.requires_grad:
        remedy = "compute it from the model's output without detach, item, numpy or no_grad"
        raise Breach("loss must have a gradient", "none", remedy)
    # Made anew each time, as a trial makes it: what a task counts in itself starts from the beginning.
    values = [probing.seeded_loss(probing.again(task), batch) for _ in range(2)]
    if values[0] != values[1] and not all(map(math.isnan, values)):
        raise Breach(
            "loss must be the same for the same model, batch and seed",
            f"{values[0]!r} and {values[1]!r}",
            "draw from the global generators of torch, NumPy or random, which the lab seeds, not from one without a "
            "seed, as np.random.default_rng(); and use neither the time nor a count kept outside the task",
            fatal=False,
        )


def check_evaluate(subject: Subject) -> None:
    """Check that `evaluate` returns plain numbers by name, the metric among them."""
    task = subject.task
    with torch.no_grad():
        found: Any = task.evaluate(make(task).eval(), subject.reading("val").first[0])
    if not isinstance(found, Mapping):
        raise Breach("evaluate must return a dict of numbers", type(found).__name__, 'return {"accuracy": …}')
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, (int, float)):
            remedy = "call .item() on tensors"
            raise Breach("evaluate must return plain numbers by name", f"{{{key!r}: {value!r}}}", remedy)
    wanted = task.metric.removeprefix("val_")
    if wanted not in ("loss", *found):
        must = f"evaluate must return {wanted!r}, by which configurations are selected"
        raise Breach(must, ", ".join(found) or "nothing", "add it, or name another metric")


def check_deterministic(subject: Subject) -> None:
    """Check that evaluating the first validation batches twice gives the same numbers; they alone are read again."""
    task, model = subject.task, make(subject.task).eval()
    batches = subject.reading("val").first
    passes = []
    with torch.no_grad():
        # The lab passes the same `generator` every time; the global ones are elsewhere at every evaluation.
        for seed, found in enumerate((batches, itertools.islice(read(task, "val"), len(batches))), 1):
            seed_everything(seed)
            passes.append([(forward(task, model, b).item(), dict(task.evaluate(model, b))) for b in found])
    if repr(passes[0]) != repr(passes[1]):  # as texts, so that NaN equals itself
        different = next((a, b) for a, b in itertools.zip_longest(*passes) if repr(a) != repr(b))
        raise Breach(
            "evaluation must give the same numbers twice",
            " and ".join(str(one) for one in different),
            "switch off what is random (functional.dropout(training=model.training)), and draw nothing in val",
        )


def check_overfit(subject: Subject) -> str | None:
    """Check that the model can fit a single batch.

    Fitted is a batch whose loss has fallen by half, or whose examples have small gradients one by one: a constant in
    the loss changes the first, not the second.
    """
    known = subject.task.trivial_loss()
    trivial = math.inf if known is None else known
    found = probing.memorise(subject.task, trivial)
    if found.steps < OVERFIT_STEPS:  # fitted, or too slow to judge
        return None
    drop = (found.start - found.best) / abs(found.start) if found.start else math.inf
    got = f"a loss from {found.start:.4g} to {found.best:.4g}"
    fits = found.residual <= probing.SMALL_RESIDUAL and not found.probabilities
    if found.best >= trivial or (drop < LEAST_DROP and not fits):
        got += f", no better than ignoring the input ({trivial:.4g})" if found.best >= trivial else ""
        remedy = "see that the model is given the inputs, and that targets belong to them"
        raise Breach(f"the model must overfit one batch in {OVERFIT_STEPS} steps of Adam", got, remedy)
    if drop < probing.GOOD_DROP and not fits:
        return (
            f"the model should overfit one batch in {OVERFIT_STEPS} steps of Adam, got {got}; look for a softmax "
            "before cross_entropy, frozen layers or wrong targets, unless the model is very small"
        )
    return None
