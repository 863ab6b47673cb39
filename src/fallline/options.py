"""The options of a parameter group, checked when the group is made."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch

from fallline.errors import ArgumentError
from fallline.rule import FRACTION, POSITIVE, Rule

# What a group has when neither it nor the constructor says otherwise, so that an outside rule need not name them.
COMMON: dict[str, Any] = {
    "weight_decay": 0.0,
    "maximize": False,
    "clip_grad_norm": None,
    "clip_grad_value": None,
    "ema_decay": None,
    "state_dtype": None,
    "stochastic_rounding": False,
    "rounding_seed": 0,
}
NUMBERS = ("lr", "weight_decay", "clip_grad_norm", "clip_grad_value", "ema_decay", "rounding_seed")  # of every rule
STATE_DTYPES = (None, torch.float32, torch.bfloat16)


def check_options(name: str, rule: Rule, defaults: Mapping[str, Any], group: Mapping[str, Any]) -> None:
    """Raise ArgumentError when the options of a group cannot be used.

    Args:
        name: of the optimizer, for the message.
        rule: what it runs.
        defaults: every option it has, with the value for groups that give none.
        group: all options of one group.
    """
    for key in group.keys() - defaults.keys() - {"params", "param_names", "base_lr", "initial_lr"}:
        # Groups may carry notes of the user's ("name", "lr_scale"), but a near miss is a typing error.
        if difflib.get_close_matches(key, defaults, n=1, cutoff=0.8):
            raise ArgumentError(
                f"{name}: a group's options must be among {', '.join(defaults)}, got {key}={group[key]!r}; "
                + suggest(key, list(defaults))
            )
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
            f"{name}: clip_grad_norm must be the same for all groups, for the norm is taken over all of them, got "
            f"{group['clip_grad_norm']} besides {defaults['clip_grad_norm']}; pass it to the constructor"
        )
    _check_rounding(name, rule, group)
    if group.get("capturable"):
        raise ArgumentError(f"{name}: capturable must be False, got capturable=True; CUDA graphs are not supported")
    if group.get("differentiable") and group.get("fused"):
        raise ArgumentError(f"{name}: differentiable must be False when fused is True; leave fused out")


def _check_rounding(name: str, rule: Rule, group: Mapping[str, Any]) -> None:
    dtype, seed = group["state_dtype"], group["rounding_seed"]
    if dtype not in STATE_DTYPES:
        raise ArgumentError(
            f"{name}: state_dtype must be None, torch.float32 or torch.bfloat16, got {dtype!r}; leave it out for the "
            "dtype of the parameter, float32 at least"
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ArgumentError(f"{name}: rounding_seed must be an integer in [0, 2^63), got {seed!r}; pass 0")
    for option, reason in rule.exact.items():
        if dtype is torch.bfloat16 and group[option]:
            raise ArgumentError(
                f"{name}: {option} needs an exact state ({reason}), got state_dtype={dtype}; leave one of them out"
            )


def check_dtypes(name: str, group: Mapping[str, Any]) -> None:
    """Raise ArgumentError when the options of a group do not fit the dtypes of its parameters."""
    dtypes = {param.dtype for param in group["params"]}
    if group["state_dtype"] is not None and (wide := dtypes - {torch.float32, torch.bfloat16, torch.float16}):
        raise ArgumentError(
            f"{name}: state_dtype is for float32, bfloat16 and float16 parameters, got one of {wide.pop()}; put such "
            "parameters into a group with state_dtype=None"
        )
    if group["stochastic_rounding"] and torch.float16 in dtypes:
        raise ArgumentError(
            f"{name}: stochastic_rounding is for bfloat16 parameters, got one of torch.float16; convert it to bfloat16"
        )


def suggest(name: str, known: list[str]) -> str:
    """Return a remedy for a name that is not among the known ones."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "check the spelling"
