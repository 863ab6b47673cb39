"""Run updates of whole tensors on a CPU: elementwise arithmetic in compiled loops, products of matrices in PyTorch."""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fallline.backends.foreach import ForeachBucket
from fallline.backends.foreach import can_serve as foreach_can_serve
from fallline.backends.fused.loops import Loop, run_loop
from fallline.backends.ir import Pass
from fallline.backends.ir_runner import Numbers
from fallline.backends.rounding import round_columns
from fallline.rules.eigenbases import FUNCTIONS
from fallline.rules.matrices import orthogonalize, reduce_mean, shape_factor

_CALL = re.compile(rf"({'|'.join(('mean_square', 'newton_schulz', *FUNCTIONS))})\((.*)\)")
_NUMBER = re.compile(r"machine_epsilon\(\w+\)|scale_by_shape\((\w+), \*(\(.*\))\)")


@dataclass(frozen=True)
class Stage:
    """Calls of functions of whole tensors, then the loops that compute what later calls and the results need.

    Attributes:
        calls: the value, the function, the operands and the options of each call.
        values: the values that the loops store.
        stored: the values that are in memory when the loops run.
        needed: the values that later stages read, or inputs that are results.
    """

    calls: tuple[tuple[str, str, tuple[str, ...], tuple[Any, ...]], ...]
    values: tuple[str, ...]
    stored: frozenset[str]
    needed: frozenset[str]


@functools.cache
def stages(sweep: Pass, inputs: tuple[str, ...]) -> tuple[Stage, ...]:
    """Return a pass as stages; each reads only the inputs and what the stages before have stored."""
    calls = {name: _parts(code) for name, code in sweep.lines if _CALL.match(code)}
    depth = dict.fromkeys(inputs, 0)
    for name, code in sweep.lines:
        depth[name] = max((depth[word] for word in _words(code) if word in depth), default=0) + (name in calls)
    wanted = {*sweep.outputs, *(operand for _, operands, _ in calls.values() for operand in operands)} - set(calls)
    levels = [
        [name for name in depth if name not in inputs and depth[name] == k] for k in range(1 + max(depth.values()))
    ]
    found: list[Stage] = []
    needed = frozenset(inputs) & set(sweep.outputs)
    for level in range(len(levels) - 1, -1, -1):
        values = tuple(name for name in levels[level] if name in wanted)
        below = {name for names in levels[:level] for name in names if name in wanted or name in calls}
        now = tuple((name, *calls[name]) for name in levels[level] if name in calls)
        stored = frozenset({*inputs, *below, *(name for name, *_ in now)})
        found.append(Stage(now, values, stored, needed))
        needed |= {*loop_of(sweep, values, stored).operands, *(x for _, _, operands, _ in now for x in operands)}
    return tuple(reversed(found))


@functools.cache
def loop_of(sweep: Pass, values: tuple[str, ...], stored: frozenset[str]) -> Loop:
    """Return the loop that computes `values` from values that are in memory."""
    wanted, lines = set(values), []
    for name, code in reversed(sweep.lines):
        if name in wanted and name not in stored:
            lines.append((name, code))
            wanted |= set(_words(code))
    read = dict.fromkeys(word for _, code in reversed(lines) for word in _words(code) if word in stored)
    return Loop(tuple(reversed(lines)), tuple(read), values)


def _parts(code: str) -> tuple[str, tuple[str, ...], tuple[Any, ...]]:
    """Return the name, the operands and the options of a recorded call."""
    name, inside = _CALL.fullmatch(code).groups()  # type: ignore[union-attr]  # the caller has matched it
    operands, _, options = inside.partition(", *")
    return name, tuple(operands.split(", ")), eval(options)


def _words(code: str) -> list[str]:
    return re.findall(r"[a-zA-Z_]\w*", code)


def can_serve(param: torch.Tensor, grad: torch.Tensor, state: Sequence[torch.Tensor]) -> bool:
    """Return whether parameter, gradient and states are contiguous tensors on a CPU."""
    tensors = [param, grad, *state]
    return param.numel() > 0 and all(
        foreach_can_serve(t) and t.device.type == "cpu" and t.is_contiguous() and not t._is_zerotensor()
        for t in tensors
    )


