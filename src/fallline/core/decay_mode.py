"""The meaning of `weight_decay` in state dicts: it moves with them, or they cannot be used."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from fallline.rules.rule import Rule


def decay_entries(name: str, rule: Rule, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a saved group by which PyTorch's class of the same name applies the same weight decay.

    PyTorch's classes do not know `weight_decay_mode`, and would decay with the same number in another way. Therefore
    `weight_decay` is saved as the pair (mode, value) if the class does not have the mode: its step raises a TypeError.

    Args:
        name: class name of the optimizer.
        rule: its update rule.
        group: the options of the group.
    """
    mode, value = group["weight_decay_mode"], group["weight_decay"]
    entries: dict[str, Any] = {"decoupled_weight_decay": mode == "decoupled"}
    twin = getattr(torch.optim, name, None)
    flag = twin is not None and "decoupled_weight_decay" in inspect.signature(twin).parameters  # only Adam has it
    if value and mode != rule.weight_decay_modes[0] and not (flag and mode == "decoupled"):
        entries["weight_decay"] = (mode, value)
    return entries


def decay_options(rule: Rule, own: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by which an optimizer decays as the one that saved a group.

    Args:
        rule: the update rule of the optimizer that loads the group.
        own: the options of its group.
        saved: the saved group, of Fallline or of PyTorch.
    """
    value = saved.get("weight_decay", own["weight_decay"])
    mode, flag = saved.get("weight_decay_mode"), saved.get("decoupled_weight_decay")
    if isinstance(value, (tuple, list)):
        mode, value = value
    if mode is not None and flag in (None, mode == "decoupled"):
        pass
    elif not value:
        mode = own["weight_decay_mode"]  # without decay there is nothing to preserve
    elif flag is not None and rule.weight_decay_modes[0] in ("decoupled", "l2"):
        # PyTorch's Adam, AdamW, NAdam or RAdam. If it differs from the mode, torch.distributed.checkpoint has read it
        # from a checkpoint of PyTorch into a state dict of Fallline, in which the mode is that of the new optimizer.
        mode = "decoupled" if flag else "l2"
    else:  # PyTorch's other classes, and its older versions, decay in the default way of the class of the same name
        mode = rule.weight_decay_modes[0]
    return {"weight_decay": value, "weight_decay_mode": mode}
