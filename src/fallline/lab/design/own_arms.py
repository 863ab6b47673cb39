"""Arms of a study of the user's own training loop: which hyperparameters are searched, and in which ranges."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fallline.errors import ArgumentError
from fallline.lab.command import Command
from fallline.lab.design.arms import Arm, make_arms
from fallline.lab.design.optimizers import find_optimizer, split_wrapper
from fallline.lab.design.schedules import WARMUP, find_schedule
from fallline.lab.design.spaces import BETAS, SPACES, Dimension, Space
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import small_seed
from fallline.lab.user_code.import_path import is_path

# Placeholders that the lab fills in for every command; all others are hyperparameters.
GIVEN = ("optimizer", "schedule", "warmup", "steps", "seed", "arm", "trial", "device")


def parse_search(text: str) -> dict[str, Dimension]:
    """Parse the ranges of a search: NAME=LOW..HIGH, with :log or :linear at the end, or NAME=A|B|C; comma-separated.

    A range above 0 is searched in log scale unless it ends in :linear.

    Raises:
        ArgumentError: a range cannot be read.

    Example:
        >>> found = parse_search("lr=1e-5..1e-2,dropout=0..0.5:linear,batch_size=32|64")
        >>> [found["lr"].value(0.5), found["dropout"].value(0.5), found["batch_size"].choices]
        [0.00031622776601683794, 0.25, (32, 64)]
    """
    found: dict[str, Dimension] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        usual = "; try lr=1e-5..1e-2:log,batch_size=32|64"
        if not equals or not name.isidentifier() or name in found:
            raise ArgumentError(f"search: must be NAME=LOW..HIGH or NAME=A|B, each name once, got {part!r}{usual}")
        if name in GIVEN:
            raise ArgumentError(f"search: {name} must not be searched, because the study sets it, got {part!r}{usual}")
        if "|" in value:
            found[name] = Dimension(name, name, choices=tuple(_value(choice) for choice in value.split("|")))
            continue
        match = re.fullmatch(r"(.+?)\.\.(.+?)(?::(log|linear))?", value)
        ends = [_value(end) for end in match.groups()[:2]] if match else []
        if match is None or not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
            raise ArgumentError(f"search: {name} must be LOW..HIGH or A|B, got {part!r}{usual}")
        low, high = (float(end) for end in ends)
        linear = match[3] == "linear" or (match[3] is None and low <= 0)
        if not low < high or (not linear and low <= 0):
            need = "LOW < HIGH" if linear else "0 < LOW < HIGH; end it with :linear to include 0"
            raise ArgumentError(f"search: {name} must have {need}, got {part!r}{usual}")
        found[name] = Dimension(name, name, low, high, linear=linear)
    return found


def fill_values(trial: Trial, spelling: str = "") -> dict[str, Any]:
    """Return the value of every placeholder that a command may have in a trial.

    Args:
        trial: the specification of the run.
        spelling: the user's spelling of the optimizer; "" for that of the trial.
    """
    options = dict(trial.options)
    betas = options.get("betas")
    if isinstance(betas, tuple | list) and len(betas) <= len(BETAS):
        options |= {**dict(zip(BETAS, betas, strict=False)), "betas": ",".join(map(str, betas))}
    own = {name: getattr(trial, name) for name in ("schedule", "warmup", "arm", "device")}
    own |= {"optimizer": spelling or trial.optimizer, "seed": small_seed(trial.seed), "trial": trial.id}
    return {**own, **({"steps": trial.steps} if trial.steps else {}), **options}


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip()


def make_own_arms(
    optimizers: Sequence[str],
    schedules: Sequence[str],
    search: str,
    command: str | None = None,
    variants: Mapping[str, str] | None = None,
) -> tuple[Arm, ...]:
    """Return the arms of a study of the user's own training loop.

    Args:
        optimizers: names of optimizers; names that Fallline does not know are passed to the command.
        schedules: names of schedules.
        search: ranges, as for `parse_search`.
        command: the command; None for a function.
        variants: further arms by name, each with its own command, or with arguments that are added to the command.

    Raises:
        ArgumentError: a range is missing or belongs to nothing, or two arms have the same name.
    """
    dimensions = parse_search(search)
    arms: list[Arm] = []
    named = list(variants or {}) or [""]
    for optimizer in optimizers:
        for schedule in schedules:
            for variant in named:
                own = _command_of(command, (variants or {}).get(variant, ""))
                arm = _arm(optimizer, schedule, len(schedules) > 1, own, dimensions, variant != "")
                spelling = optimizer.partition("@")[0]
                if command and spelling != arm.optimizer:
                    arm = replace(arm, settings={"spelling": spelling})
                if variant:
                    several = len(optimizers) > 1 or len(schedules) > 1
                    name = f"{arm.name}, {variant}" if several else variant
                    arm = replace(arm, name=name, settings={**arm.settings, "command": own})
                arms.append(arm)
    used = {d.name for arm in arms for d in arm.space.dimensions}
    for name in dimensions:
        if name not in used:
            raise ArgumentError(
                f"search: {name} must have a placeholder in the command, got none; write {{{name}}} where its value "
                "belongs"
            )
    return tuple(arms)


def _command_of(command: str | None, variant: str) -> str:
    """Return the command of a variant: its own, or the common one with further arguments."""
    if not command or (variant and not variant.startswith("-")):
        return variant
    return f"{command} {variant}".strip()


def _arm(
    optimizer: str, schedule: str, several: bool, command: str, dimensions: Mapping[str, Dimension], is_variant: bool
) -> Arm:
    """Return one arm; a variant of a command without placeholders for hyperparameters searches only `dimensions`."""
    schedule = find_schedule(schedule)
    placeholders = Command(command).placeholders if command else None
    text = optimizer.partition("@")[0]
    name = split_wrapper(find_optimizer(text))[1]
    if placeholders is None or is_path(name) or name in SPACES:
        arm = make_arms([optimizer], [schedule])[0]
        if several:
            arm = replace(arm, name=f"{optimizer} + {schedule}")
        space = arm.space
    else:
        arm = Arm(f"{optimizer} + {schedule}" if several else optimizer, optimizer, schedule)
        space = Space(optimizer, (), {"warmup": WARMUP})
    reached = None if placeholders is None else {*placeholders} - {*GIVEN}
    if not reached:
        reached = {*dimensions} if is_variant else None
    return replace(arm, known_space=_narrowed(space, reached, dimensions, arm.fixed))


def _narrowed(
    space: Space, reached: Collection[str] | None, searched: Mapping[str, Dimension], fixed: Mapping[str, Any]
) -> Space:
    """Return a space with the dimensions that reach the user's code, and with the ranges of the user.

    Args:
        space: the space of the optimizer.
        reached: the hyperparameters that reach the code; None if it asks `fallline.trial()` for all values.
        searched: the ranges of the user.
        fixed: hyperparameters that the arm fixes.

    Raises:
        ArgumentError: a placeholder has neither a range nor a value.
    """
    known = [d for d in space.dimensions if reached is None or d.name in reached or _is_beta(d.name, reached)]
    own = {name: d for name, d in searched.items() if reached is None or name in reached}
    known = [_with_range(d, own.pop(d.name, None)) for d in known if d.name != "warmup" or reached is None]
    defaults = {
        name: value
        for name, value in space.defaults.items()
        if reached is None or name in reached or name == "warmup" or _is_beta(name, reached)
    }
    defaults |= {name: d.value(0.5) for name, d in own.items()}
    for name in sorted({*(reached or ())} - {*defaults, *fixed}):
        if name == "betas" and "beta1" in defaults:
            continue
        raise ArgumentError(
            f"search: {{{name}}} in the command must have a range, got none for the arm {space.optimizer}; pass "
            f"--search {name}=LOW..HIGH or {name}=A|B"
        )
    return replace(space, dimensions=(*known, *own.values()), defaults=defaults)


def _is_beta(name: str, reached: Collection[str]) -> bool:
    return name in BETAS and bool({*BETAS, "betas"} & {*reached})


def _with_range(dimension: Dimension, own: Dimension | None) -> Dimension:
    """Return a dimension of an optimizer with the range of the user, if there is one."""
    if own is None:
        return dimension
    if own.choices or own.linear:
        return replace(own, axis=dimension.axis)
    return dimension.within(own.low, own.high)
