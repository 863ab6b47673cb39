"""The numbers that the update of a set of parameters reads, taken from the options of their group."""

from collections.abc import Mapping
from typing import Any

from fallline.core.options import NUMBERS
from fallline.errors import ArgumentTypeError
from fallline.group_values import number
from fallline.rules.ranges import several
from fallline.rules.rule import Rule


def numbers_of(
    owner: str,
    rule: Rule,
    group: Mapping[str, Any],
    step: float,
    first: bool,
    scale: Any = None,
    scalars: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return all numbers that an update can read, by the names in the rule (`betas` gives beta1, beta2 and so on).

    Args:
        owner: name of the optimizer, for messages.
        rule: its update rule.
        group: the options of the group; users may have changed them since the group was added.
        step: the number of updates of the parameters, including this one.
        first: whether their state was created in this step.
        scale: the scale of a GradScaler, by which the gradients still have to be divided.
        scalars: the values of the rule's `scalar_state` before this update; those after it are among the numbers.

    Raises:
        ArgumentTypeError: an option is not a number.
    """
    keep = bool(group.get("differentiable"))  # autograd records tensors
    numbers: dict[str, Any] = {"step": step, "first": first}
    for name in (*NUMBERS, *rule.ranges):
        if name in rule.lengths:
            stem = name.removesuffix("s")
            for index, value in enumerate(several(owner, name, group[name], rule.lengths[name])):
                numbers[f"{stem}{index + 1}"] = value if keep else _number(owner, f"{name}[{index}]", value)
        else:
            numbers[name] = group[name] if keep else _number(owner, name, group[name])
    base = _number(owner, "base_lr", group.get("initial_lr", group["base_lr"]))
    numbers["relative_lr"] = numbers["lr"] / base if base else 0.0
    numbers |= {f"next_{name}": numbers[name] for name in rule.group_state}  # known after the sums
    numbers["grad_scale"] = None if scale is None else number(scale)
    return numbers | rule.next_scalars(scalars or {}, numbers)


def _number(owner: str, name: str, value: Any) -> Any:
    if value is None:  # an option that is off
        return None
    try:
        return number(value)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentTypeError(
            f"{owner}: {name} must be a number, got {name}={value!r}; set a number in the group"
        ) from None
