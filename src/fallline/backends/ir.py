"""Trace an update: run it on symbols, and record the arithmetic per step (scalars) and per element.

An update with norms becomes several passes over the tensors: one for each stage of norms, which sums squares, and a
last one that writes the results. Each pass recomputes the values that it needs, so nothing is stored between passes,
except that kernels may write a state as soon as it is final (see `fused/stores.py`).
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
        scope: ALL or TENSOR if the outputs are squared and summed, None if they are stored.
        scalars: expressions of hyperparameters and norms, in double precision; the loop reads them as s0, s1, …
        lines: assignments of the loop, in order.
        outputs: names of the elements to sum, or of the new parameter and the new states.
        norms: the names by which later passes refer to the square roots of the sums.
    """

    scope: str | None
    scalars: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """An update as code: its passes, and the names of the numbers (except norms) that the scalar expressions read."""

    arguments: tuple[str, ...]
    passes: tuple[Pass, ...]

    @property
    def norms(self) -> tuple[str, ...]:
        """The names of all norms, in the order in which they are computed."""
        return tuple(name for sweep in self.passes for name in sweep.norms)

    @property
    def per_tensor(self) -> bool:
        """Whether the scalars of the update differ between tensors."""
        return any(sweep.scope == TENSOR for sweep in self.passes)


@dataclass
class _Graph:
    """All elementwise expressions without duplicates (name to template and operands), and norms by stage and scope."""

    elements: dict[str, tuple[str, tuple[Operand, ...]]] = field(default_factory=dict)
    names: dict[tuple[str, tuple[str, ...]], "Symbol"] = field(default_factory=dict)
    norms: dict[tuple[int, str], dict[str, "Symbol"]] = field(default_factory=dict)

    def norm(self, value: "Symbol", scope: str) -> "Symbol":
        """Return the symbol of a norm; its stage is one after that of the values whose norm it is."""
        stage = self.norms.setdefault((value.stage, scope), {})
        if value.code not in stage:
            stage[value.code] = Symbol(self, f"r{sum(map(len, self.norms.values()))}", True, value.stage + 1)
        return stage[value.code]

    def sums(self, scope: str, norms: Mapping[str, "Symbol"]) -> Pass:
        """Return the pass that computes these norms; the keys name the values whose norms they are."""
        return self.emit(scope, [Symbol(self, code, False) for code in norms], list(norms.values()))

    def emit(self, scope: str | None, outputs: Sequence[Operand], norms: Sequence["Symbol"] = ()) -> Pass:
        """Return the pass that computes these outputs, without unused expressions."""
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
    """A placeholder for a number that records the arithmetic done with it.

    Attributes:
        code: an expression if scalar, else the name of an element.
        scalar: whether the value is the same for all elements of a tensor.
        stage: the number of stages of norms that must be computed before the value is available.
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
        # A vector division costs as much as several multiplications. The reciprocal is computed in double precision, so
        # it adds an error of half an ulp.
        return self * Symbol(self.graph, "1.0", True)._combine("divide({}, {})", 1.0, other)

    def __rtruediv__(self, other: Operand) -> "Symbol":
        return self._combine("divide({}, {})" if self.scalar else "{} / {}", other, self)

    def __pow__(self, other: Operand) -> "Symbol":
        return self._combine("{} ** {}", self, other)

    def __rpow__(self, other: Operand) -> "Symbol":
        return self._combine("{} ** {}", other, self)

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

    def exp(self) -> "Symbol":
        """Record an exponential of a number."""
        return self._of_number("exp")

    def log(self) -> "Symbol":
        """Record a natural logarithm of a number."""
        return self._of_number("log")

    def _of_number(self, function: str) -> "Symbol":
        """Record a function that exists for numbers only."""
        if not self.scalar:
            raise TypeError(f"a rule may take ops.{function} of numbers, such as hyperparameters, but not of tensors")
        return self._combine(f"{function}({{}})", self)

    def sign(self) -> "Symbol":
        """Record a sign."""
        return self._combine("sign({})", self)

    def maximum(self, other: Operand) -> "Symbol":
        """Record a maximum, which is NaN if either value is NaN."""
        return self._combine("maximum({}, {})", self, other)

    def where(self, x: Operand, y: Operand) -> "Symbol":
        """Record a selection with this symbol as the condition."""
        return self._combine("where({}, {}, {})", self, x, y)

    def machine_epsilon(self) -> "Symbol":
        """Record the machine epsilon of the arithmetic, a number for each tensor."""
        return self._combine("machine_epsilon({})", self)

    def mean_square(self, *options: Any) -> "Symbol":
        """Record a mean of the tensor of which this is an element, along one dimension or all."""
        return self._combine(f"mean_square({{}}, *{options})", self)

    def call(self, function: str, operands: Sequence[Operand], options: tuple[Any, ...]) -> "Symbol":
        """Record a call of a function of whole tensors; see `rules.eigenbases`."""
        places = ", ".join(["{}"] * (1 + len(operands)))
        return self._combine(f"{function}({places}, *{options})", self, *operands)

    def newton_schulz(self, eps: Operand, *options: Any) -> "Symbol":
        """Record an orthogonalization of the tensor of which this is an element; see `rules.matrices`."""
        return self._combine(f"newton_schulz({{}}, {{}}, *{options})", self, eps)

    def scale_by_shape(self, *options: Any) -> "Symbol":
        """Record a multiplication by a factor that depends on the shape of the tensor."""
        return self._combine(f"scale_by_shape({{}}, *{options})", self)


@functools.cache
def trace(update: Update) -> Trace:
    """Return the trace of `update` for one element; the inputs are named param, grad and by their state keys."""
    graph = _Graph()
    element: Callable[[str], Any] = lambda name: Symbol(graph, name, scalar=False)  # noqa: E731
    scalars = {name: Symbol(graph, name, scalar=True) for name in update.scalars}
    new = update(element("param"), element("grad"), [element(key) for key in update.state], scalars, graph.norm)
    passes: list[Pass] = []
    taken: dict[str, Symbol] = {}  # the norms of the last pass, by the names of the values whose norms they are
    for (_, scope), norms in sorted(graph.norms.items(), key=lambda item: item[0]):
        if scope == ALL and any(earlier.scope == TENSOR for earlier in passes):
            raise TypeError("a rule may take norms over all parameters only before norms of single tensors")
        if passes and passes[-1].scope == TENSOR and not _reads(graph.sums(scope, norms), passes[-1].norms):
            norms = {**taken, **norms}  # one pass can compute both
            passes.pop()
        taken = norms
        passes.append(graph.sums(scope, norms))
    return Trace(update.scalars, (*passes, graph.emit(None, new)))


def _reads(sweep: Pass, norms: Sequence[str]) -> bool:
    """Return whether a pass needs one of these norms."""
    return any(re.search(rf"\b{norm}\b", scalar) for norm in norms for scalar in sweep.scalars)
