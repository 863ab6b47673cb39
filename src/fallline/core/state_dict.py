"""State dicts in PyTorch's layout; loading checks them first and copies tensors without changing their dtype."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch

from fallline.backends.blocks import as_numbers, decode
from fallline.core.decay_mode import decay_entries, decay_options
from fallline.core.options import plain_options
from fallline.core.state import check_blocks, fit_blocks, new_scalar, new_step, real_shape, shapes_of
from fallline.dtensor import is_sharded, place_like
from fallline.errors import StateError
from fallline.rules.rule import EMA, INT8, MASTER, Rule
from fallline.rules.update import codes_key, is_codes, scale_key, update_for

# These options select how a step is executed in this process, so loading does not change them.
_EXECUTION = ("foreach", "fused", "capturable", "differentiable")
# Options that keep something in the state, which is created when a checkpoint was saved without it.
_ADDED = {EMA: "ema_decay", MASTER: "master_weights"}
# State of other optimizers, of PyTorch, of Fallline and of Sophia. It shows that another optimizer was saved; any other
# unknown key belongs to a wrapper around the optimizer, such as Lookahead, and is kept.
_STATE_OF_RULES = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "mu_product", "square_avg", "grad_avg"}
_STATE_OF_RULES |= {"momentum_buffer", "sum", "acc_delta", "row_var", "col_var", "hessian"}
# Modules that torch.compile, DistributedDataParallel, FSDP and checkpointing insert into the names of parameters.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

RuleOf = Callable[[Mapping[str, Any]], Rule]


def pack(name: str, rule_of: RuleOf, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Add the keys that PyTorch's classes need to load a state dict with the same meaning.

    Args:
        name: class name of the optimizer, for messages.
        rule_of: returns the update rule of a group.
        state_dict: the state dict as PyTorch's base class makes it; its groups are changed. States in blocks are
            replaced by bfloat16 numbers, which are the same values, if their codes are DTensors or not contiguous:
            such blocks fit no other sharding, and no other order of the elements in memory.
    """
    for key, state in state_dict.get("state", {}).items():
        if isinstance(state, Mapping) and any(_is_bound(value) for name, value in state.items() if is_codes(name)):
            numbers = as_numbers(state)
            state_dict["state"][key] = {k: v if k in state else v.to(torch.bfloat16) for k, v in numbers.items()}
    for group in state_dict.get("param_groups", ()):  # a user's hook may have returned anything
        group |= plain_options(name, rule_of(group), group)
        group |= decay_entries(name, rule_of(group), group)
    return state_dict


def _is_bound(codes: Any) -> bool:
    """Return whether codes belong to blocks of one sharding or memory layout."""
    return isinstance(codes, torch.Tensor) and (is_sharded(codes) or not codes.is_contiguous())


def unpack(
    name: str, rule_of: RuleOf, own_groups: Sequence[dict[str, Any]], state_dict: Mapping[str, Any]
) -> tuple[defaultdict[Any, dict[str, Any]], list[dict[str, Any]]]:
    """Return copies of the state and the groups in a state dict, matched to the parameters of an optimizer.

    Only what the optimizer itself uses is checked. Other entries, which schedulers and wrappers store in groups and in
    the state, are kept.

    Args:
        name: class name of the optimizer, for messages.
        rule_of: returns the update rule of a group.
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
    pairs = zip(own_groups, saved_groups, strict=True)
    groups = [_fit_group(name, rule_of(pair[0]), i, *pair) for i, pair in enumerate(pairs)]
    owners = {
        key: (param, group, saved)
        for group, saved in zip(groups, saved_groups, strict=True)
        for key, param in zip(saved["params"], group["params"], strict=True)
    }
    state: defaultdict[Any, dict[str, Any]] = defaultdict(dict)
    for key, saved_state in state_dict["state"].items():
        if key in owners:
            param, group, saved = owners[key]
            state[param] = _fit_state(name, rule_of(group), key, param, group, saved, saved_state)
        elif any(_is_of_parameter(rule_of(group), key, saved_state) for group in groups):
            raise StateError(
                f"{name}: state must belong to a parameter of a group, got state for parameter {key!r}; "
                "check whether it was saved with more parameters"
            )
        else:
            state[key] = _copy(saved_state, None)
    return state, groups


def _is_of_parameter(rule: Rule, key: Any, saved: Any) -> bool:
    """Return whether an entry of the state belongs to a parameter; wrappers such as TRAC add entries of their own."""
    own = {*rule.state, *map(codes_key, rule.state)} - {"variance"}  # which TRAC has too
    return isinstance(key, int) or (isinstance(saved, Mapping) and not saved.keys().isdisjoint(own))


def _fit_group(name: str, rule: Rule, index: int, own: dict[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    if missing := [key for key in rule.ranges if key not in saved and not _is_addition(name, key)]:
        raise StateError(
            f"{name}: group {index} must have {', '.join(rule.ranges)}, got a group without "
            f"{', '.join(missing)}; check whether it was saved by another optimizer"
        )
    for key, count in rule.lengths.items():
        if isinstance(saved[key], (tuple, list)) and len(saved[key]) != count:
            raise StateError(
                f"{name}: group {index} must have {key} of {count} numbers, got {key}={saved[key]!r}; check whether it "
                "was saved by another optimizer"
            )
    if len(saved["params"]) != len(own["params"]):
        raise StateError(
            f"{name}: group {index} must have {len(own['params'])} parameters as in the optimizer, got "
            f"{len(saved['params'])}; build the optimizer with the parameters it was saved with"
        )
    for mine, theirs in zip(own.get("param_names", ()), saved.get("param_names", ()), strict=False):
        if _without_wrappers(mine) != _without_wrappers(theirs):
            raise StateError(
                f"{name}: parameter names must match, got {theirs!r} in the state dict where group {index} has "
                f"{mine!r}; pass the parameters in the order they were saved in"
            )
    options = {**saved, **decay_options(rule, own, saved)}
    named = ("param_names",) if "param_names" in own else ()  # its own names, which may have other wrappers
    kept = {k: v for k, v in options.items() if k not in (*_EXECUTION, *named, "params", "decoupled_weight_decay")}
    if INT8 in (own["state_dtype"], kept.get("state_dtype")):  # states in blocks are converted, in both directions
        kept["state_dtype"] = own["state_dtype"]
    return {**own, **deepcopy(plain_options(name, rule, kept))}


def _is_addition(name: str, option: str) -> bool:
    """Return whether PyTorch has a class of this name and the class lacks the option."""
    twin = getattr(torch.optim, name, None)
    return twin is not None and option not in inspect.signature(twin).parameters


def _without_wrappers(name: str) -> list[str]:
    """Return the parts of a parameter's name without those that come from wrappers around modules."""
    return [part for part in name.split(".") if part not in _WRAPPERS]


