"""The update of an optimizer as a sequence of equations, written by running its rule on symbols."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

import torch

from fallline.core.optimizer import Optimizer
from fallline.errors import FalllineError
from fallline.rules.rule import EMA
from fallline.rules.update import Update, update_for
from typeset import Operand, Printer, Symbol, children, leaf, letter

Options = Mapping[str, Any]


def equations(cls: type[Optimizer], options: Options) -> list[str]:
    """Return the update of an optimizer, an equation a line, in the order in which it has to be computed.

    A hyperparameter that is 0 is left out; the others are letters. New states go by their names.

    Args:
        cls: the optimizer's class.
        options: constructor options that are not the defaults.
    """
    update, new, local = run(cls, options)
    return _written(_names(update, new, local), _order(update, new))


def run(cls: type[Optimizer], options: Options) -> tuple[Update, tuple[Operand, ...], dict[str, Any]]:
    """Return the update that the options ask for, its results on symbols, and what the rule called its values."""
    optimizer = cls([torch.nn.Parameter(torch.zeros(1, 1))], **options)
    group = optimizer.param_groups[0]
    update = update_for(optimizer.rule, group).of_states(optimizer.rule.state_shapes((1, 1), group))
    local: dict[str, Any] = {}
    with _LocalsOf(update.rule.function.__code__, local):
        new = update(  # of a matrix; without a state of its own shape, a vector has the same
            leaf(letter("param", "t-1")),
            leaf(letter("grad", "t")),
            [leaf(letter(key, "t-1")) for key in update.state],
            {name: 0 if group.get(name) == 0 else leaf(letter(name)) for name in update.scalars},
            lambda values, scope: Symbol("norm", (values, scope)),
        )
    return update, new, local


class _LocalsOf:
    """Finds out what a function called its values, by its locals when it returns."""

    def __init__(self, code: CodeType, found: dict[str, Any]) -> None:
        self.code, self.found = code, found

    def __enter__(self) -> None:
        self.before: Callable[..., Any] | None = sys.getprofile()
        sys.setprofile(self._watch)

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self.before)

    def _watch(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and frame.f_code is self.code:
            self.found.update(frame.f_locals)


def _order(update: Update, new: Sequence[Symbol]) -> list[Symbol]:
    """Return the results in the order of the page: states, the parameter, its average."""
    states = dict(zip(update.state, new[1:], strict=True))
    average = [states.pop(EMA)] if EMA in states else []
    return [*states.values(), new[0], *average]


def _names(update: Update, new: Sequence[Symbol], local: Mapping[str, Any]) -> dict[Symbol, str]:
    """Return what goes by a name: results, decayed or clipped inputs, and locals that are long or used repeatedly."""
    results = zip(("param", *update.state), new, strict=True)
    names = {value: letter(key, "t") for key, value in results if _is_made(value)}
    names |= {local[key]: rf"\tilde {letter(key, 't')}" for key in ("grad", "param") if _is_made(local[key])}
    for key, value in local.items():
        repeated = sum(value == part for part in _parts_of(new)) > 1
        if (
            _is_made(value)
            and value.operation not in ("norm", "power_iteration")
            and (repeated or _chooses(value, names))
        ):
            names.setdefault(value, letter(key, "t"))
    return names


def _is_made(value: Any) -> bool:
    return isinstance(value, Symbol) and value.operation != "leaf"


def _chooses(value: Operand, names: Mapping[Symbol, str]) -> bool:
    """Return whether an expression has cases; those of a value with a name do not count."""
    if not isinstance(value, Symbol) or value in names:
        return False
    return value.operation == "where" or any(_chooses(part, names) for part in children(value))


def _parts_of(values: Sequence[Operand]) -> Iterator[Operand]:
    """Yield every operand of every distinct expression."""
    seen: set[Operand] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value not in seen:
            seen.add(value)
            parts = list(children(value))
            yield from parts
            stack += parts


def _written(names: Mapping[Symbol, str], results: Sequence[Symbol]) -> list[str]:
    """Return the equations of the results, and before each of them those of the names it needs."""
    printer = Printer(names)
    lines: dict[Symbol, str] = {}

    def write(value: Operand) -> None:
        for part in children(value):
            write(part)
        if isinstance(value, Symbol) and value in names and value not in lines:
            lines[value] = f"{names[value]} &= {printer.right_side(value)}"

    for result in results:
        write(result)
    return list(lines.values())


def variants(cls: type[Optimizer]) -> dict[str, tuple[Options, Options]]:
    """Return the options of the rule itself: name to the options that show it, and to those without it.

    An option that another one needs (nesterov: momentum) is shown together with it.
    """
    rule, parameters = cls.rule, inspect.signature(cls).parameters
    names = [option for option in rule.state.values() if option]
    names += [flag for flag, kind in rule.flags.items() if kind is bool]
    declared = {name: allowed for name, allowed in rule.ranges.items() if name in parameters}
    names += [name for name, allowed in declared.items() if allowed.optional or parameters[name].default == 0]
    values = {n: 0.5 if n in rule.ranges else True for n in names}
    found: dict[str, tuple[Options, Options]] = {}
    for name, value in values.items():
        if parameters[name].default is True:  # shown by default: the variant is to go without
            found[name] = ({name: False}, {})
            continue
        for other in ({}, *({n: v} for n, v in values.items() if n != name)):
            on = {**other, name: value}
            if accepts(cls, on) and equations(cls, on) != equations(cls, other):
                found[name] = (on, other)
                break
    return found


def accepts(cls: type[Optimizer], options: Options) -> bool:
    """Return whether an optimizer can be made with these options."""
    try:
        cls([torch.nn.Parameter(torch.zeros(1))], **options)
    except FalllineError:
        return False
    return True


def symbols(cls: type[Optimizer]) -> dict[str, str]:
    """Return the letter of every hyperparameter that has one; `betas` has several."""
    found = {}
    for name in ("lr", "weight_decay", *(name for name in cls.rule.ranges if name not in cls.rule.group_state)):
        count = cls.rule.lengths.get(name, 0)
        letters = [f"{name.removesuffix('s')}{index}" for index in range(1, count + 1)] or [name]
        found[name] = ", ".join(letter(n) for n in letters)
    return found
