"""Checks of the options and parameters of a parameter group, made when the group is added."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch

from fallline.backends.layout import NAMED_DTYPES
from fallline.core.common_options import ExtraOptions, defaults_of
from fallline.errors import ArgumentError, ArgumentTypeError, suggest
from fallline.group_values import plain
from fallline.rules.ranges import FRACTION, POSITIVE, several
from fallline.rules.rule import INT8, MULTIPLYING_MODES, REMAINDER_BITS, Rule

_EXTRA = defaults_of(ExtraOptions)
# Defaults of the options that a group and its constructor do not set. Custom optimizers need not declare them.
COMMON: dict[str, Any] = {
    "weight_decay": 0.0,
    "maximize": False,
    **{name: value for name, value in _EXTRA.items() if name != "backend"},
}
# The numbers that every group has, besides the hyperparameters of its rule.
NUMBERS = ("lr", "weight_decay", "clip_grad_norm", "clip_grad_value", "ema_decay", "rounding_seed")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
STATE_DTYPES = (None, *NAMED_DTYPES, *NAMED_DTYPES.values(), INT8)


def plain_options(name: str, rule: Rule, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as groups hold them: plain numbers, hyperparameters like betas as tuples, dtypes without names.

    Raises:
        ArgumentError: a hyperparameter that must be several numbers is something else.
    """
    found = {key: value if key == "params" else plain(value) for key, value in options.items()}
    if isinstance(named := found.get("state_dtype"), str):
        found["state_dtype"] = NAMED_DTYPES.get(named, named)
    lengths = {key: count for key, count in rule.lengths.items() if key in found}
    return found | {key: tuple(map(plain, several(name, key, found[key], n))) for key, n in lengths.items()}


