"""Run an update on symbols and write down what it does: numbers once a step, arithmetic once an element."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Union

from fallline.rule import Update

Operand = Union["Symbol", float, int]


@dataclass
class Graph:
    """The expressions met so far, each once, in the order in which they are needed.

    Attributes:
        scalars: Python expressions of hyperparameters only; evaluated in double precision once a step.
        elements: (name, expression) of every element; the body of the kernel's loop.
    """

    scalars: list[str] = field(default_factory=list)
    elements: list[tuple[str, str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def element(self, expression: str) -> "Symbol":
        """Return the symbol of an expression over elements, adding it when it is new."""
        if expression not in self.names:
            self.names[expression] = f"x{len(self.elements)}"
            self.elements.append((self.names[expression], expression))
        return Symbol(self, self.names[expression], scalar=False)

    def hoist(self, value: Operand) -> str:
        """Return the name under which the kernel finds a number that is the same for all elements."""
        code = value.code if isinstance(value, Symbol) else repr(float(value))
        if code not in self.scalars:
            self.scalars.append(code)
        return f"s{self.scalars.index(code)}"

    def operand(self, value: Operand) -> str:
        """Return the name of an operand as it stands in the kernel's loop."""
        return value.code if isinstance(value, Symbol) and not value.scalar else self.hoist(value)


@dataclass(frozen=True)
class Symbol:
    """A stand-in for a number that records the arithmetic done with it."""

    graph: Graph
    code: str
    scalar: bool

    def _combine(self, template: str, *operands: Operand) -> "Symbol":
        if all(not isinstance(o, Symbol) or o.scalar for o in operands):
            codes = [o.code if isinstance(o, Symbol) else repr(float(o)) for o in operands]
            return Symbol(self.graph, "(" + template.format(*codes) + ")", scalar=True)
        return self.graph.element(template.format(*(self.graph.operand(o) for o in operands)))

    def __add__(self, other: Operand) -> "Symbol":
        return self._combine("{} + {}", self, other)

    def __radd__(self, other: Operand) -> "Symbol":
        return self._combine("{} + {}", other, self)

    def __sub__(self, other: Operand) -> "Symbol":
        return self._combine("{} - {}", self, other)

    def __rsub__(self, other: Operand) -> "Symbol":
        return self._combine("{} - {}", other, self)

    def __mul__(self, other: Operand) -> "Symbol":
        return self._combine("{} * {}", self, other)

    def __rmul__(self, other: Operand) -> "Symbol":
        return self._combine("{} * {}", other, self)

    def __truediv__(self, other: Operand) -> "Symbol":
        if isinstance(other, Symbol) and not other.scalar:
            return self._combine("{} / {}", self, other)
        if self.scalar:
            return self._combine("divide({}, {})", self, other)
        # A vector division costs several multiplications; the reciprocal is taken in double, so it loses half an ulp.
        return self * Symbol(self.graph, "1.0", scalar=True)._combine("divide({}, {})", 1.0, other)

    def __rtruediv__(self, other: Operand) -> "Symbol":
        return self._combine("divide({}, {})" if self.scalar else "{} / {}", other, self)

    def __pow__(self, other: Operand) -> "Symbol":
        return self._combine("{} ** {}", self, other)

    def __neg__(self) -> "Symbol":
        return self._combine("-{}", self)

    def __bool__(self) -> bool:
        raise TypeError("a rule may branch on its options and on absent states, not on numbers; use ops.where")

    def sqrt(self) -> "Symbol":
        """Record a square root."""
        return self._combine("sqrt({})", self)

    def maximum(self, other: Operand) -> "Symbol":
        """Record the larger of two values, NaN if either is."""
        return self._combine("maximum({}, {})", self, other)

    def where(self, x: Operand, y: Operand) -> "Symbol":
        """Record a choice by this symbol."""
        return self._combine("({1} if {0} else {2})", self, x, y)


@dataclass(frozen=True)
class Trace:
    """What an update does, as code.

    Attributes:
        arguments: names of the numbers that the scalar expressions read.
        scalars: expressions whose values the kernel receives as s0, s1, …
        elements: assignments of the kernel's loop, in order.
        results: names holding the new parameter and the new states.
    """

    arguments: tuple[str, ...]
    scalars: tuple[str, ...]
    elements: tuple[tuple[str, str], ...]
    results: tuple[str, ...]


def trace(update: Update) -> Trace:
    """Return what `update` does to one element; inputs are named param, grad and by state key."""
    graph = Graph()
    element: Callable[[str], Any] = lambda name: Symbol(graph, name, scalar=False)  # noqa: E731
    scalars = {name: Symbol(graph, name, scalar=True) for name in update.scalars}
    new = update(element("param"), element("grad"), [element(key) for key in update.state], scalars)
    results = tuple(graph.operand(value) for value in new)
    return Trace(update.scalars, tuple(graph.scalars), tuple(graph.elements), results)
