"""How the next step of an optimizer runs, and whether that is still so."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import torch

from fallline.backends.bucket import Bucket
from fallline.rule import Update


@dataclass
class Cohort:
    """Parameters of one group that have received the same number of updates."""

    group: int
    age: float
    first: bool


@dataclass
class Plan:
    """Buckets of parameters; it holds while groups, options, state and the set of gradients stay the same.

    Attributes:
        updates: of each group.
        params: of each group.
        idle: the parameters without a gradient.
        buckets: the parameters with one.
        cohorts: whose numbers the rows of the buckets are.
        states: every state of the optimizer.
        counting: the states whose `step` this plan advances.
        steps: those steps in one vector; None if there are none.
        views: the elements of `steps`, each a `step`.
        ages: what this plan last wrote to `steps`.
    """

    updates: list[Update]
    params: list[list[torch.Tensor]]
    idle: list[torch.Tensor]
    buckets: list[Bucket]
    cohorts: list[Cohort]
    states: list[dict[str, Any]]
    counting: list[dict[str, Any]]
    steps: torch.Tensor | None
    views: list[torch.Tensor]
    ages: torch.Tensor | None

    def holds(
        self, updates: list[Update], groups: Sequence[Mapping[str, Any]], state: Mapping[torch.Tensor, dict[str, Any]]
    ) -> bool:
        """Return whether the plan still describes the optimizer; this runs before every step."""
        return (
            updates == self.updates
            and not any(p.grad is not None for p in self.idle)
            and all(_same(group["params"], params) for group, params in zip(groups, self.params, strict=True))
            and _same(state.values(), self.states)  # users clear it, or put other dicts in
            and (self.steps is None or self._steps_hold())
        )

    def _steps_hold(self) -> bool:
        assert self.steps is not None and self.ages is not None
        current = list(map(dict.get, self.counting, repeat("step")))
        here = self.views[0].data_ptr() == self.steps.data_ptr()  # another plan may have moved them
        return here and _same(current, self.views) and torch.equal(self.steps, self.ages)


def share_steps(states: Sequence[dict[str, Any]]) -> torch.Tensor | None:
    """Make every `step` a view of one vector, so that a thousand counters advance in one operation."""
    if not states:
        return None
    steps = torch.tensor([float(state["step"]) for state in states], dtype=torch.float32)
    for state, step in zip(states, steps, strict=True):
        old = state["step"]
        if isinstance(old, torch.Tensor) and not old.is_inference():
            old.data = step  # the tensor itself stays: state dicts given out earlier hold it
        else:
            state["step"] = step
    return steps


def _same(ours: Collection[Any], theirs: Collection[Any]) -> bool:
    return len(ours) == len(theirs) and all(map(is_, ours, theirs))
