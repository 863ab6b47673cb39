"""Arms, the configurations that a study compares, parsed from the user's arguments."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fallline.arguments import is_number
from fallline.errors import ArgumentError, ArgumentTypeError, FalllineError, suggest
from fallline.lab.design.optimizers import build_optimizer, find_optimizer, get_space, keywords, split_wrapper
from fallline.lab.design.schedules import find_schedule
from fallline.lab.design.spaces import SCHEDULE_FREE, Space
from fallline.lab.user_code.import_path import describe

_CHOICES = {"state_dtype": ("float32", "bfloat16", "int8")}  # options whose values are names


@dataclass(frozen=True)
class Arm:
    """One optimizer with one schedule and the hyperparameters and settings that the user fixed.

    Attributes:
        name: name of the arm in all tables and figures.
        optimizer: the optimizer as the user named it: "momentum", "sam(adamw)", "torch.optim:NAdam".
        schedule: "constant", "step", "cosine" …
        fixed: hyperparameters that are not searched, by name.
        ranges: lowest and highest value of hyperparameters whose search range differs from that of the space.
        settings: settings of the task that belong to the arm, for example when a study compares values of `batch_size`.
        steps: steps per run if arms differ in them; None for those of the study.
        twin: whether the arm has its own confirmation seeds, disjoint from those of the other arms (`--self-check`).
        known_space: the search space that was stored with a study, if the arm was read from disk.
    """

    name: str
    optimizer: str
    schedule: str = "cosine"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    twin: bool = False
    known_space: Space | None = field(default=None, compare=False, repr=False)

    @property
    def space(self) -> Space:
        """The arm's search space."""
        space = self.known_space or get_space(self.optimizer)
        dimensions = (d.within(*self.ranges[d.name]) if d.name in self.ranges else d for d in space.dimensions)
        return replace(space, dimensions=tuple(dimensions))


def make_arms(
    optimizers: Sequence[str],
    schedules: Sequence[str],
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[Arm, ...]:
    """Return an arm for every combination of an optimizer, a schedule and the varied values.

    Args:
        optimizers: names of optimizers; a schedule-free one gets a constant rate unless several schedules are compared.
            Each may be followed by fixed values or search ranges after an @:
            `adamw@lr=1e-4`, `adam@lr=1e-5..1e-2@weight_decay=0`.
        schedules: "constant", "step", "cosine" …
        vary: values by the name of a hyperparameter or a setting of the task; `warmup` is a fraction of the steps.
        settings: the task's settings with their defaults; other names in `vary` are hyperparameters.

    Raises:
        ArgumentError: a name or a value is invalid.

    Example:
        >>> [arm.name for arm in make_arms(["sgd", "adam@lr=1e-3"], ["cosine"])]
        ['sgd', 'adam@lr=1e-3']
        >>> [arm.name for arm in make_arms(["adam"], ["cosine"], {"warmup": [0, 0.1]})]
        ['adam, warmup=0', 'adam, warmup=0.1']
    """
    _check_names("optimizers", optimizers)
    _check_names("schedules", schedules)
    if not optimizers or not schedules:
        name, usual = ("schedules", "cosine") if optimizers else ("optimizers", "adamw")
        raise ArgumentError(f"{name}: must name at least one, got none; {usual} is a common choice")
    schedules = [find_schedule(schedule) for schedule in schedules]
    arms = []
    combinations = list(itertools.product(*([(k, v) for v in values] for k, values in (vary or {}).items())))
    for text, schedule, combination in itertools.product(optimizers, schedules, combinations):
        optimizer, *assignments = text.split("@")
        optimizer = find_optimizer(optimizer)
        text = "@".join([optimizer, *assignments])
        alone = len(schedules) == 1
        constant = alone and split_wrapper(optimizer)[1] in SCHEDULE_FREE
        arm = Arm(text if alone else f"{text} + {schedule}", optimizer, "constant" if constant else schedule)
        for assignment in assignments:
            arm = _assign(arm, text, assignment)
        for name, value in combination:
            changed = _vary(arm, name, value, settings or {})
            arm = replace(changed, name=f"{arm.name}, {name}={f'{value:g}' if is_number(value) else value}")
        _check_optimizer(arm)
        arms.append(arm)
    return tuple(arms)


def _check_names(argument: str, names: Any) -> None:
    if isinstance(names, str) or not isinstance(names, Iterable):
        example = names.split(",") if isinstance(names, str) else "a list, or leave it out"
        raise ArgumentTypeError(f"{argument}: must be a list of names, got {names!r}; pass {example}")
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"{argument}: must be names or locations, got {name!r}; write an object of yours as FILE.py:NAME and "
                "one of a package as package.module:NAME"
            )


def make_single(optimizers: Sequence[str]) -> tuple[Arm, ...]:
    """Return an arm with a constant learning rate for every optimizer; no hyperparameter may be searched.

    Raises:
        ArgumentError: a name is invalid, is given twice, or contains a range.
    """
    arms = make_arms(optimizers, ["constant"])
    for arm in arms:
        if arm.ranges:
            example = f"{arm.optimizer}@{next(iter(arm.ranges))}=0.001"
            raise ArgumentError(f"optimizers: ranges must not be given, got {arm.name!r}; give one value: {example}")
        if arms.count(arm) > 1:
            raise ArgumentError(f"optimizers: each must be named once, got {arm.name} twice; leave one of them out")
    return arms


