"""The step plan of an optimizer: its parameters sorted into buckets, and a check whether the plan is still valid."""

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import torch

from fallline.backends import bucket_for
from fallline.backends.bucket import Bucket
from fallline.core.state import check_gradient, complete_state, new_step
from fallline.dtensor import is_sharded
from fallline.errors import ArgumentError, GradientError
from fallline.rules.update import Update


@dataclass
class Cohort:
    """A set of parameters of one group that have received the same number of updates (`age`)."""

    group: int
    age: float
    first: bool


@dataclass
class Plan:
    """Buckets of parameters; valid while groups, options, state and the set of gradients stay the same.

    Attributes:
        updates: the update of each group.
        params: the parameters of each group.
        idle: the parameters without a gradient.
        buckets: the parameters with a gradient.
        cohorts: the cohorts that the row numbers in the buckets refer to.
        states: all state dicts of the optimizer.
        counting: the states whose `step` this plan advances.
        steps: those steps in one vector; None if there are none.
        views: the elements of `steps`, each the `step` of one state.
        ages: the values that this plan last wrote to `steps`.
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
        """Return whether the plan still matches the optimizer; called before every step."""
        return (
            updates == self.updates
            and not any(p.grad is not None for p in self.idle)
            and all(_same(group["params"], params) for group, params in zip(groups, self.params, strict=True))
            and _same(state.values(), self.states)  # users may clear the state or replace its dicts
            and (self.steps is None or self._steps_hold())
        )

    def _steps_hold(self) -> bool:
        assert self.steps is not None and self.ages is not None
        current = list(map(dict.get, self.counting, repeat("step")))
        in_place = self.views[0].data_ptr() == self.steps.data_ptr()  # another plan may have moved them
        return in_place and _same(current, self.views) and torch.equal(self.steps, self.ages)


def share_steps(states: Sequence[dict[str, Any]]) -> torch.Tensor | None:
    """Make every `step` a view of one vector, so that a thousand counters advance in one operation."""
    if not states:
        return None
    steps = new_step([float(state["step"]) for state in states])
    for state, step in zip(states, steps, strict=True):
        old = state["step"]
        if isinstance(old, torch.Tensor) and not old.is_inference():
            old.data = step  # keep the tensor object, because state dicts returned earlier refer to it
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
        name: name of the optimizer, for error messages.
        groups: its parameter groups.
        state: its state; missing entries are created.
        updates: the update of each group.
        backend: the backend option of the optimizer, one of BACKENDS.
        places: the index of each parameter, on which random numbers depend; None counts them in order.

    Raises:
        ArgumentError, GradientError: options or a gradient cannot be used; no step has begun.
    """
    if len({update.clip_norm for update in updates}) > 1:
        raise ArgumentError(
            f"{name}: clip_grad_norm must be given for all groups or for none, because the norm is computed over all "
            f"of them, got {', '.join(str(group['clip_grad_norm']) for group in groups)}; set it in every group"
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
        # torch.distributed.checkpoint would save an empty state, and then miss it in a checkpoint without one
        own = state[param] if updates[index].state or updates[index].counts_steps else state.get(param, {})
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
    """Return the backend of a group, taking PyTorch's flags into account."""
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
    """Raise an error if a DTensor cannot be updated shard by shard."""
    if not is_sharded(param):
        return
    if group.get("differentiable"):
        raise ArgumentError(f"{name}: differentiable must be False for DTensors, got True; leave it out")
    if any(place.is_partial() for place in param.placements):
        raise GradientError(
            f"{name}: a DTensor parameter must be sharded or replicated, got placements {param.placements}; "
            "call redistribute() on it when you create it"
        )
