"""State dicts in PyTorch's layout; loading checks them first and copies tensors without changing their dtype."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch

from fallline.core.options import plain_options
from fallline.dtensor import fitted
from fallline.errors import StateError
from fallline.rules.rule import EMA, MASTER, Rule
from fallline.rules.update import update_for

# These options select how a step is executed in this process, so loading does not change them.
_EXECUTION = ("foreach", "fused", "capturable", "differentiable")


def pack(name: str, rule: Rule, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Add the keys that PyTorch's classes need to load a state dict with the same meaning.

    Args:
        name: class name of the optimizer, for messages.
        rule: update rule of the optimizer.
        state_dict: the state dict as PyTorch's base class makes it; its groups are changed.
    """
    for group in state_dict.get("param_groups", ()):  # a user's hook may have returned anything
        group |= plain_options(name, rule, group)
        # torch.optim.Adam uses this key for decoupled decay; without it, it would apply L2.
        group["decoupled_weight_decay"] = group["weight_decay_mode"] == "decoupled"
    return state_dict


def unpack(
    name: str, rule: Rule, own_groups: Sequence[dict[str, Any]], state_dict: Mapping[str, Any]
) -> tuple[defaultdict[torch.Tensor, dict[str, Any]], list[dict[str, Any]]]:
    """Return copies of the state and the groups in a state dict, matched to the parameters of an optimizer.

    Args:
        name: class name of the optimizer, for messages.
        rule: update rule of the optimizer.
        own_groups: parameter groups of the optimizer.
        state_dict: the state dict to load.

    Raises:
        StateError: the state dict does not match the optimizer.
    """
    if not {"state", "param_groups"} <= state_dict.keys():
        raise StateError(
            f"{name}: a state dict must have the keys state and param_groups, got {', '.join(map(str, state_dict))}; "
            "pass what state_dict() returned"
        )
    saved_groups = state_dict["param_groups"]
    if len(saved_groups) != len(own_groups):
        raise StateError(
            f"{name}: a state dict must have as many groups as the optimizer, got {len(saved_groups)} for "
            f"{len(own_groups)}; build the optimizer with the groups it was saved with"
        )
    groups = [_fit_group(name, rule, i, *pair) for i, pair in enumerate(zip(own_groups, saved_groups, strict=True))]
    owners = {
        key: (param, group)
        for group, saved in zip(groups, saved_groups, strict=True)
        for key, param in zip(saved["params"], group["params"], strict=True)
    }
    state: defaultdict[torch.Tensor, dict[str, Any]] = defaultdict(dict)
    for key, saved_state in state_dict["state"].items():
        if key not in owners:
            raise StateError(
                f"{name}: state must belong to a parameter of a group, got state for parameter {key!r}; "
                "check whether it was saved with more parameters"
            )
        param, group = owners[key]
        state[param] = _fit_state(name, rule, key, param, group, saved_state)
    return state, groups


def _fit_group(name: str, rule: Rule, index: int, own: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    if missing := [key for key in rule.ranges if key not in saved]:
        raise StateError(
            f"{name}: group {index} must have {', '.join(rule.ranges)}, got a group without "
            f"{', '.join(missing)}; check whether it was saved by another optimizer"
        )
    if len(saved["params"]) != len(own["params"]):
        raise StateError(
            f"{name}: group {index} must have {len(own['params'])} parameters as in the optimizer, got "
            f"{len(saved['params'])}; build the optimizer with the parameters it was saved with"
        )
    for mine, theirs in zip(own.get("param_names", ()), saved.get("param_names", ()), strict=False):
        if mine != theirs:
            raise StateError(
                f"{name}: parameter names must match, got {theirs!r} in the state dict where group {index} has "
                f"{mine!r}; pass the parameters in the order they were saved in"
            )
    kept = {k: v for k, v in saved.items() if k not in (*_EXECUTION, "params", "decoupled_weight_decay")}
    options = deepcopy(plain_options(name, rule, kept))
    if saved.get("decoupled_weight_decay"):
        options.setdefault("weight_decay_mode", "decoupled")
    return {**own, **options}


def _fit_state(
    name: str, rule: Rule, key: Any, param: torch.Tensor, group: Mapping[str, Any], saved: Mapping[str, Any]
) -> dict[str, Any]:
    present = {k: v for k, v in saved.items() if v is not None}  # PyTorch stores a momentum buffer of None
    known = [*rule.state, "step", EMA, MASTER]
    needed = [*update_for(rule, group).state, *(["step"] if rule.counts_steps else [])]
    wrong = [k for k in present if k not in known] or [k for k in needed if present and k not in present]
    if wrong:
        raise StateError(
            f"{name}: the state of parameter {key!r} must hold {', '.join(needed) or 'nothing'}, got "
            f"{', '.join(present)}; check whether it was saved by another optimizer"
        )
    state: dict[str, Any] = {}
    for k, value in present.items():
        if k == "step":
            state[k] = torch.tensor(float(value), dtype=torch.float32)
        elif not isinstance(value, torch.Tensor) or value.shape != param.shape:
            found = tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value)
            raise StateError(
                f"{name}: {k} of parameter {key!r} must have its shape {tuple(param.shape)}, got {found}; "
                "load it into the model it was saved with"
            )
        else:
            state[k] = fitted(value, param)
    return state