def _assign(arm: Arm, text: str, assignment: str) -> Arm:
    """Return the arm with NAME=NUMBER fixed, or NAME=LOW..HIGH as a range."""
    name, _, value = assignment.partition("=")
    low, dots, high = value.partition("..")
    if name in {*arm.fixed, *arm.ranges}:
        raise ArgumentError(f"optimizers: {name} must be given once, got {text!r}; leave one of them out")
    searchable = {d.name for d in get_space(arm.optimizer).dimensions}
    if dots and name in searchable:
        bottom, top = _number(low), _number(high)
        if bottom is not None and top is not None and 0 < bottom < top:
            return replace(arm, ranges={**arm.ranges, name: (float(bottom), float(top))})
    number = value if name in _CHOICES else _number(value)
    known = _fixable_names(arm.optimizer)
    if name in known and not _fits(arm.optimizer, name, number):
        kind, example = ("a number, or LOW..HIGH with 0 < LOW < HIGH", "0.001")
        if name in _CHOICES or isinstance(_default(arm.optimizer, name), bool):
            kind, example = _choices(name)[0], _choices(name)[1][0]
        raise ArgumentError(f"optimizers: {name} must be {kind}, got {text!r}; try {arm.optimizer}@{name}={example}")
    if number is None or name not in known:
        raise ArgumentError(
            f"optimizers: the text after @ must be NAME=NUMBER or NAME=LOW..HIGH with NAME among {', '.join(known)}, "
            f"got {text!r}; " + suggest(name, known, f"try {arm.optimizer}@lr=0.001")
        )
    return replace(arm, fixed={**arm.fixed, name: number})


def _fixable_names(optimizer: str) -> list[str]:
    """Return the names that @ may fix: hyperparameters of the optimizer, then other numbers of its constructor."""
    space = get_space(optimizer)
    numbers = [k for k, v in keywords(space.optimizer).items() if v is None or isinstance(v, bool | int | float)]
    constant = {*space.constant, *space.defaults}
    return [name for name in space.defaults if name != "betas"] + [k for k in numbers if k not in constant]


def _default(optimizer: str, name: str) -> Any:
    """Return the default of a hyperparameter or of another constructor keyword of an optimizer."""
    space = get_space(optimizer)
    return {**keywords(space.optimizer), **space.defaults}.get(name)


def _choices(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the values that a switch or an option of `_CHOICES` can have, in words and as a list."""
    values = _CHOICES.get(name, ("True", "False"))
    return f"{', '.join(values[:-1])} or {values[-1]}", values


def _fits(optimizer: str, name: str, value: Any) -> bool:
    """Return whether a value is one of the choices, a number, or True or False where the default is not a number."""
    if name in _CHOICES:
        return value in _CHOICES[name]
    return is_number(value) or (isinstance(value, bool) and not is_number(_default(optimizer, name)))


def _number(text: str) -> float | bool | None:
    """Parse a finite number, True or False; return None for any other text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _vary(arm: Arm, name: str, value: Any, settings: Mapping[str, Any]) -> Arm:
    if name in settings:
        return replace(arm, settings={**arm.settings, name: value})
    if name == "steps":
        if not is_number(value) or not float(value).is_integer():
            raise ArgumentError(f"vary: steps must be whole numbers, got {value!r}; try --vary steps=200,400")
        return replace(arm, steps=int(value))
    known = _fixable_names(arm.optimizer)
    if name not in known:
        raise ArgumentError(
            f"vary: must name a setting of the task ({', '.join(settings) or 'it has none'}) or a hyperparameter of "
            f"{arm.optimizer} ({', '.join(known)}), got {name!r}; "
            + suggest(name, [*settings, *known], "try --vary lr=0.001,0.01")
        )
    if name in {*arm.fixed, *arm.ranges}:
        raise ArgumentError(f"vary: {name} must be given once, got it in {arm.name!r} too; leave one of them out")
    if not _fits(arm.optimizer, name, value):
        kind, example = "numbers", "0.1,0.2"
        if name in _CHOICES or isinstance(_default(arm.optimizer, name), bool):
            kind, example = _choices(name)[0], ",".join(_choices(name)[1])
        raise ArgumentError(f"vary: values of {name} must be {kind}, got {value!r}; try --vary {name}={example}")
    return replace(arm, fixed={**arm.fixed, name: value})


def _check_optimizer(arm: Arm) -> None:
    """Construct the arm's optimizer once, so that invalid options raise an error before anything runs."""
    space = arm.space
    if not 0 <= (warmup := arm.fixed.get("warmup", 0)) < 1:
        raise ArgumentError(
            f"vary: warmup must be in [0, 1), a fraction of the steps, got warmup={warmup:g}; 0.05 is the default"
        )
    options = space.options({**space.defaults, **arm.fixed})
    first: Exception | None = None
    for shapes in (((2, 2), (2,)), ((2, 2),)):  # some optimizers accept only matrices
        try:
            build_optimizer(space.optimizer, [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes], **options)
        except Exception as error:  # the constructor may be the user's
            first = first or error
        else:
            return
    assert first is not None  # the loop has not returned
    reason = str(first) if isinstance(first, FalllineError | TypeError | ValueError) else describe(first)
    raise ArgumentError(f"optimizers: {arm.name} cannot be built ({reason})") from first
