"""`Monitor` records scalars of a running training at a negligible cost."""

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fallline.arguments import check_integer
from fallline.errors import ArgumentTypeError
from fallline.landscape.loss.averaging import updater_of
from fallline.landscape.loss.fallbacks import warn
from fallline.landscape.monitor.sinks import as_sink
from fallline.loss_curves import LEAST_LOSSES, WINDOW, is_spike

_SHRUNK = 0.999  # below this fraction of its norm on arrival, a gradient was clipped and not only rounded
_MEMORY = 0.9  # decay per measured step of the running means of the noise scale
_FREED = (
    "gradients must exist when the optimizer steps, but all had been freed, so norms and ratios are omitted; "
    "use ordinary steps instead of step_in_backward, and call zero_grad after the step"
)
# State keys of a running mean of squared gradients, and the option that exists if the mean is bias-corrected.
_SECOND_MOMENTS = {"exp_avg_sq": "betas", "square_avg": None}


class Monitor:
    """Records scalars of every n-th step and sends them to sinks. It uses hooks, which `close` removes.

    The monitor does not change the training. A row is a dict of numbers:

    - `step`: number of updates since the monitor was created, starting at 1; `lr`: highest learning rate of the groups.
    - `grad_norm`: norm of the gradient as it arrived, unscaled and before any clipping.
    - `clip_fraction`: share of the last 50 measured steps in which the gradient was shorter when it was used, because
      the user's code or the optimizer's `clip_grad_norm` clipped it.
    - `update_ratio`: ‖change of the weights‖ / ‖weights‖ over all parameters; `update_ratio_max`: the largest ratio of
      a single tensor.
    - `second_moment_staleness`: the largest √mean(g²/v̂) of a tensor, where v̂ is the mean of squared gradients in the
      state (Wortsman et al. 2023, arXiv:2304.13013). It is normally about 1. If it is much larger, v̂ lags behind and
      the loss may spike. RMSprop does not correct the bias of v̂, which starts at 0, so there the value starts at
      1/√(1−α), 10 by default, and falls to about 1 in some 1/(1−α) steps: until then RMSprop's v̂ is too small.
    - `noise_scale`: tr(covariance of the gradient) / ‖gradient‖² in batches (McCandlish et al. 2018, arXiv:1812.06162),
      the number of batches at which signal and noise are equal. It is computed from the norms of the batch gradients
      and of their sum, with running means of both, and only if two or more batches are accumulated per step.
    - `loss` and `spikes`: the last loss and the number of spikes so far, if losses are passed to `monitor.loss(loss)`.

    If the gradients have been freed when the optimizer steps, as with `step_in_backward`, a row contains only `step`,
    `lr`, `loss` and `spikes`, and a warning is issued.

    Args:
        model: the model, whose trainable parameters are measured.
        optimizer: any `torch.optim.Optimizer`; its groups and state are read by key.
        every: number of steps from one measured step to the next. The other steps cost one comparison per tensor.
        sinks: functions of a row, paths of JSONL files, or SummaryWriters; see `tensorboard`.
        scaler: the `torch.amp.GradScaler`, if there is one.

    Attributes:
        row: the last row; empty before the first.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is invalid.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight, 2.0)
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        >>> rows = []
        >>> with Monitor(layer, optimizer, every=1, sinks=[rows.append]) as monitor:
        ...     layer(torch.ones(1)).square().backward()
        ...     optimizer.step()
        >>> rows[0]["grad_norm"], round(rows[0]["update_ratio"], 6)
        (4.0, 0.2)
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, every: int = 10, sinks: Iterable[Any] = (), scaler: Any = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"Monitor: model must be a torch.nn.Module, got {model=!r}; pass the model itself")
        if not isinstance(optimizer, Optimizer):
            raise ArgumentTypeError(f"Monitor: optimizer must be a torch.optim.Optimizer, got {optimizer=!r}; pass one")
        every = check_integer("Monitor", "every", every, 1, "a typical value is 10")
        if isinstance(sinks, str | PathLike) or not isinstance(sinks, Iterable):
            raise ArgumentTypeError(f"Monitor: sinks must be a list, got sinks={sinks!r}; pass a list")
        self.row: dict[str, float] = {}
        self._optimizer, self._every, self._scaler = updater_of(optimizer), every, scaler
        self._wrapped = self._optimizer is not optimizer  # SAM's two passes are not two batches
        self._params = [p for p in model.parameters() if p.requires_grad]
        self._sinks = [as_sink(sink) for sink in sinks]
        self._steps, self._spikes = 0, 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._first_losses: list[float] = []
        self._clips: deque[bool] = deque(maxlen=WINDOW)
        self._noise = _NoiseScale()
        self._has_warned = False
        self._last_scale = self._scale()
        self._begin()
        self._handles: list[Any] = [
            self._optimizer.register_step_pre_hook(self._before),
            self._optimizer.register_step_post_hook(self._after),
        ]
        for param in self._params:
            self._handles.append(param.register_hook(_Arrival(self, param)))
            self._handles.append(param.register_post_accumulate_grad_hook(self._accumulated))

    def loss(self, value: float | torch.Tensor) -> None:
        """Record the loss of a step."""
        number = value.item() if isinstance(value, torch.Tensor) else float(value)
        start = statistics.median(self._first_losses) if self._first_losses else 0.0
        self._spikes += is_spike(number, self._losses, start)
        if len(self._first_losses) < LEAST_LOSSES and math.isfinite(number):
            self._first_losses.append(number)
        self._losses.append(number)

    def close(self) -> None:
        """Remove all hooks, and close the sinks that have a `close` method."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        with ExitStack() as stack:
            for sink in self._sinks:
                if callable(close := getattr(sink, "close", None)):
                    stack.callback(close)
        self._sinks = []

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _begin(self) -> None:
        """Discard the gradients of the previous step."""
        self.measuring = self._steps % self._every == 0
        self.parts: dict[torch.Tensor, list[torch.Tensor]] = defaultdict(list)  # squared norms of each batch
        self._sums: dict[torch.Tensor, torch.Tensor] = {}
        self._old: list[torch.Tensor] = []
        self._used = math.nan
        self._freed = False  # whether the gradients that arrived were freed before the step

    def drop_skipped(self) -> None:
        """Discard the gradients of a step that the scaler skipped, which is recognized by a change of its scale."""
        scale = self._scale()
        if scale != self._last_scale:
            self._last_scale = scale
            self.parts.clear()

    def _scale(self) -> float:
        return float(self._scaler.get_scale()) if self._scaler is not None else 1.0

    def _accumulated(self, param: torch.Tensor) -> None:
        if self.measuring and param.grad is not None:
            self._sums[param] = _square(param.grad)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.measuring:
            used = [_square(p.grad) for p in self._params if p.grad is not None]
            self._used = _length(used) / _scale_of(optimizer)
            self._freed = bool(self.parts) and not used
            if self._freed and not self._has_warned:
                self._has_warned = True
                warn("Monitor", _FREED)
            self._old = [p.detach().clone() for p in self._params]

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if bool(getattr(optimizer, "found_inf", False)):  # the scaler skipped the step
            self._begin()
            return
        self._steps += 1
        if self.measuring:
            self.row = {
                "step": float(self._steps),
                "lr": max(float(group["lr"]) for group in optimizer.param_groups),
                **({} if self._freed else self._measured(optimizer)),
            }
            if self._losses:
                self.row |= {"loss": self._losses[-1], "spikes": float(self._spikes)}
            for sink in self._sinks:
                sink(self.row)
        self._begin()

    def _measured(self, optimizer: Any) -> dict[str, float]:
        arrived = _length(self._sums.values()) / self._scale() if self._sums else self._used
        own = getattr(optimizer, "grad_norm", None)  # norm before clipping, of an optimizer that clips by itself
        limit = optimizer.param_groups[0].get("clip_grad_norm")
        shrunk = min(1.0, limit / (own + 1e-6)) if limit is not None and own else 1.0
        self._clips.append(self._used * shrunk < _SHRUNK * arrived)
        row = {
            "grad_norm": arrived,
            "clip_fraction": sum(self._clips) / len(self._clips),
            **self._updates(),
        }
        stale = [s for group in optimizer.param_groups for s in _staleness(optimizer, group, shrunk)]
        if stale:
            row["second_moment_staleness"] = max(stale)
        batches = max(map(len, self.parts.values()), default=0)
        if batches > 1 and not self._wrapped:
            each = sum(float(square) for squares in self.parts.values() for square in squares) / batches
            self._noise.add(each, sum(float(square) for square in self._sums.values()), batches)
            row["noise_scale"] = self._noise.value
        return row

    def _updates(self) -> dict[str, float]:
        moved = [float(_square(p.detach() - old)) for p, old in zip(self._params, self._old, strict=True)]
        sizes = [float(_square(old)) for old in self._old]
        single = [math.sqrt(m / s) for m, s in zip(moved, sizes, strict=True) if s > 0]
        whole = math.sqrt(math.fsum(moved) / math.fsum(sizes)) if any(sizes) else math.nan
        return {"update_ratio": whole, "update_ratio_max": max(single, default=math.nan)}


