"""The step plan of an optimizer: its parameters sorted into buckets, and a check whether the plan is still valid."""

from collections import Counter
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any

import torch

from fallline.backends import bucket_for
from fallline.backends.bucket import Bucket
from fallline.core.memory import turns_of
from fallline.core.state import check_gradient, complete_state, new_step
from fallline.dtensor import is_sharded
from fallline.errors import ArgumentError, GradientError
from fallline.rules.update import Update


@dataclass
class Cohort:
    """A set of parameters of one group that have received the same number of updates (`age`).

    A parameter that is listed several times is updated several times in a step, which is its `stride`.
    """

    group: int
    age: float
    first: bool
    stride: int


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
        strides: by how much a step advances each of the `steps`.
        empty: the parameters without elements; they have a state and a step count, but no bucket.
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
    strides: torch.Tensor | int
    empty: list[torch.Tensor]

    def holds(
        self, updates: list[Update], groups: Sequence[Mapping[str, Any]], state: Mapping[torch.Tensor, dict[str, Any]]
    ) -> bool:
        """Return whether the plan still matches the optimizer; called before every step."""
        return (
            updates == self.updates
            and not any(p.grad is not None for p in self.idle)
            and all(p.grad is not None and p.numel() == 0 for p in self.empty)
            and all(_same(group["params"], params) for group, params in zip(groups, self.params, strict=True))
            and _same(state.values(), self.states)  # users may clear the state or replace its dicts
            and (self.steps is None or self._steps_hold())
        )

    def advance(self) -> None:
        """Advance all step counts by one step."""
        if self.steps is not None:
            self.steps += self.strides
            self.ages = self.steps.clone()
        for cohort in self.cohorts:
            cohort.age += cohort.stride
            cohort.first = False

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
    strides = Counter(param for _, param in active)
    places = places or {p: n for n, p in enumerate(p for group in groups for p in group["params"])}
    buckets, cohorts = _sort(name, groups, state, updates, backend, places, active, strides)
    counted = dict.fromkeys(param for index, param in active if updates[index].counts_steps)
    counting = [state[param] for param in counted]
    steps = share_steps(counting)
    repeated = len(strides) < len(active)
    return Plan(
        updates=list(updates),
        params=[list(group["params"]) for group in groups],
        idle=[p for group in groups for p in group["params"] if p.grad is None],
        buckets=buckets,
        cohorts=cohorts,
        states=list(state.values()),
        counting=counting,
        steps=steps,
        views=[own["step"] for own in counting],
        ages=None if steps is None else steps.clone(),
        strides=torch.tensor([strides[param] for param in counted], device="cpu") if repeated else 1,
        empty=[param for _, param in active if param.numel() == 0],
    )


def _sort(
    name: str,
    groups: Sequence[dict[str, Any]],
    state: MutableMapping[torch.Tensor, dict[str, Any]],
    updates: Sequence[Update],
    backend: str,
    places: Mapping[torch.Tensor, int],
    active: Sequence[tuple[int, torch.Tensor]],
    strides: Mapping[torch.Tensor, int],
) -> tuple[list[Bucket], list[Cohort]]:
    """Sort the parameters with a gradient (`active`, with the index of their group) into buckets and cohorts."""
    buckets: dict[Any, Bucket] = {}
    cohorts: dict[tuple[int, float, bool, int], int] = {}
    seen: Counter[torch.Tensor] = Counter()
    for (index, param), turn in zip(active, turns_of([param for _, param in active]), strict=True):
        _check_shards(name, groups[index], param)
        update, grad = updates[index], param.grad
        assert grad is not None, "only parameters with a gradient are active"
        # torch.distributed.checkpoint would save an empty state, and then miss it in a checkpoint without one
        own = state[param] if update.state or update.counts_steps else state.get(param, {})
        first = complete_state(name, own, param, update)
        before, seen[param] = seen[param], seen[param] + 1
        if param.numel() == 0:  # an operation costs a tensor without elements as much as a small one
            continue
        age = float(own["step"]) + before if update.counts_steps else 0.0
        row = cohorts.setdefault((index, age, first, strides[param]), len(cohorts))
        kind, make = bucket_for(backend_of(groups[index], backend), update, param, grad, own)
        key = (max(turn, before), kind)
        if key not in buckets:
            buckets[key] = make(update)
        buckets[key].add(param, own, row, places[param])
    return list(buckets.values()), [Cohort(*key) for key in cohorts]


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
