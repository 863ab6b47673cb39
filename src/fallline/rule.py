"""What an update rule declares, and the complete update that a backend runs for it."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fallline.errors import ArgumentError, ArgumentTypeError

WEIGHT_DECAY_MODES = ("l2", "decoupled", "independent")


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may take: finite, from `low` up to (but not including) `below`."""

    low: float = 0.0
    below: float = math.inf

    def __str__(self) -> str:
        if self.below == math.inf:
            return "a finite number" + ("" if self.low == -math.inf else f" >= {self.low:g}")
        return f"in [{self.low:g}, {self.below:g})"

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raise ArgumentError unless `value` (a number or a one-element tensor) lies in the range."""
        try:
            number = _float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentTypeError(f"{owner}: {name} must be {self}, got {value!r}; pass a number") from None
        if not (math.isfinite(number) and self.low <= number < self.below):
            raise ArgumentError(f"{owner}: {name} must be {self}, got {number:g}; choose a value in that range")


def _float(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError("float() would read it, but no update can")
    return float(value.item() if hasattr(value, "item") else value)  # float() of a tensor with a gradient warns


NON_NEGATIVE = Range()
FRACTION = Range(0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule: one pure function of numbers, with its state and hyperparameters declared.

    Attributes:
        name: lower-case name, as `fallline.create_optimizer` takes it.
        function: `(param, grad, *state, **hyperparameters) -> (param, *state)`.
        state: state key to the option that must be truthy for the state to exist (None: it always exists).
        ranges: hyperparameter (as in a parameter group) to the numbers it may take.
        formula: the update in one line, for people.
        source: where the rule comes from.
        weight_decay_mode: how decay enters when the user does not say.
        counts_steps: whether the state has a `step`, the age of the parameter; true if the function asks for `step`.
        arguments: the numbers that the function takes by keyword.
        flags: the options that the function takes by keyword.
    """

    name: str
    function: Callable[..., tuple[Any, ...]]
    state: Mapping[str, str | None]
    ranges: Mapping[str, Range]
    formula: str
    source: str
    weight_decay_mode: str
    counts_steps: bool = False
    arguments: tuple[str, ...] = field(init=False)
    flags: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.function).parameters.values()
        named = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        object.__setattr__(self, "arguments", tuple(p.name for p in named if p.annotation is not bool))
        object.__setattr__(self, "flags", tuple(p.name for p in named if p.annotation is bool))
        object.__setattr__(self, "counts_steps", self.counts_steps or "step" in self.arguments)

    def check(self, owner: str, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError for the first hyperparameter of `group` outside its range."""
        for name, allowed in {"lr": NON_NEGATIVE, "weight_decay": NON_NEGATIVE, **self.ranges}.items():
            if f"{name.removesuffix('s')}1" in self.arguments:  # betas are beta1 and beta2 in a rule
                _check_pair(owner, name, group[name], allowed)
            else:
                allowed.check(owner, name, group[name])
        mode = group["weight_decay_mode"]
        if mode not in WEIGHT_DECAY_MODES:
            raise ArgumentError(
                f"{owner}: weight_decay_mode must be one of {', '.join(WEIGHT_DECAY_MODES)}, got {mode!r}; "
                f"leave it out for {self.weight_decay_mode!r}"
            )

    def update_for(self, group: Mapping[str, Any]) -> "Update":
        """Return the update that the options of one parameter group ask for."""
        return Update(
            rule=self,
            state=tuple(key for key, option in self.state.items() if option is None or group[option]),
            flags=tuple((name, bool(group[name])) for name in self.flags),
            weight_decay_mode=group["weight_decay_mode"] if group["weight_decay"] else None,
            maximize=bool(group["maximize"]),
        )


def _check_pair(owner: str, name: str, values: Any, allowed: Range) -> None:
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise ArgumentError(f"{owner}: {name} must be two numbers, got {name}={values!r}; pass (0.9, 0.999)")
    for index, value in enumerate(values):
        allowed.check(owner, f"{name}[{index}]", value)


@dataclass(frozen=True)
class Update:
    """One rule with its options settled: everything that happens to an element in a step.

    Called on numbers of any kind that `ops` knows, it is the only place where decay and `maximize` are applied,
    so that every backend runs the same lines.
    """

    rule: Rule
    state: tuple[str, ...]
    flags: tuple[tuple[str, bool], ...]
    weight_decay_mode: str | None
    maximize: bool

    @property
    def scalars(self) -> tuple[str, ...]:
        """The names of the numbers that the update reads, in the order of a kernel's arguments."""
        decay = {None: (), "l2": ("weight_decay",), "independent": ("weight_decay", "relative_lr")}
        extra = decay.get(self.weight_decay_mode, ("weight_decay", "lr"))
        return tuple(dict.fromkeys((*self.rule.arguments, *extra)))

    def __call__(self, param: Any, grad: Any, state: Sequence[Any], scalars: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the new parameter and the new states, in the order of `self.state`."""
        if self.maximize:
            grad = -grad
        if self.weight_decay_mode == "l2":
            grad = grad + scalars["weight_decay"] * param
        elif self.weight_decay_mode == "decoupled":
            param = param * (1 - scalars["lr"] * scalars["weight_decay"])
        elif self.weight_decay_mode == "independent":
            param = param * (1 - scalars["relative_lr"] * scalars["weight_decay"])
        given = dict(zip(self.state, state, strict=True))
        keywords = {name: scalars[name] for name in self.rule.arguments}
        new_param, *new = self.rule.function(
            param, grad, *(given.get(key) for key in self.rule.state), **keywords, **dict(self.flags)
        )
        return new_param, *(value for key, value in zip(self.rule.state, new, strict=True) if key in given)


def rule(
    *,
    state: Mapping[str, str | None],
    ranges: Mapping[str, Range],
    formula: str,
    source: str,
    weight_decay_mode: str = "l2",
    counts_steps: bool = False,
) -> Callable[[Callable[..., tuple[Any, ...]]], Rule]:
    """Declare the decorated function as an update rule; see `Rule` for the arguments.

    The function takes the parameter, the gradient and its states by position, and by keyword the numbers it needs:
    hyperparameters by their group name (`betas` arrives as `beta1` and `beta2`), `step` (1 at a parameter's first
    update) and `first` (true when the state was created in this step). A keyword annotated `bool` is an option,
    settled before the update runs, so that the function may branch on it; it may branch on a state being None too.
    """

    def declare(function: Callable[..., tuple[Any, ...]]) -> Rule:
        return Rule(
            function.__name__, function, dict(state), dict(ranges), formula, source, weight_decay_mode, counts_steps
        )

    return declare
