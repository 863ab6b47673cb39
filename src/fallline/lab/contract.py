"""What a task must keep to before a comparison on it means anything, checked by trying it out (LAB R12)."""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

import fallline.lab.probing as probing
from fallline.errors import FalllineError, StudyError
from fallline.lab.executors.here import as_in_a_worker
from fallline.lab.loading import describe
from fallline.lab.probing import OVERFIT_STEPS, SECONDS, forward, make, read
from fallline.lab.tasks import Task
from fallline.optimizers import create_optimizer

ENDLESS = 10_000  # batches of validation or test beyond which they are said never to end
LEAST_DROP = 0.1  # of one batch's loss, below which nothing is learned; real batches drop by far more
FEW = 3  # examples that two splits may share when they are less than SHARED_BADLY of either: data hold things twice
SHARED, SHARED_BADLY = 0.01, 0.1


@dataclass(frozen=True)
class Finding:
    """A point in which a task breaks the contract.

    Attributes:
        check: model, batches, splits, size, overlap, param_groups, loss, evaluate, deterministic or overfit.
        severity: "error" when a study on the task would mean nothing, else "warning".
        message: what must hold, what was found and what to do, in a sentence.
    """

    check: str
    severity: str
    message: str


class _Broken(Exception):
    """A breach of the contract; when it is not fatal, what builds upon it can be checked all the same."""

    def __init__(self, must: str, got: str, remedy: str, fatal: bool = True) -> None:
        super().__init__(f"{must}, got {got}; {remedy}")
        self.fatal = fatal


def check_task(task: Task) -> list[Finding]:
    """Try a task out and return the warnings; takes seconds, and random number generators stay where they were.

    Raises:
        StudyError: the task breaks the contract; every broken point is named, with what to do.

    Example:
        >>> from fallline.lab.tasks import Digits
        >>> check_task(Digits())
        []
    """
    findings = find_breaches(task)
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        listed = errors[0] if len(errors) == 1 else "".join(f"\n  {i}. {text}" for i, text in enumerate(errors, 1))
        raise StudyError(f"task {task.name}: {listed}")
    return findings


def find_breaches(task: Task) -> list[Finding]:
    """Return the points in which a task breaks the contract.

    What needs something broken is not tried: a model that cannot be made has no loss.
    """
    findings: list[Finding] = []

    def usable(check: str, run: Callable[[Task], str | None]) -> bool:
        fatal = True
        try:
            message = run(task)
        except _Broken as error:
            findings.append(Finding(check, "error", str(error)))
            fatal = error.fatal
        except FalllineError as error:  # a task's own word on its settings
            findings.append(Finding(check, "error", f"{check}: {error}"))
        except Exception as error:
            raised = describe(error, probing.source(task))
            text = f"it must run without an error, got {raised} in the check of {check}; call its methods by themselves"
            findings.append(Finding(check, "error", text))
        else:
            findings.extend([Finding(check, "warning", message)] if message is not None else [])
            return True
        return not fatal

    with as_in_a_worker():
        torch.manual_seed(0)
        model, batches, splits = usable("model", _model), usable("batches", _batches), usable("splits", _splits)
        if batches:
            usable("size", _size)
        if batches and splits:
            usable("overlap", _overlap)
        if model and batches and usable("param_groups", _param_groups) and usable("loss", _loss):
            if splits and usable("evaluate", _evaluate):
                usable("deterministic", _deterministic)
            usable("overfit", _overfit)
    return findings


def _model(task: Task) -> None:
    first, second = make(task), make(task)
    if not isinstance(first, torch.nn.Module):
        raise _Broken("model must return a torch.nn.Module", type(first).__name__, "return the network itself")
    if not any(p.requires_grad for p in first.parameters()):
        raise _Broken("model must have parameters that require gradients", "none", "unfreeze what is to be trained")
    if {id(p) for p in first.parameters()} & {id(p) for p in second.parameters()}:
        remedy = "build it inside the method, or return copy.deepcopy of it"
        raise _Broken("model must return a new model on every call", "the same twice", remedy, fatal=False)
    states = [{k: probing.as_bytes(v) for k, v in model.state_dict().items()} for model in (first, second)]
    if different := [name for name in states[0] if states[0][name] != states[1].get(name)]:
        raise _Broken(
            "model must start from the same values for the same seed",
            f"others in {different[0]}",
            "initialise from torch's generator, which the lab seeds, not from numpy, random or the time",
            fatal=False,
        )


