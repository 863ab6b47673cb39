"""Making the plan of an optimizer's next steps: gradients checked, missing state created, parameters sorted."""

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import torch

from fallline.backends import bucket_for
from fallline.backends.bucket import Bucket
from fallline.errors import ArgumentError, GradientError
from fallline.plan import Cohort, Plan, share_steps
from fallline.rule import Update
from fallline.shards import is_sharded
from fallline.state import check_gradient, complete_state


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
