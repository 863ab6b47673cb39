"""Checks for verdicts that hold for new data: losses of single items, and splits that the lab can draw again."""

from collections.abc import Mapping
from typing import Any

import torch

import fallline.lab.contract.probes as probing
from fallline.lab.contract.checks import Breach, Subject
from fallline.lab.contract.probes import forward, make, read
from fallline.landscape.loss.batches import as_bytes

CLOSE = 1e-3  # relative tolerance between the mean over items and the metric, which may be computed in float32


def check_losses(subject: Subject) -> None:
    """Check that `losses` returns one value per item, and that the means equal the results of `loss` and `evaluate`."""
    task, batch = subject.task, subject.reading("test").first[0]
    model = make(task).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=task.precision == "bfloat16"):
        found: Any = task.losses(model, batch)
        if found is None:
            return
        expected = {"loss": forward(task, model, batch).item(), **task.evaluate(model, batch)}
    for name, values in (found if isinstance(found, Mapping) else {"loss": found}).items():
        if not isinstance(values, torch.Tensor) or values.dim() != 1 or not len(values):
            got = f"shape {tuple(values.shape)}" if isinstance(values, torch.Tensor) else type(values).__name__
            raise Breach("losses must return a tensor (n,) with one value per item", got, 'use reduction="none"')
        mean, wanted = values.double().mean().item(), expected.get(name)
        if wanted is None or not abs(mean - wanted) <= CLOSE * max(abs(wanted), abs(mean), 1e-6):
            raise Breach(
                f"the mean of losses must be the {name} that loss or evaluate returns",
                f"{mean:.6g} instead of {wanted if wanted is None else format(wanted, '.6g')}",
                "return the same quantity for every item; if items have different weights (sequences of different "
                "lengths, counted in tokens), scale their values so that the mean equals it",
            )


def check_resplit(subject: Subject) -> str | None:
    """Check that a task with `resplit` uses `split_indices`, so that another seed gives another split."""
    task = subject.task
    if not task.resplit:
        if task.split_sizes is None:  # reading the splits has not called split_indices
            return None
        return (
            "a task that splits its data with split_indices should have resplit=True, got resplit=False; pass "
            "resplit=True to @fallline.task, otherwise verdicts hold only for this one split"
        )
    tests = [_test_content(task, seed) for seed in (1, 2, 1)]
    if tests[0][1] is None:
        raise Breach(
            "with resplit=True, batches must select examples with self.split_indices(count)",
            "no call of this method",
            "write rows = self.split_indices(len(data))[split]",
        )
    if tests[0] == tests[1] or tests[0] != tests[2]:
        got = "the same test set for another" if tests[0] == tests[1] else "another test set for the same"
        raise Breach(
            "with resplit=True, the split must depend on self.split_seed alone",
            f"{got} seed",
            "call self.split_indices in every instance of the task, and store nothing of the split outside of it",
        )
    return None


def _test_content(task: Any, split_seed: int) -> tuple[bytes, dict[str, int] | None]:
    """Return the first test batch as bytes, and the sizes of the splits if the task has called `split_indices`."""
    other = probing.again(task, split_seed)
    content = as_bytes(next(iter(read(other, "test")), None))
    return content, None if other.split_sizes is None else dict(other.split_sizes)
