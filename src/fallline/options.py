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
}


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
    if group.get("capturable"):
        raise ArgumentError(f"{name}: capturable must be False, got capturable=True; CUDA graphs are not supported")
    if group.get("differentiable") and group.get("fused"):
        raise ArgumentError(f"{name}: differentiable must be False when fused is True; leave fused out")


def suggest(name: str, known: list[str]) -> str:
    """Return a remedy for a name that is not among the known ones."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "check the spelling"
