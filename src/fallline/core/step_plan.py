"""The plan of an optimizer's steps: parameters sorted into buckets, and whether that still holds."""

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import torch

from fallline.backends import bucket_for
from fallline.backends.bucket import Bucket
from fallline.core.state import check_gradient, complete_state
from fallline.dtensor import is_sharded
from fallline.errors import ArgumentError, GradientError
from fallline.rules.update import Update


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


def make_plan(
    name: str,
    groups: Sequence[dict[str, Any]],
    state: MutableMapping[torch.Tensor, dict[str, Any]],
    updates: Sequence[Update],
    backend: str,
    places: Mapping[torch.Tensor, int] | None = None,
) -> Plan:
    """Return the plan for the parameters that have a gradient now.

    Args:
        name: of the optimizer, for what is said about gradients.
        groups: its parameter groups.
        state: its state; gets what is missing.
        updates: of each group.
        backend: what the optimizer asks for, one of BACKENDS.
        places: the number of each parameter, on which random numbers depend; None counts them.

    Raises:
        ArgumentError, GradientError: options or a gradient cannot be used; no step has begun.
    """
    if len({update.clip_norm for update in updates}) > 1:
        raise ArgumentError(
            f"{name}: clip_grad_norm must be given for all groups or for none, for the norm is taken over all of them, "
            f"got {', '.join(str(group['clip_grad_norm']) for group in groups)}; set it in every group"
        )
    active = [
        (index, param)
        for index, group in enumerate(groups)
        for param in group["params"]
        if param.grad is not None and check_gradient(name, param)
    ]
    buckets: dict[Any, Bucket] = {}
    cohorts: dict[tuple[int, float, bool], int] = {}
    places = places or {p: n for n, p in enumerate(p for group in groups for p in group["params"])}
    for index, param in active:
        _check_shards(name, groups[index], param)
        own = state[param]
        first = complete_state(own, param, updates[index])
        age = float(own["step"]) if updates[index].counts_steps else 0.0
        row = cohorts.setdefault((index, age, first), len(cohorts))
        key, make = bucket_for(backend_of(groups[index], backend), updates[index], param, param.grad, own)
        if key not in buckets:
            buckets[key] = make(updates[index])
        buckets[key].add(param, own, row, places[param])
    counting = [state[param] for index, param in active if updates[index].counts_steps]
    steps = share_steps(counting)
    return Plan(
        updates=list(updates),
        params=[list(group["params"]) for group in groups],
        idle=[p for group in groups for p in group["params"] if p.grad is None],
        buckets=list(buckets.values()),
        cohorts=[Cohort(*key) for key in cohorts],
        states=list(state.values()),
        counting=counting,
        steps=steps,
        views=[own["step"] for own in counting],
        ages=None if steps is None else steps.clone(),
    )


def backend_of(group: Mapping[str, Any], backend: str) -> str:
    """Return the backend that a group runs on, PyTorch's flags considered."""
    if group.get("differentiable"):
        return "reference"
    if backend == "auto":
        for flag in ("fused", "foreach"):
            if group.get(flag):
                return flag
        if group.get("fused") is False or group.get("foreach") is False:
            return "reference"
    return backend


def _check_shards(name: str, group: Mapping[str, Any], param: Any) -> None:
    """Raise an error where a DTensor cannot be updated in its parts."""
    if not is_sharded(param):
        return
    if group.get("differentiable"):
        raise ArgumentError(f"{name}: differentiable must be False for DTensors, got one; leave it out")
    if any(place.is_partial() for place in param.placements):
        raise GradientError(
            f"{name}: a DTensor parameter must be sharded or replicated, got placements {param.placements}; "
            "redistribute() it when it is made"
        )
