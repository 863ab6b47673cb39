"""The step plan of an optimizer: its parameters sorted into buckets, and a check whether the plan is still valid."""

from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fallline.backends import bucket_for
from fallline.backends.bucket import Bucket
from fallline.core.memory import turns_of
from fallline.core.options import check_storage
from fallline.core.shared_scalars import SharedScalars, same, share_scalars
from fallline.core.state import check_gradient, complete_state, new_scalar, shapes_of
from fallline.dtensor import is_sharded
from fallline.errors import ArgumentError, GradientError
from fallline.rules.update import Update


@dataclass
class Cohort:
    """A set of parameters of one group that have received the same number of updates (`age`).

    A parameter that is listed several times is updated several times in a step, which is its `stride`.

    Attributes:
        scalars: the values of the rule's `scalar_state` before the next update, the same for all these parameters.
        previous: the index of the cohort of the update before, for the second and later updates in one step; its
            numbers hold the values to start from, and `scalars` is empty.
    """

    group: int
    age: float
    first: bool
    stride: int
    scalars: dict[str, float]
    previous: int | None


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
        steps: the `step` of the states in which this plan advances it; None if there are none.
        strides: by how much a step advances each of the `steps`.
        scalars: the other numbers that this plan advances, each with the cohorts of the first updates of its states.
        empty: the parameters without elements; they have a state and a step count, but no bucket.
    """

    updates: list[Update]
    params: list[list[torch.Tensor]]
    idle: list[torch.Tensor]
    buckets: list[Bucket]
    cohorts: list[Cohort]
    states: list[dict[str, Any]]
    steps: SharedScalars | None
    strides: torch.Tensor | int
    scalars: list[tuple[SharedScalars, list[int]]]
    empty: list[torch.Tensor]

    def holds(
        self, updates: list[Update], groups: Sequence[Mapping[str, Any]], state: Mapping[torch.Tensor, dict[str, Any]]
    ) -> bool:
        """Return whether the plan still matches the optimizer; called before every step."""
        return (
            updates == self.updates
            and not any(p.grad is not None for p in self.idle)
            and all(p.grad is not None and p.numel() == 0 for p in self.empty)
            and all(same(group["params"], params) for group, params in zip(groups, self.params, strict=True))
            and same(state.values(), self.states)  # users may clear the state or replace its dicts
            and (self.steps is None or self.steps.hold())
            and all(shared.hold() for shared, _ in self.scalars)
        )

    def advance(self, numbers: Sequence[Mapping[str, Any]]) -> None:
        """Advance the numbers in the state by one step; `numbers` are those of each cohort in this step."""
        if self.steps is not None:
            self.steps.add(self.strides)
        for cohort, own in zip(self.cohorts, numbers, strict=True):
            cohort.age += cohort.stride
            cohort.first = False
            while cohort.previous is not None:  # the last of several updates in a step comes last
                cohort = self.cohorts[cohort.previous]
            cohort.scalars = {key: own[key] for key in cohort.scalars}
        for shared, rows in self.scalars:
            shared.assign(new_scalar([cohort.scalars.get(shared.key, 0.0) for cohort in self.cohorts])[rows])


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
    for group, update in zip(groups, updates, strict=True):
        check_storage(name, update.rule, group)
    active = [
        (index, param)
        for index, group in enumerate(groups)
        for param in group["params"]
        if param.grad is not None and check_gradient(name, param)
    ]
    strides = Counter(param for _, param in active)
    places = places or {p: n for n, p in enumerate(p for group in groups for p in group["params"])}
    buckets, cohorts, rows = _sort(name, groups, state, updates, backend, places, active, strides)
    counted = dict.fromkeys(param for index, param in active if updates[index].counts_steps)
    repeated = len(strides) < len(active)
    return Plan(
        updates=list(updates),
        params=[list(group["params"]) for group in groups],
        idle=[p for group in groups for p in group["params"] if p.grad is None],
        buckets=buckets,
        cohorts=cohorts,
        states=list(state.values()),
        steps=share_scalars("step", [state[param] for param in counted]),
        scalars=_share_all(state, cohorts, rows),
        strides=torch.tensor([strides[param] for param in counted], device="cpu") if repeated else 1,
        empty=[param for _, param in active if param.numel() == 0],
    )


def _share_all(
    state: Mapping[torch.Tensor, dict[str, Any]], cohorts: Sequence[Cohort], rows: Mapping[torch.Tensor, int]
) -> list[tuple[SharedScalars, list[int]]]:
    """Return the numbers besides `step` that the parameters in these cohorts have."""
    found = []
    for key in dict.fromkeys(key for cohort in cohorts for key in cohort.scalars):
        own = {param: row for param, row in rows.items() if key in cohorts[row].scalars}
        if (shared := share_scalars(key, [state[param] for param in own])) is not None:
            found.append((shared, [*own.values()]))
    return found


def _sort(
    name: str,
    groups: Sequence[dict[str, Any]],
    state: MutableMapping[torch.Tensor, dict[str, Any]],
    updates: Sequence[Update],
    backend: str,
    places: Mapping[torch.Tensor, int],
    active: Sequence[tuple[int, torch.Tensor]],
    strides: Mapping[torch.Tensor, int],
) -> tuple[list[Bucket], list[Cohort], dict[torch.Tensor, int]]:
    """Sort the parameters with a gradient (`active`, with the index of their group) into buckets and cohorts.

    Returns:
        The buckets, the cohorts, and the index of the cohort of each parameter's first update in a step.
    """
    buckets: dict[Any, Bucket] = {}
    cohorts: list[Cohort] = []
    row_of: dict[Any, int] = {}
    latest: dict[torch.Tensor, int] = {}
    firsts: dict[torch.Tensor, int] = {}
    seen: Counter[torch.Tensor] = Counter()
    for (index, param), turn in zip(active, turns_of([param for _, param in active]), strict=True):
        _check_shards(name, groups[index], param)
        update, grad = updates[index].of_states(shapes_of(updates[index].rule, param, groups[index])), param.grad
        assert grad is not None, "only parameters with a gradient are active"
        # torch.distributed.checkpoint would save an empty state, and then miss it in a checkpoint without one
        own = state[param] if update.state or update.counts_steps else state.get(param, {})
        first = complete_state(name, own, param, update, groups[index])
        before, seen[param] = seen[param], seen[param] + 1
        age = float(own["step"]) + before if update.counts_steps else 0.0
        scalars = {} if before else {key: float(own[key]) for key in update.rule.scalar_state}
        kind = (index, age, first, strides[param], *scalars.values(), latest.get(param))
        if kind not in row_of:
            row_of[kind] = len(cohorts)
            cohorts.append(Cohort(index, age, first, strides[param], scalars, latest.get(param)))
        row = latest[param] = row_of[kind]
        firsts.setdefault(param, row)
        if param.numel() == 0:  # an operation costs a tensor without elements as much as a small one
            continue
        bucket_kind, make = bucket_for(backend_of(groups[index], backend), update, param, grad, own)
        key = (max(turn, before), bucket_kind)
        if key not in buckets:
            buckets[key] = make(update)
        buckets[key].add(param, own, row, places[param])
    return list(buckets.values()), cohorts, firsts


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
