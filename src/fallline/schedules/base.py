"""The base class of schedules, which are pure functions of the step that can be composed and plotted."""

import inspect
import math
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch.optim import Optimizer

from fallline.arguments import KnownKeywords, check_integer, check_number
from fallline.errors import ArgumentError, ArgumentTypeError

T = TypeVar("T")
_BOTH, _REQUIRED = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
_NOTES = {
    "optimizer": "any `torch.optim.Optimizer`.",
    "cycle_momentum": "whether momentum (or β1) is cycled inversely to the learning rate.",
    "last_epoch": "-1 to start; `k - 1` to resume at step `k`.",
}
_RAISES = "Raises:\n    ArgumentTypeError, ArgumentError: an argument is invalid."


@dataclass(frozen=True, repr=False)
class Schedule(KnownKeywords, ABC):
    """A learning rate as a pure function of the step `k`; schedules are immutable and have no state.

    A subclass is a frozen dataclass that checks its fields in `__post_init__` and implements `value`.
    """

    second_from: ClassVar[int] = 0  # the step at which it starts as the second part: 1 if k = 0 would repeat the peak

    def __call__(self, k: int, base: float = 1.0) -> float:
        """Return the learning rate at step `k` (counted from 0) of a group whose base learning rate is `base`.

        Raises:
            ArgumentTypeError, ArgumentError: `k` is not an int, or is negative.
        """
        return self.value(check_integer(type(self).__name__, "k", k, 0), float(base))

    @abstractmethod
    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`; called by `__call__`, which checks `k`."""

    @property
    def length(self) -> int | None:
        """The number of steps after which the learning rate is constant; None if the schedule has no end."""
        return getattr(self, "total_steps", None)

    @property
    def corners(self) -> tuple[int, ...]:
        """The steps at which the formula changes, including the first step and the first step of the constant end."""
        return tuple(dict.fromkeys((0, *([max(self.length - 1, 0), self.length] if self.length else []))))

    def then(self, second: "Schedule") -> "Then":
        """Return this schedule followed by another, whose steps are counted from its start.

        If the second part has its peak at k = 0, it starts at k = 1, so that the peak is not used twice:
        `warmup(3).then(cosine(7))` is `warmup_cosine(3, 10)`.

        Raises:
            ArgumentTypeError, ArgumentError: this schedule has no end, or `second` is not a schedule.

        Example:
            >>> from fallline.schedules import cosine, warmup
            >>> [round(warmup(2).then(cosine(2))(k), 3) for k in range(6)]
            [0.5, 1.0, 0.5, 0.0, 0.0, 0.0]
        """
        return Then(self, second)

    def plot(self, steps: int | None = None, base: float = 1.0) -> Any:
        """Return an altair chart of the learning rate, which notebooks display. Requires the extra `lab`.

        Args:
            steps: number of steps; by default `horizon`, which is the length of a schedule that has an end.
            base: the base learning rate.
        """
        from fallline.plotting import plot_schedules  # imported here, because altair is an optional dependency

        return plot_schedules({repr(self): self}, steps, base)

    @property
    def horizon(self) -> int:
        """The number of steps in a plot: the length of the schedule, or enough steps to show a shape without an end."""
        return self.length or 6 * max(self.corners) or 120

    def __repr__(self) -> str:
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given if value is not None)})"

    def _integer(self, name: str, minimum: int) -> None:
        self._set(name, check_integer(type(self).__name__, name, getattr(self, name), minimum))

    def _number(self, name: str, maximum: float = math.inf, above_zero: bool = False) -> None:
        self._set(name, check_number(type(self).__name__, name, getattr(self, name), maximum, above_zero))

    def _floor(self) -> None:
        """Check `min_lr` and `min_lr_ratio`."""
        self._number("min_lr")
        if (ratio := getattr(self, "min_lr_ratio", None)) is None:
            return
        self._number("min_lr_ratio")
        if getattr(self, "min_lr", 0.0) != 0:
            raise ArgumentError(
                f"{type(self).__name__}: only one of min_lr and min_lr_ratio may be given, got "
                f"min_lr={getattr(self, 'min_lr', None)!r}, min_lr_ratio={ratio!r}; leave one out"
            )

    def _lowest(self, base: float) -> float:
        """Return the final learning rate of a group."""
        ratio: float | None = getattr(self, "min_lr_ratio", None)
        lowest: float = getattr(self, "min_lr", 0.0)
        return lowest if ratio is None else base * ratio

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen; only `__post_init__` may do this


@dataclass(frozen=True, repr=False)
class Then(Schedule):
    """Two schedules, one after the other; created by `first.then(second)`.

    Example:
        >>> from fallline.schedules import constant, linear, warmup
        >>> stable = warmup(10).then(constant(steps=80)).then(linear(10))
        >>> stable
        warmup(warmup_steps=10).then(constant(steps=80)).then(linear(total_steps=10, min_lr=0.0, warmup_steps=0))
        >>> stable.length, stable(89), stable(94), stable(99)
        (100, 1.0, 0.5, 0.0)
    """

    first: Schedule
    second: Schedule

    def __post_init__(self) -> None:
        for name, part in (("first", self.first), ("second", self.second)):
            if not isinstance(part, Schedule):
                raise ArgumentTypeError(
                    f"then: {name} must be a Schedule, got {name}={part!r}; pass one of fallline.schedules"
                )
        if self.first.length is None:
            raise ArgumentError(
                f"then: first must have an end, got {self.first!r}; give it a length, as in constant(steps=100)"
            )

    def value(self, k: int, base: float) -> float:
        """Return the learning rate at step `k`, from the part that is active then."""
        end = self.first.length or 0
        return self.first.value(k, base) if k < end else self.second.value(k - end + self.second.second_from, base)

    @property
    def length(self) -> int | None:
        """The total length of both parts; None if the second has no end."""
        end, more = self.first.length or 0, self.second.length
        return None if more is None else end + more - self.second.second_from

    @property
    def corners(self) -> tuple[int, ...]:
        """The corners of both parts."""
        end, start = self.first.length or 0, self.second.second_from
        shifted = [end + max(k - start, 0) for k in self.second.corners]
        return tuple(sorted({k for k in self.first.corners if k < end} | set(shifted)))

    def __repr__(self) -> str:
        return f"{self.first!r}.then({self.second!r})"


def derive_constructor(
    schedule: type[Schedule], per_group: str = "", momentum: type[Schedule] | None = None
) -> Callable[[type[T]], type[T]]:
    """Return a class decorator that derives the constructor of a scheduler from a pure schedule.

    The constructor takes an optimizer, the fields of the schedule, and `last_epoch`. Its signature and the sections
    `Args` and `Raises` of the docstring are derived from the schedule, except entries that the class documents itself.
    Type checkers read the same signatures in `__init__.pyi`, which `make names` generates.

    Args:
        schedule: the schedule of the learning rate.
        per_group: the field that can also be a list with one value per group of the optimizer.
        momentum: the schedule of the momentum unless `cycle_momentum` is False; its other fields become arguments too.
    """

    def decorate(cls: type[T]) -> type[T]:
        parameters = _parameters(schedule, per_group, momentum)
        signature = inspect.Signature([inspect.Parameter("self", _BOTH), *parameters])

        def __init__(self: T, *args: Any, **keywords: Any) -> None:
            try:
                bound = signature.bind(self, *args, **keywords)
            except TypeError as error:
                raise ArgumentTypeError(
                    f"{type(self).__name__}: arguments must be {', '.join(p.name for p in parameters)}, "
                    f"got others ({error}); pass them by name"
                ) from None
            bound.apply_defaults()
            values = bound.arguments
            several = values.get(per_group)
            columns = several if isinstance(several, (list, tuple)) else [several]
            built = [_build(schedule, {**values, per_group: value}) for value in columns]
            given: Any = built if columns is several else built[0]
            if momentum is not None and values["cycle_momentum"]:
                given = {"lr": given, "momentum": _build(momentum, values)}
            super(cls, self).__init__(values["optimizer"], given, values["last_epoch"])  # type: ignore[misc]

        __init__.__qualname__ = f"{cls.__qualname__}.__init__"
        vars(__init__)["__signature__"] = signature
        cls.__init__ = __init__  # type: ignore[assignment]
        if cls.__doc__:  # python -OO removes docstrings
            notes = {**_NOTES, **(_notes_of(momentum) if momentum else {}), **_notes_of(schedule)}
            if per_group:
                notes[per_group] = notes[per_group].removesuffix(".") + "; a list sets one value per group."
            _document(cls, {p.name: notes[p.name] for p in parameters})
        return cls

    return decorate


def _parameters(schedule: type[Schedule], per_group: str, momentum: type[Schedule] | None) -> list[inspect.Parameter]:
    """Return the parameters of a scheduler with these schedules: the optimizer, their fields and `last_epoch`."""
    found: dict[str, tuple[Any, Any]] = {"optimizer": (Optimizer, _REQUIRED)}
    for kind in (schedule, momentum):
        if kind is None:
            continue
        if kind is momentum:
            found["cycle_momentum"] = (bool, True)
        for field in fields(kind):
            default = _REQUIRED if field.default is MISSING else field.default
            hint: Any = field.type
            if field.name == per_group:
                hint = float | Sequence[float] | None if default is None else float | Sequence[float]
            found.setdefault(field.name, (hint, default))
    found["last_epoch"] = (int, -1)
    return [inspect.Parameter(name, _BOTH, default=default, annotation=hint) for name, (hint, default) in found.items()]


def _build(kind: type[Schedule], values: Mapping[str, Any]) -> Schedule:
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def _notes_of(cls: type) -> dict[str, str]:
    """Return the description of each argument in the section `Args` of a class docstring."""
    section = re.search(r"^Args:\n((?: .*\n?)*)", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE)
    entries = re.split(r"^    (\w+): ", section[1] if section else "", flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(entries[1::2], entries[2::2], strict=True)}


def _document(cls: type, notes: Mapping[str, str]) -> None:
    """Write the sections `Args` and `Raises` of a class; its own entries of `Args` replace those in `notes`."""
    notes = {**notes, **_notes_of(cls)}
    text = re.sub(r"^Args:\n(?: .*\n)*\n?", "", inspect.cleandoc(cls.__doc__ or ""), flags=re.MULTILINE)
    head, example, rest = text.partition("Example:\n")
    entries = (
        textwrap.fill(f"{name}: {note}", 112, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, note in notes.items()
    )
    cls.__doc__ = head + "Args:\n" + "\n".join(entries) + f"\n\n{_RAISES}\n\n" + example + rest


def check_warmup(where: str, value: Any, total_steps: int) -> int:
    """Return the length in steps of a warm-up given as steps or as a fraction; raise an error if it is too long."""
    if isinstance(value, float):
        if not 0 <= value < 1:
            raise ArgumentError(
                f"{where}: warmup_steps must be an int or a fraction in [0, 1), got "
                f"warmup_steps={value!r}; pass a whole number of steps, or 0.1 for a tenth of total_steps"
            )
        value = round(value * total_steps)
    steps = check_integer(where, "warmup_steps", value, 0)
    if steps > total_steps:
        raise ArgumentError(
            f"{where}: warmup_steps must be <= total_steps={total_steps}, "
            f"got warmup_steps={steps}; total_steps includes the warm-up"
        )
    return steps