def _batches(task: Task) -> str | None:
    first, again, other = (probing.digests(task, seed) for seed in (0, 0, 1))  # global generators go on meanwhile
    if not first:
        raise _Broken('batches("train", …) must go on without end', "no batch", "yield inside while True:")
    if first != again:
        raise _Broken(
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
        raise _Broken('batches("train", …) must go on without end', got, remedy, fatal=False)
    if first == other:
        return (
            "batches of training should come in another order for another seed of the generator, got the same; "
            "shuffle by torch.randperm(n, generator=generator), or seeds differ by the initialisation only"
        )
    return None


def _splits(task: Task) -> str | None:
    slow = None
    for split in ("val", "test"):
        count, first, began = 0, b"", time.monotonic()
        for count, batch in enumerate(read(task, split), 1):
            digest = probing.content(batch)
            if count > 1 and (digest == first or count > ENDLESS):
                got = f"over {ENDLESS} batches" if count > ENDLESS else f"the first batch again as number {count}"
                remedy = 'go round and round only if split == "train"'
                raise _Broken(f'batches("{split}", …) must end after one pass', got, remedy)
            first = first or digest
            if time.monotonic() - began > SECONDS:
                slow = (
                    f'batches("{split}", …) should be read in {SECONDS:g} s, got {count} batches by then and no end; '
                    "see that it ends, or evaluate on fewer examples"
                )
                break
        if count == 0:
            raise _Broken(f'batches("{split}", …) must give at least one batch', "none", "split off some examples")
    return slow


def _size(task: Task) -> None:
    size = task.size(next(read(task, "train")))
    if type(size) is not int or size < 1:
        remedy = "return len of a tensor of the batch"
        raise _Broken("size must return a whole number of items, at least 1", repr(size), remedy)


def _overlap(task: Task) -> str | None:
    seen = {split: probing.examples(task, split) for split in ("train", "val", "test")}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        common = len(seen[one] & seen[other])
        # Of a large training set little was read; then its own share tells.
        share = max(common / max(len(seen[name]), 1) for name in (one, other))
        got = f"{common} of the {len(seen[other])} examples of {other} also in {one}"
        if share >= SHARED_BADLY or (share >= SHARED and common > FEW):
            remedy = "split once, with a seed of its own, and give val and test examples of their own"
            raise _Broken("no example may be in two splits", got, remedy)
        if common:
            return f"no example should be in two splits, got {got}; remove what the data hold twice"
    return None


def _param_groups(task: Task) -> None:
    model = make(task)
    groups = create_optimizer("sgd", task.param_groups(model), lr=0.0).param_groups
    if {id(p) for group in groups for p in group["params"]} - {id(p) for p in model.parameters()}:
        raise _Broken("param_groups must give parameters of the model", "others", "use the model that is passed")


def _loss(task: Task) -> None:
    loss = forward(task, make(task), next(read(task, "train")))
    if not isinstance(loss, torch.Tensor) or loss.shape != ():
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise _Broken("loss must return a tensor with one number", got, "take the mean over the batch")
    if not math.isfinite(loss.item()):
        raise _Broken("loss must be finite at the start", f"{loss.item()}", "look for log(0), 0/0 or unscaled inputs")
    if not loss.requires_grad:
        remedy = "compute it from the model's output without detach, item, numpy or no_grad"
        raise _Broken("loss must have a gradient", "none", remedy)


def _evaluate(task: Task) -> None:
    with torch.no_grad():
        found: Any = task.evaluate(make(task).eval(), next(read(task, "val")))
    if not isinstance(found, Mapping):
        raise _Broken("evaluate must return a dict of numbers", type(found).__name__, 'return {"accuracy": …}')
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, (int, float)):
            remedy = "call .item() on tensors"
            raise _Broken("evaluate must return plain numbers by name", f"{{{key!r}: {value!r}}}", remedy)
    wanted = task.metric.removeprefix("val_")
    if wanted not in ("loss", *found):
        must = f"evaluate must return {wanted!r}, by which configurations are selected"
        raise _Broken(must, ", ".join(found) or "nothing", "add it, or name another metric")


def _deterministic(task: Task) -> None:
    model = make(task).eval()
    passes = []
    with torch.no_grad():
        for _ in range(2):  # the lab passes the same `generator` every time; global ones go on meanwhile
            batches = list(itertools.islice(read(task, "val"), probing.COMPARED))
            passes.append([(forward(task, model, b).item(), dict(task.evaluate(model, b))) for b in batches])
    if repr(passes[0]) != repr(passes[1]):  # as texts, so that NaN equals itself
        different = next((a, b) for a, b in itertools.zip_longest(*passes) if repr(a) != repr(b))
        raise _Broken(
            "evaluation must give the same numbers twice",
            " and ".join(str(one) for one in different),
            "switch off what is random (functional.dropout(training=model.training)), and draw nothing in val",
        )


def _overfit(task: Task) -> str | None:
    trivial = math.inf if (known := task.trivial_loss()) is None else known
    start, best, steps = probing.memorise(task, trivial)
    if steps < OVERFIT_STEPS:  # learned, or too slow to judge
        return None
    drop = (start - best) / abs(start) if start else math.inf
    got = f"a loss from {start:.4g} to {best:.4g}"
    if drop < LEAST_DROP or best >= trivial:
        got += f", no better than ignoring the input ({trivial:.4g})" if best >= trivial else ""
        remedy = "see that the model is given the inputs, and that targets belong to them"
        raise _Broken(f"one batch must be learned by heart in {OVERFIT_STEPS} steps of Adam", got, remedy)
    if drop < probing.GOOD_DROP:
        return (
            f"one batch should be learned by heart in {OVERFIT_STEPS} steps of Adam, got {got}; look for a softmax "
            "before cross_entropy, frozen layers or wrong targets, unless the model is very small"
        )
    return None
