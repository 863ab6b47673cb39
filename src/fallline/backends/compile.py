"""The compile backend: runs the passes of an update with `torch.compile`, with one graph for tensors of all sizes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fallline.backends.blocks import decode, encode
from fallline.backends.ir import Pass
from fallline.backends.ir_runner import Numbers, TracedBucket
from fallline.backends.layout import one_memory
from fallline.backends.rounding import positions, random_bits, round_randomly
from fallline.backends.split import join, split
from fallline.rules.rule import MASTER
from fallline.rules.update import Update, codes_key, scale_key


def _where(condition: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where(condition.bool(), x, y)  # a condition of scalars is a number


_WORDS = {"sqrt": torch.sqrt, "sign": torch.sign, "maximum": torch.maximum, "where": _where}
_WORDS |= {"join": join, "split": split, "decode": decode, "encode": encode}
_WORDS |= {"round_randomly": round_randomly, "random_bits": random_bits, "positions": positions}


def can_serve(param: torch.Tensor, grad: torch.Tensor, state: Sequence[torch.Tensor]) -> bool:
    """Return whether the compile backend supports this parameter with the states that the update uses."""
    return one_memory([param, grad, *state])


class CompiledBucket(TracedBucket):
    """Runs a compiled pass on one tensor after the other, viewed as a vector.

    A graph of all tensors at once would have to be compiled again for every model (44 s for the 148 tensors of GPT-2
    small); this graph is compiled once per update. All numbers are passed as tensors, so that they do not become
    constants of the graph.
    """

    def fits(self, grads: Sequence[torch.Tensor]) -> bool:
        """Return whether every parameter has its gradient and state, all with the same memory layout."""
        return super().fits(grads) and all(
            can_serve(param, grad, [state[key] for key in self.update.stored])
            for param, grad, state in zip(self.params, grads, self.states, strict=True)
        )

    def sums(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray) -> np.ndarray:
        """Run a pass that sums squares."""
        return torch.stack(self._run(sweep, grads, scalars)).cpu().numpy()

    def write(self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray, numbers: Numbers) -> None:
        """Run the pass that writes the results."""
        keys = torch.from_numpy(self.rounding_keys(numbers)) if self.rounded() else None
        self._run(sweep, grads, scalars, keys)
        torch.autograd.graph.increment_version(self.params)  # the graphs wrote to detached views

    def _run(
        self, sweep: Pass, grads: Sequence[torch.Tensor], scalars: np.ndarray, keys: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        first = self.params[0]
        real = torch.float64 if first.dtype == torch.float64 else torch.float32
        rows = torch.tensor(scalars, dtype=real, device=first.device)
        function = _function(sweep, self.update, real, tuple(self.rounded()))
        each_key = [None] * len(grads) if keys is None else keys.to(first.device).unbind()
        return [
            function(
                *(_vector(t) for t in (param, grad, *(state[name] for name in self.update.tensors))), rows[row], key
            )
            for param, grad, state, row, key in zip(
                self.params, grads, self.states, self.scalar_rows, each_key, strict=True
            )
        ]


def _vector(tensor: torch.Tensor) -> torch.Tensor:
    """Return a vector of the elements of a dense tensor, in memory order."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


@functools.cache
def _function(sweep: Pass, update: Update, real: torch.dtype, rounded: tuple[str, ...]) -> Callable[..., torch.Tensor]:
    """Return a compiled function of vectors, scalars and a rounding key.

    It runs a pass, and returns the sums of squared outputs or, for the pass that writes, nothing.
    """
    columns, bits = ["param", "grad", *update.state], update.remainder_bits
    lines = [
        f"{name} = decode({codes_key(name)}_at, {scale_key(name)}_at)"
        if name in update.in_blocks
        else f"{name} = {name}_at.to({real}, copy=True)"  # a copy, because outputs may be inputs
        for name in columns
    ]
    if bits:
        lines[-1] = f"{MASTER} = join(param_at, {MASTER}_at)"
    lines += [f"s{k} = scalars[{k}]" for k in range(len(sweep.scalars))]
    lines += [f"{name} = {expression}" for name, expression in sweep.lines]
    if sweep.scope:
        lines.append(f"return torch.stack([{', '.join(f'{x}.double().square().sum()' for x in sweep.outputs)}])")
    else:
        written = [name for name in columns if name != "grad"]
        outputs = dict(zip(written, sweep.outputs, strict=True))
        if bits:
            lines.append(f"high, low = split({outputs[MASTER]}, {bits})")
            outputs |= {"param": "high", MASTER: "low"}
        for name, x in outputs.items():
            random = f"random_bits(key, positions(param), {rounded.index(name)})" if name in rounded else ""
            if name in update.in_blocks:
                codes, scale = codes_key(name), scale_key(name)
                lines.append(f"{codes}_new, {scale}_new = encode({x}, {codes}_at.dtype, {random}, {codes}_at)")
                lines += [f"{key}_at.copy_({key}_new)" for key in (codes, scale)]
                continue
            if random:
                x = f"round_randomly({x}, {random})"
            lines.append(f"{name}_at.copy_({x})")
    names = [f"{name}_at" for name in ("param", "grad", *update.tensors)]
    source = f"def run({', '.join(names)}, scalars, key):\n" + "".join(f"    {line}\n" for line in lines)
    namespace: dict[str, Any] = {"torch": torch, **_WORDS}
    exec(source, namespace)
    compiled: Callable[..., torch.Tensor] = torch.compile(namespace["run"], dynamic=True, fullgraph=True)
    return compiled