def check_spelling(name: str, defaults: Mapping[str, Any], group: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ArgumentError if a key of a group that a user adds looks like a misspelled option.

    Users ("name"), schedulers and other libraries may store other keys in a group, but a key similar to an option is a
    typo, unless it only qualifies the option, as "weight_decay_mult" and "max_momentum" do.

    Args:
        name: name of the optimizer, for the message.
        defaults: all options of the optimizer with their default values.
        group: the group as the user has written it.
        known: other keys that are allowed, because a group has them already.
    """
    for key in group.keys() - defaults.keys() - {"params", "param_names", "base_lr"} - {*known}:
        near = difflib.get_close_matches(str(key), defaults, n=1, cutoff=0.8)
        if near and f"_{near[0]}_" not in f"_{key}_":
            raise ArgumentError(
                f"{name}: a group's options must be one of {', '.join(defaults)}, got {key}={group[key]!r}; "
                + suggest(key, defaults)
            )


def check_options(name: str, rule: Rule, defaults: Mapping[str, Any], group: Mapping[str, Any]) -> None:
    """Raise ArgumentError if the options of a group are invalid.

    Args:
        name: name of the optimizer, for the message.
        rule: its update rule.
        defaults: all options of the optimizer with their default values.
        group: all options of one group.
    """
    if isinstance(group["lr"], torch.Tensor) and group["lr"].numel() != 1:
        raise ArgumentError(
            f"{name}: a tensor lr must have one element, got lr of shape {tuple(group['lr'].shape)}; "
            "use a group for each learning rate"
        )
    rule.check(name, group)
    for option, allowed in (("clip_grad_norm", POSITIVE), ("clip_grad_value", POSITIVE), ("ema_decay", FRACTION)):
        if group[option] is not None:
            allowed.check(name, option, group[option])
    if group["clip_grad_norm"] != defaults["clip_grad_norm"]:
        raise ArgumentError(
            f"{name}: clip_grad_norm must be the same for all groups, because the norm is computed over all of them, "
            f"got {group['clip_grad_norm']} and {defaults['clip_grad_norm']}; pass it to the constructor"
        )
    _check_cautious(name, group)
    check_storage(name, rule, group)
    if group.get("capturable"):
        raise ArgumentError(f"{name}: capturable must be False, got capturable=True; CUDA graphs are not supported")
    if group.get("differentiable") and group.get("fused"):
        raise ArgumentError(f"{name}: differentiable must be False when fused is True; leave fused out")


def _check_cautious(name: str, group: Mapping[str, Any]) -> None:
    for option in ("cautious", "cautious_weight_decay"):
        if not isinstance(group[option], bool):
            raise ArgumentError(f"{name}: {option} must be True or False, got {group[option]!r}; pass True")
    if group["cautious_weight_decay"] and group["weight_decay_mode"] not in MULTIPLYING_MODES:
        raise ArgumentError(
            f"{name}: cautious_weight_decay needs a decay that multiplies the parameter, got "
            f"weight_decay_mode={group['weight_decay_mode']!r}; pass weight_decay_mode='decoupled'"
        )


def check_storage(name: str, rule: Rule, group: Mapping[str, Any]) -> None:
    """Raise ArgumentError if the parameters and states of a group cannot be stored as its options say.

    Args:
        name: name of the optimizer, for the message.
        rule: its update rule.
        group: options of the group. Users may change these during training, so they are checked before a step too.
    """
    dtype, seed, masters = group.get("state_dtype"), group.get("rounding_seed", 0), group.get("master_weights", False)
    if dtype not in STATE_DTYPES:
        remedy = "pass 'int8'" if dtype in (torch.int8, torch.uint8) else "leave it out to use that of the parameter"
        raise ArgumentError(
            f"{name}: state_dtype must be None, torch.float32, torch.bfloat16 or 'int8', got {dtype!r}; {remedy}"
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ArgumentError(f"{name}: rounding_seed must be an integer in [0, 2^63), got {seed!r}; pass 0")
    if not isinstance(masters, bool) and masters not in REMAINDER_BITS:
        raise ArgumentError(
            f"{name}: master_weights must be True, False, 'split24' or 'split32', got {masters!r}; pass True"
        )
    for option in ("stochastic_rounding", "differentiable"):
        if masters and group.get(option):
            raise ArgumentError(
                f"{name}: master_weights must be False with {option}, because it makes the parameters copies of "
                f"float32 weights, got both; leave one of them out"
            )
    rounded = dtype not in (None, torch.float32, "float32")
    if group.get("differentiable") and (rounded or group.get("stochastic_rounding")):
        raise ArgumentError(
            f"{name}: differentiable must be False with stochastic rounding, which has no derivative, got "
            f"state_dtype={dtype} and stochastic_rounding={group.get('stochastic_rounding')}; leave one of them out"
        )
    if dtype == INT8 and (rule.whole or rule.shapes is not None):
        raise ArgumentError(
            f"{name}: state_dtype='int8' is for optimizers that update every element on its own, got {rule.name}, "
            "which updates whole matrices; pass state_dtype=torch.bfloat16"
        )
    for option, reason in rule.exact.items():
        if rounded and group[option]:
            raise ArgumentError(
                f"{name}: {option} needs an exact state ({reason}), got state_dtype={dtype}; leave one of them out"
            )


# Options that a user switches on and that a state dict can switch off again.
_SWITCHES = (
    "clip_grad_norm",
    "clip_grad_value",
    "ema_decay",
    "cautious",
    "cautious_weight_decay",
    "state_dtype",
    "master_weights",
    "stochastic_rounding",
)


def switched_off(groups: Sequence[Mapping[str, Any]], loaded: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the options, as "name=value", that are on in a group but off in the loaded group that replaces it."""
    found = {
        f"{option}={own[option]}": None
        for own, new in zip(groups, loaded, strict=True)
        for option in _SWITCHES
        if own[option] not in (None, False) and new[option] in (None, False)
    }
    return list(found)


def parameter_list(name: str, params: Any) -> list[Any]:
    """Return the `params` argument of an optimizer as a list; it must not be empty, but a group may be.

    Raises:
        ArgumentTypeError: `params` is not an iterable, or has no fixed order.
        ArgumentError: `params` is empty.
    """
    listed = _in_order(name, params)
    if not listed:
        raise ArgumentError(
            f"{name}: params must contain at least one parameter, got an empty {type(params).__name__}; "
            "check whether the model.parameters() generator was used up before, or a filter removed all parameters"
        )
    return listed


def _in_order(name: str, params: Any) -> list[Any]:
    if isinstance(params, (set, frozenset)):  # PyTorch accepts sets, but the state dict then fits no other process
        raise ArgumentTypeError(f"{name}: params must be in a fixed order, got a set; pass a list")
    if isinstance(params, torch.Tensor) or not isinstance(params, Iterable):
        raise ArgumentTypeError(
            f"{name}: params must be an iterable of tensors, of (name, tensor) pairs or of groups, got a "
            f"{type(params).__name__}; pass model.parameters() or [tensor]"
        )
    # torch recognizes a group only if it is a dict, which OmegaConf's DictConfig is not
    return [dict(param) if isinstance(param, Mapping) else param for param in params]


def check_params(name: str, group: Mapping[str, Any]) -> list[Any]:
    """Return the parameters of a group as a list of tensors or (name, tensor) pairs.

    Raises:
        ArgumentTypeError: a parameter is not a tensor, or the parameters have no fixed order.
        ArgumentError: a parameter is not a leaf, or the options of the group do not support its dtype.
    """
    alone = isinstance(group["params"], torch.Tensor)
    params = [group["params"]] if alone else _in_order(name, group["params"])
    tensors = [param[1] if isinstance(param, tuple) and len(param) == 2 else param for param in params]
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentTypeError(
                f"{name}: params must be tensors, got a {type(tensor).__name__}; pass model.parameters()"
            )
        if not (tensor.is_leaf or tensor.retains_grad or group.get("differentiable")):
            raise ArgumentError(
                f"{name}: params must be leaves, because other tensors get no gradient, got the result of "
                f"{type(tensor.grad_fn).__name__} of shape {tuple(tensor.shape)}; pass the tensor from which it was "
                "computed, or its detach().requires_grad_()"
            )
    _check_dtypes(name, {tensor.dtype for tensor in tensors if not _is_frozen(tensor)}, group)
    return params


def _is_frozen(tensor: torch.Tensor) -> bool:
    """Return whether a parameter has a dtype that no update supports and is not trained, such as quantized weights."""
    return isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad and tensor.dtype not in DTYPES


def _check_dtypes(name: str, dtypes: set[torch.dtype], group: Mapping[str, Any]) -> None:
    if unknown := dtypes - set(DTYPES):
        raise ArgumentError(
            f"{name}: params must be {', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)}, got one of "
            f"{unknown.pop()}; leave out tensors that are not trained, or convert them"
        )
    if group["state_dtype"] is not None and (wide := dtypes - {torch.float32, torch.bfloat16, torch.float16}):
        raise ArgumentError(
            f"{name}: state_dtype is for float32, bfloat16 and float16 parameters, got one of {wide.pop()}; put such "
            "parameters into a group with state_dtype=None"
        )
    if group["master_weights"] and (wide := dtypes - {torch.bfloat16, torch.float16}):
        raise ArgumentError(
            f"{name}: master_weights is for bfloat16 and float16 parameters, got one of {wide.pop()}; put such "
            "parameters into a group with master_weights=False, or convert the model with model.bfloat16()"
        )
    if group["master_weights"] in REMAINDER_BITS and torch.float16 in dtypes:
        raise ArgumentError(
            f"{name}: master_weights={group['master_weights']!r} is for bfloat16 parameters, got one of torch.float16; "
            "pass master_weights=True"
        )
    if group["stochastic_rounding"] and torch.float16 in dtypes:
        raise ArgumentError(
            f"{name}: stochastic_rounding is for bfloat16 parameters, got one of torch.float16; convert it to bfloat16"
        )
