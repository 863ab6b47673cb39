"""Parameter groups of a task: searched values apply to all groups, in the ratios that the task has set."""

from collections.abc import Iterable, Mapping
from typing import Any

from fallline.arguments import is_number

SCALED = ("lr", "weight_decay")  # options that a study searches and for which a group may set its own value


def scale_groups(groups: Iterable[Any], options: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Any]:
    """Return the parameters or groups for an optimizer, with the learning rates and weight decays of a trial.

    The group with the highest learning rate gets the rate of the trial; the others keep their ratios to it. A group
    that sets no rate counts as having the optimizer's default; if that default is 0, it gets the rate of the trial.
    Weight decay is treated in the same way, so a group with a weight decay of 0 has none in any trial.
    `fallline.landscape.lr_range.lr_range` keeps the same ratios.

    Args:
        groups: parameters or groups, as returned by the task's `param_groups`.
        options: constructor keywords of the trial.
        defaults: default values of the optimizer's hyperparameters.

    Example:
        >>> groups = [{"params": ["head"], "lr": 1.0}, {"params": ["backbone"], "lr": 0.1}]
        >>> [group["lr"] for group in scale_groups(groups, {"lr": 0.5}, {"lr": 1e-3})]
        [0.5, 0.05]
    """
    found = [dict(group) if isinstance(group, Mapping) else group for group in groups]
    named = [group for group in found if isinstance(group, dict)]
    for key in SCALED:
        value: Any = options.get(key)
        if not is_number(value) or not any(key in group for group in named):
            continue
        own: list[Any] = [group.get(key, defaults.get(key)) or 0.0 for group in named]
        highest = max(float(rate) for rate in own)
        for group, rate in zip(named, own, strict=True):
            # A default of 0 has no ratio: a group without a value then gets the value of the trial.
            if highest > 0 and (key in group or rate > 0):
                group[key] = float(value) * (float(rate) / highest)
    return found


def own_options(groups: Iterable[Any]) -> list[str]:
    """Return the names of the options that any group sets."""
    return sorted({key for group in groups if isinstance(group, Mapping) for key in group} - {"params"})
