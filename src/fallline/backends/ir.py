"""Run an update on symbols and write down what it does: numbers once a step, arithmetic once an element.

An update that takes norms becomes several passes over the tensors: one for every stage of norms, which sums squares,
and a last one that writes. Each pass computes anew what it needs, so nothing is stored between them; kernels may write
a state as soon as it is final (`writes`).
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from fallline.rules.rule import ALL, TENSOR
from fallline.rules.update import Update

Operand = Union["Symbol", float, int]


@dataclass(frozen=True)
class Pass:
    """One sweep over the tensors.

    Attributes:
        scope: ALL or TENSOR when the outputs are to be squared and summed, None when they are to be stored.
        scalars: expressions of hyperparameters and norms, in double precision; the loop finds them as s0, s1, …
        lines: assignments of the loop, in order.
        outputs: names of the elements that are summed, or of the new parameter and the new states.
        norms: under which names later passes know the roots of the sums.
    """

    scope: str | None
    scalars: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """What an update does, as code: `arguments` are the numbers that scalar expressions read besides norms."""

    arguments: tuple[str, ...]
    passes: tuple[Pass, ...]

    @property
    def norms(self) -> tuple[str, ...]:
        """The names of all norms, in the order in which they become known."""
        return tuple(name for sweep in self.passes for name in sweep.norms)

    @property
    def per_tensor(self) -> bool:
        """Whether the numbers of the update differ from tensor to tensor."""
        return any(sweep.scope == TENSOR for sweep in self.passes)


@dataclass
class _Graph:
    """Every expression over elements, once: name to template and operands; and the norms, by stage and scope."""

    elements: dict[str, tuple[str, tuple[Operand, ...]]] = field(default_factory=dict)
    names: dict[tuple[str, tuple[str, ...]], "Symbol"] = field(default_factory=dict)
    norms: dict[tuple[int, str], dict[str, "Symbol"]] = field(default_factory=dict)

    def norm(self, value: "Symbol", scope: str) -> "Symbol":
        """Return the symbol of a norm; it is known one stage after what it is taken of."""
        stage = self.norms.setdefault((value.stage, scope), {})
        if value.code not in stage:
            stage[value.code] = Symbol(self, f"r{sum(map(len, self.norms.values()))}", True, value.stage + 1)
        return stage[value.code]

    def sums(self, scope: str, norms: Mapping[str, "Symbol"]) -> Pass:
        """Return the pass that sums for these norms; the keys are what they are taken of."""
        return self.emit(scope, [Symbol(self, code, False) for code in norms], list(norms.values()))

    def emit(self, scope: str | None, outputs: Sequence[Operand], norms: Sequence["Symbol"] = ()) -> Pass:
        """Return the pass that computes these outputs, with nothing in it that they do not need."""
        needed: set[str] = set()
        stack = [o.code for o in outputs if isinstance(o, Symbol) and not o.scalar]
        while stack:
            name = stack.pop()
            if name in self.elements and name not in needed:
                needed.add(name)
                stack += [o.code for o in self.elements[name][1] if isinstance(o, Symbol) and not o.scalar]
        scalars: list[str] = []

        def operand(value: Operand) -> str:
            if isinstance(value, Symbol) and not value.scalar:
                return value.code
            code = _code(value)
            if code not in scalars:
                scalars.append(code)
            return f"s{scalars.index(code)}"

        lines = [
            (name, template.format(*map(operand, operands)))
            for name, (template, operands) in self.elements.items()
            if name in needed
        ]
        names = tuple(operand(value) for value in outputs)
        return Pass(scope, tuple(scalars), tuple(lines), names, tuple(norm.code for norm in norms))


def _code(value: Operand) -> str:
    return value.code if isinstance(value, Symbol) else repr(float(value))


@dataclass(frozen=True, eq=False)
class Symbol:
    """A stand-in for a number that records the arithmetic done with it.

    Attributes:
        code: an expression when scalar, else the name of an element.
        scalar: the same for all elements of a tensor.
        stage: how many stages of norms must be known before it is.
    """

    graph: _Graph
    code: str
    scalar: bool
    stage: int = 0

    def _combine(self, template: str, *operands: Operand) -> "Symbol":
        stage = max(o.stage if isinstance(o, Symbol) else 0 for o in operands)
        if all(not isinstance(o, Symbol) or o.scalar for o in operands):
            return Symbol(self.graph, "(" + template.format(*map(_code, operands)) + ")", True, stage)
        key = (template, tuple(map(_code, operands)))
        if key not in self.graph.names:
            name = f"x{len(self.graph.elements)}"
            self.graph.elements[name] = (template, operands)
            self.graph.names[key] = Symbol(self.graph, name, False, stage)
        return self.graph.names[key]

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
        return self * Symbol(self.graph, "1.0", True)._combine("divide({}, {})", 1.0, other)

    def __rtruediv__(self, other: Operand) -> "Symbol":
        return self._combine("divide({}, {})" if self.scalar else "{} / {}", other, self)

    def __pow__(self, other: Operand) -> "Symbol":
        return self._combine("{} ** {}", self, other)

    def __neg__(self) -> "Symbol":
        return self._combine("-{}", self)

    def __gt__(self, other: Operand) -> "Symbol":
        return self._combine("{} > {}", self, other)

    def __lt__(self, other: Operand) -> "Symbol":
        return self._combine("{} < {}", self, other)

    def __bool__(self) -> bool:
        raise TypeError("a rule may branch on its options and on absent states, not on numbers; use ops.where")

    def sqrt(self) -> "Symbol":
        """Record a square root."""
        return self._combine("sqrt({})", self)

    def sign(self) -> "Symbol":
        """Record a sign."""
        return self._combine("sign({})", self)

    def maximum(self, other: Operand) -> "Symbol":
        """Record the larger of two values, NaN if either is."""
        return self._combine("maximum({}, {})", self, other)

    def where(self, x: Operand, y: Operand) -> "Symbol":
        """Record a choice by this symbol."""
        return self._combine("where({}, {}, {})", self, x, y)


@functools.cache
def trace(update: Update) -> Trace:
    """Return what `update` does to one element; inputs are named param, grad and by state key."""
    graph = _Graph()
    element: Callable[[str], Any] = lambda name: Symbol(graph, name, scalar=False)  # noqa: E731
    scalars = {name: Symbol(graph, name, scalar=True) for name in update.scalars}
    new = update(element("param"), element("grad"), [element(key) for key in update.state], scalars, graph.norm)
    passes: list[Pass] = []
    taken: dict[str, Symbol] = {}  # of the last pass: what norms are taken of, and the norms
    for (_, scope), norms in sorted(graph.norms.items(), key=lambda item: item[0]):
        if scope == ALL and any(earlier.scope == TENSOR for earlier in passes):
            raise TypeError("a rule may take norms over all parameters only before norms of single tensors")
        if passes and passes[-1].scope == TENSOR and not _reads(graph.sums(scope, norms), passes[-1].norms):
            norms = {**taken, **norms}  # one pass can take both
            passes.pop()
        taken = norms
        passes.append(graph.sums(scope, norms))
    return Trace(update.scalars, (*passes, graph.emit(None, new)))


def _reads(sweep: Pass, norms: Sequence[str]) -> bool:
    """Return whether a pass needs one of these norms."""
    return any(re.search(rf"\b{norm}\b", scalar) for norm in norms for scalar in sweep.scalars)