class _Arrival:
    """A hook of a parameter that stores the norm of each gradient that arrives in a measured step."""

    def __init__(self, monitor: Monitor, param: torch.Tensor) -> None:
        self._monitor, self._param = monitor, param

    def __call__(self, grad: torch.Tensor) -> None:
        if self._monitor.measuring:
            self._monitor.drop_skipped()
            self._monitor.parts[self._param].append(_square(grad))


class _NoiseScale:
    """Ratio of unbiased estimates of tr(covariance) and ‖gradient‖², which are averaged separately over steps."""

    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def add(self, each: float, whole: float, k: int) -> None:
        """Add a step of k batches.

        Args:
            each: mean squared norm of the gradients of the batches.
            whole: squared norm of the sum of these gradients.
            k: number of batches.
        """
        mean = whole / k**2
        noise = (each - mean) / (1 - 1 / k)
        signal = mean - noise / k
        self._noise = _MEMORY * self._noise + (1 - _MEMORY) * noise
        self._signal = _MEMORY * self._signal + (1 - _MEMORY) * signal

    @property
    def value(self) -> float:
        """The noise scale; infinite if the estimate of ‖gradient‖² is not positive."""
        return self._noise / self._signal if self._signal > 0 else math.inf


def _staleness(optimizer: Any, group: Mapping[str, Any], shrunk: float) -> list[float]:
    """Return √mean(g²/v̂) of every parameter of a group whose state has second moments."""
    found = []
    factor = shrunk / _scale_of(optimizer)
    for param in group["params"]:
        state = optimizer.state.get(param, {})
        key = next((key for key in _SECOND_MOMENTS if key in state), None)
        if key is None or param.grad is None or param.grad.is_sparse:
            continue
        moment = state[key].detach().float()
        if (betas := _SECOND_MOMENTS[key]) is not None and betas in group:
            moment = moment / (1 - float(group[betas][1]) ** float(state["step"]))
        floor = max(float(group.get("eps", 0.0)) ** 2, torch.finfo(torch.float32).tiny)
        squares = (param.grad.detach().float() * factor) ** 2
        found.append(float((squares / moment.clamp_min(floor)).mean().sqrt()))
    return found


def _scale_of(optimizer: Any) -> float:
    """Return the factor by which the gradients in `.grad` are still scaled."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def _square(tensor: torch.Tensor) -> torch.Tensor:
    dense = tensor.detach().coalesce().values() if tensor.is_sparse else tensor.detach()
    norm: torch.Tensor = torch.linalg.vector_norm(dense, dtype=torch.float32 if dense.dtype.itemsize < 4 else None)
    return norm**2


def _length(squares: Iterable[torch.Tensor]) -> float:
    return math.sqrt(math.fsum(float(square) for square in squares))