def _fit_state(
    name: str,
    rule: Rule,
    key: Any,
    param: torch.Tensor,
    group: Mapping[str, Any],
    saved_group: Mapping[str, Any],
    saved: Mapping[str, Any],
) -> dict[str, Any]:
    blocks = {store(k): k for k in rule.state for store in (codes_key, scale_key)}
    own = {*rule.state, *blocks, *rule.scalar_state, "step", EMA, MASTER}
    present = {k: v for k, v in saved.items() if v is not None or k not in own}  # PyTorch stores a buffer of None
    lazy = [k for k, option in _ADDED.items() if not saved_group.get(option)]
    shapes = shapes_of(rule, param, group)
    update = update_for(rule, group).of_states(shapes)
    needed = [k for k in update.state if k not in lazy]
    needed += ["step"] * rule.counts_steps
    needed += rule.scalar_state
    started = not own.isdisjoint(present)
    stated = {blocks.get(k, k.removesuffix(codes_key(""))) if isinstance(k, str) else k for k in present}
    if (_STATE_OF_RULES - own) & stated or any(started and k not in stated for k in needed):
        raise StateError(
            f"{name}: the state of parameter {key!r} must hold {', '.join(needed) or 'nothing'}, got "
            f"{', '.join(present)}; check whether it was saved by another optimizer, and if it was flattened, create "
            f"{name} with the options of the optimizer that saved it"
        )
    state: dict[str, Any] = {}
    for k, value in present.items():
        if k not in own:
            state[k] = _copy(value, param)
        elif k == "step":
            state[k] = new_step(float(value))
        elif k in rule.scalar_state:
            state[k] = new_scalar(float(value))
        elif k in blocks:
            if k == codes_key(blocks[k]):
                state |= _fit_blocks(name, key, blocks[k], present, param)
        else:
            _check_shape(name, key, k, value, param, shapes.get(k, real_shape(param)))
            state[k] = place_like(value, param)
    fit_blocks(name, state, param, update)
    return state


def _fit_blocks(name: str, key: Any, k: str, saved: Mapping[str, Any], param: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a copy of a state that is stored in blocks, in blocks too unless the parameter is a DTensor."""
    codes: Any = saved.get(codes_key(k))
    scales: Any = saved.get(scale_key(k))
    _check_shape(name, key, codes_key(k), codes, param, real_shape(param))
    check_blocks(f"{name}: the state of parameter {key!r}", saved, k)
    if is_sharded(param):
        return {k: place_like(decode(codes, scales), param)}
    return {codes_key(k): place_like(codes, param), scale_key(k): scales.detach().to(param.device, copy=True)}


def _check_shape(name: str, key: Any, k: str, value: Any, param: torch.Tensor, real: tuple[int, ...]) -> None:
    """Raise StateError unless a state has its shape, of which `real` is that of the real view."""
    like_param = real == real_shape(param)
    shape = tuple(param.shape) if like_param else real
    if not isinstance(value, torch.Tensor) or value.shape != shape:
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else repr(value)
        raise StateError(
            f"{name}: {k} of parameter {key!r} must have the shape{' of the parameter,' * like_param} {shape}, got "
            f"{found}; load the state dict into an optimizer for the model it was saved with"
        )


def _copy(value: Any, param: torch.Tensor | None) -> Any:
    """Return a copy of a wrapper's entry; in the state of a parameter, tensors move to its device, as in PyTorch."""
    if isinstance(value, torch.Tensor):
        if param is None or (is_sharded(value) and value.shape != param.shape):
            return value.detach().clone()
        return place_like(value, param) if value.shape == param.shape else value.detach().to(param.device, copy=True)
    if isinstance(value, Mapping):  # the keys are kept, because they can be parameters
        return {key: _copy(entry, param) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copy(entry, param) for entry in value)
    return deepcopy(value)
