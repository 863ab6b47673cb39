"""The individual checks of a task's contract; each takes the examined task and returns a warning or None."""

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
from fallline.landscape.loss.averaging import describe_value, remedy_for
from fallline.landscape.loss.batches import as_bytes
from fallline.optimizers import create_optimizer

ENDLESS = 10_000  # batches of validation or test after which the split is reported as endless
LEAST_DROP = 0.1  # fraction by which the loss of one batch must fall; that of a sound task falls by far more
# Two splits may share this many examples if these are less than SHARED_BADLY of either, since data contain duplicates.
FEW = 3
SHARED, SHARED_BADLY = 0.01, 0.1  # fractions of a split


class Breach(Exception):
    """A violation of the contract; if it is not fatal, the checks that depend on this one can still run."""

    def __init__(self, must: str, got: str, remedy: str, fatal: bool = True) -> None:
        super().__init__(f"{must}, got {got}; {remedy}")
        self.fatal = fatal


class Subject:
    """A task under examination, and its validation and test data, which are read only once for all checks.

    Attributes:
        task: the task.
        sized: whether its method `size` works.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.sized = task, False
        self._readings: dict[str, Reading] = {}

    def reading(self, split: str) -> Reading:
        """Return the results of one pass over validation or test."""
        if split not in self._readings:
            self._readings[split] = probing.read_once(self.task, split, self.sized, ENDLESS, SECONDS)
        return self._readings[split]

    @property
    def val_items(self) -> int | None:
        """The number of validation items; None if the split has not been read to its end."""
        return self._readings["val"].items if "val" in self._readings else None


def check_model(subject: Subject) -> None:
    """Check that every call returns a new model, the same for the same seed, and that it has trainable parameters."""
    first, second = make(subject.task), make(subject.task)
    if not isinstance(first, torch.nn.Module):
        raise Breach("model must return a torch.nn.Module", type(first).__name__, "return the network itself")
    if not any(p.requires_grad for p in first.parameters()):
        raise Breach("model must have parameters that require gradients", "none", "unfreeze the parameters to train")
    if {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}:
        remedy = "build the model inside the method, or return a copy.deepcopy of it"
        raise Breach("model must return a new model on every call", "the same parameters twice", remedy, fatal=False)
    states = [{k: as_bytes(v) for k, v in model.state_dict().items()} for model in (first, second)]
    if different := [name for name in states[0] if states[0][name] != states[1].get(name)]:
        raise Breach(
            "model must have the same initial values for the same seed",
            f"different values in {different[0]}",
            "draw them from the global generators of torch, NumPy or random, which the lab seeds; do not use an "
            "unseeded generator such as np.random.default_rng() or the system clock",
            fatal=False,
        )


def check_batches(subject: Subject) -> str | None:
    """Check that training batches depend on the generator alone and do not end."""
    task = subject.task
    first, again, other = (probing.digests(task, seed) for seed in (0, 0, 1))  # global generators advance meanwhile
    if not first:
        raise Breach(
            'batches("train", …) must yield batches indefinitely',
            "no batch",
            "yield the batches inside a while True: loop",
        )
    if first != again:
        raise Breach(
            "training batches must be the same for the same generator",
            "different ones in a second pass",
            "draw from `generator` alone: torch.randperm(n, generator=generator), DataLoader(…, generator=generator)",
            fatal=False,
        )
    needed, began = task.steps * task.accumulate, time.monotonic()
    for count, _ in enumerate(read(task, "train"), 1):
        if count >= needed or time.monotonic() - began > SECONDS:
            break
    else:
        remedy = "put the loop over the training set inside while True:"
        got = f"an end after {count} of the {needed} batches that {task.steps} steps need"
        raise Breach('batches("train", …) must yield batches indefinitely', got, remedy, fatal=False)
    if first == other:
        return (
            "training batches should come in a different order for another seed of the generator, got the same order; "
            "shuffle with torch.randperm(n, generator=generator), otherwise seeds differ only in the initialization"
        )
    return None


def check_size(subject: Subject) -> None:
    """Check that `size` returns the number of items of a batch."""
    size = subject.task.size(next(read(subject.task, "train")))
    if type(size) is not int or size < 1:
        remedy = "return the length of a tensor of the batch"
        raise Breach("size must return the number of items as an int >= 1", repr(size), remedy)


def check_splits(subject: Subject) -> str | None:
    """Check that validation and test end after one pass and are not empty."""
    slow = None
    for split in ("val", "test"):
        found = subject.reading(split)
        if found.stopped in ("repeats", "too many"):
            repeated = f"the first batch again as number {found.count}"
            got = repeated if found.stopped == "repeats" else f"over {ENDLESS} batches"
            remedy = 'repeat the data only if split == "train"'
            raise Breach(f'batches("{split}", …) must end after one pass', got, remedy)
        if found.stopped == "time":
            slow = (
                f'batches("{split}", …) should end within {SECONDS:g} s, got {found.count} batches and no end in this '
                "time; make sure that it ends, or evaluate on fewer examples"
            )
        if found.count == 0:
            remedy = "reserve some examples for this split"
            raise Breach(f'batches("{split}", …) must yield at least one batch', "none", remedy)
    return slow


def check_overlap(subject: Subject) -> str | None:
    """Check that two splits share no more examples than chance explains (data may have few distinct examples)."""
    seen = {split: subject.reading(split).examples for split in ("val", "test")}
    equality = probing.chance_of_equality(list(seen.values()))  # in one pass over each
    seen["train"] = probing.training_examples(subject.task)
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        common = len(seen[one].keys() & seen[other].keys())
        # Only a small part of a large training set is read; a leak then shows in the shared fraction of that part.
        excess = max(
            common / max(len(seen[name]), 1) - probing.share_by_chance(seen[by], equality)
            for name, by in ((one, other), (other, one))
        )
        got = f"{common} of the {len(seen[other])} examples of {other} also in {one}"
        if excess >= SHARED_BADLY or (excess >= SHARED and common > FEW):
            remedy = "split the data once, with a fixed seed, into disjoint sets"
            raise Breach("no example may be in two splits", got, remedy)
        if common and excess > 0:
            return f"no example should be in two splits, got {got}; remove duplicates from the data"
    return None


def check_param_groups(subject: Subject) -> None:
    """Check that an optimizer accepts the parameters, and that they belong to the model."""
    model = make(subject.task)
    groups = create_optimizer("sgd", subject.task.param_groups(model), lr=0.0).param_groups
    if {id(p) for group in groups for p in group["params"]} - {id(p) for p in model.parameters()}:
        remedy = "use the model that is passed to the method"
        raise Breach("param_groups must return parameters of the model", "other parameters", remedy)


def check_loss(subject: Subject) -> None:
    """Check that the loss is one finite number with a gradient, determined by model, batch and seed."""
    task, batch = subject.task, next(read(subject.task, "train"))
    loss = forward(task, make(task), batch)
    if not isinstance(loss, torch.Tensor) or loss.shape != ():
        made = isinstance(loss, torch.Tensor)
        got = f"shape {tuple(loss.shape)}" if made else describe_value(loss)
        remedy = "take the mean over the batch" if made else remedy_for(loss)
        raise Breach("loss must return a scalar tensor", got, remedy)
    if not math.isfinite(loss.item()):
        raise Breach("loss must be finite at the start", f"{loss.item()}", "look for log(0), 0/0 or unscaled inputs")
    if not loss.requires_grad:
        remedy = "compute it from the model's output without detach, item, numpy or no_grad"
        raise Breach("loss must have a gradient", "none", remedy)
    # The task is created again for each value, as every trial does, so that counters kept in the task start at 0.
    values = [probing.seeded_loss(probing.again(task), batch) for _ in range(2)]
    if values[0] != values[1] and not all(map(math.isnan, values)):
        raise Breach(
            "loss must be the same for the same model, batch and seed",
            f"{values[0]!r} and {values[1]!r}",
            "draw from the global generators of torch, NumPy or random, which the lab seeds; do not use an unseeded "
            "generator such as np.random.default_rng(), the system clock or a counter kept outside the task",
            fatal=False,
        )


def check_evaluate(subject: Subject) -> None:
    """Check that `evaluate` returns plain numbers by name, including the metric."""
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
        must = f"evaluate must return {wanted!r}, the metric by which configurations are selected"
        raise Breach(must, ", ".join(found) or "nothing", "add it, or choose another metric")


def check_deterministic(subject: Subject) -> None:
    """Check that evaluating the first validation batches twice gives the same numbers; only these are read again."""
    task, model = subject.task, make(subject.task).eval()
    batches = subject.reading("val").first
    passes = []
    with torch.no_grad():
        # The lab passes the same `generator` every time, but every evaluation sees other global generator states.
        for seed, found in enumerate((batches, itertools.islice(read(task, "val"), len(batches))), 1):
            seed_everything(seed)
            passes.append([(forward(task, model, b).item(), dict(task.evaluate(model, b))) for b in found])
    if repr(passes[0]) != repr(passes[1]):  # compared as text, so that NaN equals itself
        different = next((a, b) for a, b in itertools.zip_longest(*passes) if repr(a) != repr(b))
        raise Breach(
            "evaluation must give the same numbers when it is repeated",
            " and ".join(str(one) for one in different),
            "switch off random layers (functional.dropout(training=model.training)), and draw no random numbers in val",
        )


def check_overfit(subject: Subject) -> str | None:
    """Check that the model can overfit a single batch.

    The model has fitted the batch if the loss has fallen by half, or if the gradient of each single example is small.
    A constant in the loss affects only the first of these criteria.
    """
    known = subject.task.trivial_loss()
    trivial = math.inf if known is None else known
    found = probing.overfit_batch(subject.task, trivial)
    if found.steps < OVERFIT_STEPS:  # the batch was fitted, or the task is too slow for this check
        return None
    drop = (found.start - found.best) / abs(found.start) if found.start else math.inf
    got = f"a loss of {found.start:.4g} at the start and {found.best:.4g} at best"
    fits = found.residual <= probing.SMALL_RESIDUAL and not found.probabilities
    if found.best >= trivial or (drop < LEAST_DROP and not fits):
        got += f", no better than ignoring the input ({trivial:.4g})" if found.best >= trivial else ""
        remedy = "make sure that the model receives the inputs and that the targets belong to them"
        raise Breach(f"the model must overfit one batch in {OVERFIT_STEPS} steps of Adam", got, remedy)
    if drop < probing.GOOD_DROP and not fits:
        return (
            f"the model should overfit one batch in {OVERFIT_STEPS} steps of Adam, got {got}; look for a softmax "
            "before cross_entropy, frozen layers or wrong targets; ignore this if the model is very small"
        )
    return None