class WholeBucket(ForeachBucket):
    """Runs the calls of functions of whole tensors in PyTorch, and all other operations in compiled loops."""

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether the base class can use the bucket, and all tensors still are as `can_serve` wants them."""
        return super().fits(grads) and all(
            can_serve(param, grad, [state[key] for key in self.update.state])
            for param, grad, state in zip(self.params, grads, self.states, strict=True)
        )

    def write(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray, numbers: Numbers) -> None:
        """Run the pass that writes the results; see `Bucket.step` for the arguments."""
        keys, rounded = self.rounding_keys(numbers).tolist(), self.rounded()
        names = ("param", *self.update.state)
        for part in self._parts:
            columns = dict(zip(names, self._columns(part), strict=True))
            exact = {name: column for name, column in columns.items() if name not in rounded}
            ready = {
                output: (name, exact[name]) for name, output in zip(names, sweep.outputs, strict=True) if name in exact
            }
            results = dict(zip(names, self._compute(sweep, grads, scalars, part, ready), strict=True))
            for place, index in enumerate(part if rounded else ()):
                values = {name: results[name][place] for name in rounded}
                for name, value in round_columns(rounded, values, keys[index], self.origins[index]).items():
                    columns[name][place].copy_(value)
            for name, column in exact.items():
                for target, result in zip(column, results[name], strict=True):
                    if result is not target:
                        target.copy_(result)
        torch.autograd.graph.increment_version(self.params)

    def sums(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray) -> np.ndarray:
        """Run a pass that sums squares; see `TracedBucket.sums`."""
        squares = np.empty((len(grads), len(sweep.outputs)))
        for part in self._parts:
            for k, values in enumerate(self._compute(sweep, grads, scalars, part, {})):
                squares[part, k] = [x.double().square().sum().item() for x in values]
        return squares

    def _compute(
        self,
        sweep: Pass,
        grads: Sequence[torch.Tensor],
        scalars: np.ndarray,
        part: Sequence[int],
        ready: Mapping[str, tuple[str, list[torch.Tensor]]],
    ) -> list[list[torch.Tensor]]:
        """Return the results of a pass for some of the tensors.

        Args:
            sweep: the pass.
            grads: the gradients of all parameters.
            scalars: the values of `sweep.scalars`, one row for each of `scalar_rows`.
            part: the indices of the tensors, which have one shape.
            ready: by result the name and the tensors of the column that may receive it at once, if no later operation
                reads the old values.
        """
        names, (params, *states) = self.update.state, self._columns(part)
        memory: dict[str, Any] = {
            "param": params,
            "grad": [grads[i] for i in part],
            **dict(zip(names, states, strict=True)),
        }
        inputs, real = tuple(memory), torch.float64 if params[0].dtype == torch.float64 else torch.float32
        sweep, further = _with_numbers(sweep)
        known = [torch.finfo(real).eps if x is None else shape_factor(params[0].shape, *x) for x in further]
        numbers = np.column_stack([scalars[[self.scalar_rows[i] for i in part]], np.tile(known, (len(part), 1))])
        memory |= {f"s{k}": column for k, column in enumerate(numbers.T.tolist())}
        with np.errstate(over="ignore", under="ignore"):  # a number too large for float32 becomes Inf, as in torch
            floats = numbers.astype(np.float64 if real == torch.float64 else np.float32)
        for stage in stages(sweep, inputs):
            for name, function, operands, options in stage.calls:
                memory[name] = _call(function, [memory[operand] for operand in operands], options, real)
            loops = {shape: loop_of(sweep, values, stage.stored) for shape, values in _shapes(sweep, stage, memory)}
            for shape, loop in loops.items():
                read = stage.needed.union(*(other.operands for other in loops.values() if other is not loop))
                free = {
                    output: column
                    for output, (name, column) in ready.items()
                    if name not in read and sweep.outputs.count(output) == 1
                }
                targets = [
                    _target(free.get(value), shape, real, value in read)
                    or [x.new_empty(shape, dtype=_precision(sweep, value, real)) for x in params]
                    for value in loop.results
                ]
                run_loop(loop, [memory[name] for name in loop.operands], targets, floats)
                memory |= zip(loop.results, targets, strict=True)
        return [memory[output] for output in sweep.outputs]


def _call(function: str, operands: Sequence[list[Any]], options: tuple[Any, ...], real: torch.dtype) -> list[Any]:
    """Call a function of whole tensors for every tensor of a part; an operand that is a number is one per tensor."""
    if function == "newton_schulz":
        matrices, eps = operands
        return orthogonalize(matrices, eps, *options)  # several at once
    each = reduce_mean if function == "mean_square" else FUNCTIONS[function]
    columns = [[x.to(real) if isinstance(x, torch.Tensor) else x for x in column] for column in operands]
    return [each(*row, *options) for row in zip(*columns, strict=True)]


def _shapes(sweep: Pass, stage: Stage, memory: Mapping[str, Any]) -> Iterator[tuple[torch.Size, tuple[str, ...]]]:
    """Yield the values of a stage by their shapes."""
    found: dict[torch.Size, list[str]] = {}
    for value in stage.values:
        operands = loop_of(sweep, (value,), stage.stored).operands
        shape = torch.broadcast_shapes(*(memory[name][0].shape for name in operands))
        found.setdefault(shape, []).append(value)
    return ((shape, tuple(values)) for shape, values in found.items())


def _target(
    column: list[torch.Tensor] | None, shape: torch.Size, real: torch.dtype, read: bool
) -> list[torch.Tensor] | None:
    """Return the tensors of a result if a loop may write to them: nothing reads the value again in full precision."""
    fits = column is not None and column[0].shape == shape and not (read and column[0].dtype != real)
    return column if fits else None


@functools.cache
def _precision(sweep: Pass, value: str, real: torch.dtype) -> torch.dtype:
    """Return the dtype in which a value is stored between stages: that of the products if nothing else reads it."""
    readers = [code for _, code in sweep.lines if value in _words(code)]
    if value in sweep.outputs or not all(code.startswith("newton_schulz") for code in readers):
        return real
    return getattr(torch, _parts(readers[0])[2][2])  # type: ignore[no-any-return]


@functools.cache
def _with_numbers(sweep: Pass) -> tuple[Pass, tuple[Any, ...]]:
    """Return a pass with further scalars for its numbers that depend on the dtype (None) or on the shape (options)."""
    found: list[Any] = []

    def scalar(match: re.Match[str]) -> str:
        found.append(eval(match.group(2)) if match.group(1) else None)
        name = f"s{len(sweep.scalars) + len(found) - 1}"
        return f"{match.group(1)} * {name}" if match.group(1) else name

    lines = tuple((name, _NUMBER.sub(scalar, code)) for name, code in sweep.lines)
    return replace(sweep, lines=lines), tuple(found)
