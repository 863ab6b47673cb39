"""Time one trial of each arm, interleaved, to estimate the cost of a study."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch

from fallline.lab.design.outcome import Timing
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import as_in_a_worker
from fallline.lab.run.device import batch_loss, precision, to_device
from fallline.lab.run.loop import Training
from fallline.lab.run.trial import start
from fallline.landscape.loss.snapshot import tensors_in

_From = TypeVar("_From")
_To = TypeVar("_To")

ROUNDS = 7  # every arm makes a burst of steps in each round, so that other load on the machine affects all arms
_UNTIMED = 2  # first steps, which allocate optimizer state and select kernels


def time_arms(trials: Mapping[str, Trial], seconds: float, *, skip_errors: bool = False) -> dict[str, Timing]:
    """Return the timing of one trial per arm, interleaved on one thread of this process.

    Args:
        trials: a trial for each arm; only its first steps are run.
        seconds: approximate total time to spend.
        skip_errors: omit arms whose task, loss or optimizer raises an error, instead of raising it.
    """
    with as_in_a_worker():
        runs = _map_values(trials, start, skip_errors)
        began = time.perf_counter()
        runs = _map_values(runs, lambda run: _burst(run, _UNTIMED), skip_errors)
        each = (time.perf_counter() - began) / max(1, _UNTIMED * len(runs))
        for run in runs.values():
            for times in (run.clock.step, run.clock.optimizer, run.clock.data):
                times.clear()
        burst = max(1, min(20, int(seconds / max(each, 1e-4) / max(1, len(runs)) / ROUNDS)))
        for _ in range(ROUNDS):
            runs = _map_values(runs, lambda run: _burst(run, burst), skip_errors)
        return _map_values(runs, _timing, skip_errors)


def _map_values(found: Mapping[str, _From], function: Callable[[_From], _To], skip_errors: bool) -> dict[str, _To]:
    """Apply a function to each value; with `skip_errors`, omit values for which it raises an error."""
    made: dict[str, _To] = {}
    for name, value in found.items():
        try:
            made[name] = function(value)
        except Exception:
            if not skip_errors:
                raise
    return made


def _burst(run: Training, steps: int) -> Training:
    """Make steps at the learning rates of the start of the schedule, without evaluations."""
    for _ in range(steps):
        run.bare_step(len(run.losses) % len(run.factors))
    return run


def _timing(run: Training) -> Timing:
    run.clock.evaluation = 0.0
    run.evaluate("val")
    state = _bytes(tensors_in([run.optimizer.state]))
    weights = _bytes(run.model.parameters())
    return Timing(
        _quartiles(run.clock.step),
        _quartiles(run.clock.optimizer),
        _quartiles(run.clock.data)[0],
        run.clock.evaluation,
        run.clock.passes / max(1, len(run.losses)),
        state,
        state + 2 * weights + _saved_bytes(run),
    )


def _saved_bytes(run: Training) -> int:
    """Return the bytes that one forward pass saves for the backward pass, without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), precision(run.task, run.device):
        loss = batch_loss(run.task, run.model, to_device(next(run.batches), run.device))
    del loss  # the graph kept the saved tensors alive until here, so their addresses were unique
    return sum(kept.values())


def _bytes(values: Iterable[torch.Tensor]) -> int:
    return sum(value.nbytes for value in values)


def _quartiles(times: list[float]) -> tuple[float, float, float]:
    ordered = sorted(times)
    last = len(ordered) - 1
    if last < 0:
        return math.nan, math.nan, math.nan
    return ordered[round(last / 2)], ordered[round(last / 4)], ordered[round(3 * last / 4)]
