"""The foreach backend: PyTorch's operations on lists of tensors, which are fast on accelerators."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np
import torch

from fallline.backends.blocks import read
from fallline.backends.ir import Pass
from fallline.backends.ir_runner import Numbers, TracedBucket
from fallline.backends.layout import FLOATS, HALF, PLAIN
from fallline.backends.rounding import round_columns
from fallline.backends.split import join, split
from fallline.rules.eigenbases import FUNCTIONS
from fallline.rules.matrices import orthogonalize, reduce_mean, shape_factor
from fallline.rules.rule import MASTER
from fallline.rules.update import codes_key

Operand = Union["Tensors", list[float], float]
PART = 1 << 22  # elements that are updated together where not all are


class Tensors:
    """A list of tensors with elementwise arithmetic; the other operand may be one number, or one number per tensor."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.tensors = list(tensors)

    def _call(self, function: Callable[..., Any], other: Operand) -> "Tensors":
        return Tensors(function(self.tensors, other.tensors if isinstance(other, Tensors) else other))

    def _each(self, function: Callable[..., torch.Tensor], *others: Operand) -> "Tensors":
        """Apply a function to one tensor after the other, for functions without a foreach version."""
        count = len(self.tensors)
        columns = [o.tensors if isinstance(o, Tensors) else o if isinstance(o, list) else [o] * count for o in others]
        return Tensors(list(map(function, self.tensors, *columns)))

    def __add__(self, other: Operand) -> "Tensors":
        return self._call(torch._foreach_add, other)

    __radd__ = __add__

    def __sub__(self, other: Operand) -> "Tensors":
        return self._call(torch._foreach_sub, other)

    def __rsub__(self, other: Operand) -> "Tensors":
        return -self + other

    def __mul__(self, other: Operand) -> "Tensors":
        return self._call(torch._foreach_mul, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> "Tensors":
        return self._call(torch._foreach_div, other)

    def __rtruediv__(self, other: Operand) -> "Tensors":
        return self._each(lambda x, y: y / x, other)

    def __pow__(self, other: Operand) -> "Tensors":
        return self._call(torch._foreach_pow, other)

    def __neg__(self) -> "Tensors":
        return Tensors(torch._foreach_neg(self.tensors))

    def __gt__(self, other: Operand) -> "Tensors":
        return self._each(torch.gt, other)

    def __lt__(self, other: Operand) -> "Tensors":
        return self._each(torch.lt, other)

    def sqrt(self) -> "Tensors":
        """Return the square root of every element."""
        return Tensors(torch._foreach_sqrt(self.tensors))

    def sign(self) -> "Tensors":
        """Return the sign of every element."""
        return Tensors(torch._foreach_sign(self.tensors))

    def maximum(self, other: Operand) -> "Tensors":
        """Return the elementwise maximum; NaN if either value is NaN."""
        return self._call(torch._foreach_maximum, other)

    def where(self, x: Operand, y: Operand) -> "Tensors":
        """Return `x` where these conditions are true, and `y` elsewhere."""
        return self._each(torch.where, x, y)

    def machine_epsilon(self) -> list[float]:
        """Return the machine epsilon of every tensor."""
        return [torch.finfo(x.dtype).eps for x in self.tensors]

    def mean_square(self, *options: Any) -> "Tensors":
        """Return the means of each tensor along one dimension or all."""
        return Tensors([reduce_mean(x, *options) for x in self.tensors])

    def newton_schulz(self, eps: list[float], *options: Any) -> "Tensors":
        """Return the orthogonalized matrices; those of one shape are multiplied as a batch."""
        return Tensors(orthogonalize(self.tensors, eps, *options))

    def scale_by_shape(self, *options: Any) -> "Tensors":
        """Return each matrix times a factor that depends on its shape."""
        return self * [shape_factor(x.shape, *options) for x in self.tensors]


def can_serve(param: torch.Tensor) -> bool:
    """Return whether the foreach backend supports this parameter: plain and real, with any layout and device."""
    return type(param) in PLAIN and param.dtype in FLOATS and not param.is_neg()


class ForeachBucket(TracedBucket):
    """Runs each operation of the update over all tensors at once."""

    _addresses: list[int] | None = None

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether the tensors have the same dtypes and parameters that had memories of their own have not moved.

        Results are written at the end, so two parameters on one memory must not be in the same bucket.
        """
        addresses = list(map(torch.Tensor.data_ptr, self.params))
        if self._addresses is None:
            self._addresses = addresses
        return addresses == self._addresses and super().fits(grads)

    def sums(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray) -> np.ndarray:
        """Run a pass that sums squares; synchronizes with the device once for each part."""
        squares = np.empty((len(grads), len(sweep.outputs)))
        for part in self._parts:
            outputs = self._run(sweep, grads, scalars, part)
            columns = [torch.stack([x.double().square().sum() for x in output.tensors]) for output in outputs]
            squares[part] = torch.stack(columns, dim=1).cpu().numpy()
        return squares

    def write(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray, numbers: Numbers) -> None:
        """Run the pass that writes the results."""
        keys, rounded, blocks = self.rounding_keys(numbers).tolist(), self.rounded(), self.update.in_blocks
        for part in self._parts:
            results = dict(zip(("param", *self.update.state), self._run(sweep, grads, scalars, part), strict=True))
            columns = {name: results[name].tensors for name in results if name not in blocks}
            columns |= {name: [] for name in self.update.tensors if name not in columns}
            for place, index in enumerate(part if rounded else ()):
                values = {name: results[name].tensors[place] for name in rounded}
                codes = {key: self.states[index][codes_key(key)] for key in blocks}
                for name, value in round_columns(rounded, values, keys[index], self.origins[index], codes).items():
                    columns[name][place : place + 1] = [value]
            if bits := self.update.remainder_bits:
                halves = [split(weights, bits) for weights in columns[MASTER]]
                columns |= zip(("param", MASTER), map(list, zip(*halves, strict=True)), strict=True)
            for name, tensors in columns.items():
                torch._foreach_copy_(self._column(name, part), tensors)

    @functools.cached_property
    def _parts(self) -> list[Sequence[int]]:
        """The indices of the tensors that are updated together: all, or some at a time.

        States in blocks are decoded some at a time, because all of them together would take the memory that they save.
        On a CPU, matrices of one shape are updated some at a time: new memory costs more than the arithmetic, and the
        intermediate results of a part reuse that of the last.
        """
        shaped = self.update.rule.whole and self.params[0].device.type == "cpu"
        if not shaped and not self.update.in_blocks:
            return [range(len(self.params))]
        parts: dict[tuple[Any, int], list[int]] = {}
        begun: dict[Any, int] = {}
        for index, param in enumerate(self.params):
            kind = param.shape if shaped else None
            begun[kind] = begun.get(kind, 0) + param.numel()
            parts.setdefault((kind, (begun[kind] - 1) // PART), []).append(index)
        return list(parts.values())

    def _columns(self, part: Sequence[int]) -> list[list[torch.Tensor]]:
        return [self._column(name, part) for name in ("param", *self.update.stored)]

    def _column(self, name: str, part: Sequence[int]) -> list[torch.Tensor]:
        return [self.params[i] if name == "param" else self.states[i][name] for i in part]

    def _run(
        self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray, part: Sequence[int]
    ) -> tuple[Tensors, ...]:
        dtype = torch.float32 if self.params[0].dtype in HALF else self.params[0].dtype
        params, *states = self._columns(part)
        for key in self.update.in_blocks:
            states[self.update.state.index(key)] = [read(self.states[i], key) for i in part]
        if self.update.remainder_bits:
            states[-1] = list(map(join, params, states[-1]))
        own = [grads[i] for i in part]
        tensors = [Tensors([t.to(dtype) for t in column]) for column in (params, own, *states)]
        rows = [self.scalar_rows[i] for i in part]
        results = _function(sweep, self.update.state)(*tensors, *scalars[rows].T.tolist())
        inputs = {id(x) for column in tensors for x in column.tensors}
        # Copy outputs that are inputs or numbers to new tensors before anything is written.
        return tuple(
            tensors[0]._each(torch.full_like, result)
            if isinstance(result, list)
            else Tensors([x.clone() if id(x) in inputs else x for x in result.tensors])
            for result in results
        )


@functools.cache
def _function(sweep: Pass, states: tuple[str, ...]) -> Callable[..., tuple[Tensors | list[float], ...]]:
    """Return a pass as a function of the lists of tensors and the scalars."""
    names = ["param", "grad", *states, *(f"s{k}" for k in range(len(sweep.scalars)))]
    last = {name: place for place, (_, code) in enumerate(sweep.lines) for name in re.findall(r"\bx\d+\b", code)}
    lines = []
    for place, (name, expression) in enumerate(sweep.lines):
        lines.append(f"{name} = {expression}")
        # New memory costs more than the arithmetic, so the next results use that of values that are not needed anymore.
        lines += [f"del {gone}" for gone, end in last.items() if end == place and gone not in sweep.outputs]
    lines.append(f"return {', '.join(sweep.outputs)},")
    source = f"def run({', '.join(names)}):\n" + "".join(f"    {line}\n" for line in lines)
    namespace: dict[str, Any] = {"maximum": _maximum, "where": _where}
    methods = ("sqrt", "sign", "machine_epsilon", "mean_square", "newton_schulz", "scale_by_shape")
    namespace |= {name: getattr(Tensors, name) for name in methods}
    namespace |= {name: functools.partial(_each_of, each) for name, each in FUNCTIONS.items()}
    exec(source, namespace)
    function: Callable[..., tuple[Tensors | list[float], ...]] = namespace["run"]
    return function


def _each_of(function: Callable[..., Any], x: Tensors, *arguments: Any) -> Tensors:
    """Apply a function to each tensor; operands that are no lists are options, the same for all."""
    return x._each(function, *arguments)


def _maximum(x: Any, y: Any) -> Tensors:
    return x.maximum(y) if isinstance(x, Tensors) else y.maximum(x)


def _where(condition: Tensors | list[float], x: Any, y: Any) -> Tensors:
    if isinstance(condition, Tensors):
        return condition.where(x, y)
    like = x if isinstance(x, Tensors) else y  # a condition of one number per tensor selects whole tensors
    return like._each(_select, condition, x, y)


def _select(like: torch.Tensor, condition: float, x: Any, y: Any) -> torch.Tensor:
    chosen = x if condition else y
    return chosen if isinstance(chosen, torch.Tensor) else torch.full_like(like, chosen)
