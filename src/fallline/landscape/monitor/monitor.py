"""`Monitor` records scalars of a running training at a negligible cost."""

import math
import statistics
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable
from contextlib import ExitStack
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from fallline.arguments import check_integer
from fallline.errors import ArgumentTypeError, StateError
from fallline.guard import Guard, describe_error
from fallline.landscape.loss.averaging import updater_of
from fallline.landscape.loss.fallbacks import warn
from fallline.landscape.monitor.noise_scale import NoiseScale
from fallline.landscape.monitor.norms import find_staleness, length, scale_of, square
from fallline.landscape.monitor.sinks import Sink, as_sink
from fallline.loss_curves import LEAST_LOSSES, WINDOW, is_spike

_SHRUNK = 0.999  # below this fraction of its norm on arrival, a gradient was clipped and not only rounded
_FREED = (
    "gradients must exist when the optimizer steps, but all had been freed, so norms and ratios are omitted; "
    "use ordinary steps instead of step_in_backward, and call zero_grad after the step"
)


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

    The monitor never ends a training. A number that it cannot compute, for example because the state of an optimizer
    does not have the keys of PyTorch, is missing in the rows, and one ObserverWarning names the number and the cause. A
    sink that raises an error gets no more rows. The hooks keep neither the model nor the optimizer alive.

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
        self._every, self._scaler = every, scaler
        updater = updater_of(optimizer)
        self._wrapped = updater is not optimizer  # SAM's two passes are not two batches
        params = [p for p in model.parameters() if p.requires_grad]
        self._refs = [weakref.ref(p) for p in params]
        self._sinks = [as_sink(sink) for sink in sinks]
        self._steps, self._spikes = 0, 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._first_losses: list[float] = []
        self._clips: deque[bool] = deque(maxlen=WINDOW)
        self._noise = NoiseScale()
        self._guard, self._has_warned = Guard("Monitor"), False
        self._last_scale = self._scale()
        self._begin()
        # By these two references the optimizer owns the monitor; see NOTE [weak hooks] in step_in_backward.py.
        self._handles: list[Any] = [
            updater.register_step_pre_hook(self._before),
            updater.register_step_post_hook(self._after),
        ]
        for number, param in enumerate(params):
            hook = _Arrival(self, number)
            self._handles.append(param.register_hook(hook.arrive))
            self._handles.append(param.register_post_accumulate_grad_hook(hook.accumulate))

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
        self._sinks, self._refs = [], []
        self._begin()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _begin(self) -> None:
        """Discard the gradients of the previous step."""
        self.measuring = self._steps % self._every == 0
        self._parts: dict[int, list[torch.Tensor]] = defaultdict(list)  # squared norms of each batch, by parameter
        self._sums: dict[int, torch.Tensor] = {}
        self._old: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._used = math.nan
        self._freed = False  # whether the gradients that arrived were freed before the step

    def arrive(self, number: int, grad: torch.Tensor) -> None:
        """Store the norm of a gradient that a backward pass has computed for a parameter."""
        self._guard.run("grad_norm", self._arrive, number, grad)

    def accumulate(self, number: int, param: torch.Tensor) -> None:
        """Store the norm of the gradient that has been accumulated in `.grad` of a parameter."""
        self._guard.run("grad_norm", self._accumulate, number, param)

    def _arrive(self, number: int, grad: torch.Tensor) -> None:
        scale = self._scale()
        if scale != self._last_scale:  # the scaler skipped the last step
            self._last_scale = scale
            self._parts.clear()
        self._parts[number].append(square(grad))

    def _accumulate(self, number: int, param: torch.Tensor) -> None:
        if param.grad is not None:
            self._sums[number] = square(param.grad)

    def _scale(self) -> float:
        return float(self._scaler.get_scale()) if self._scaler is not None else 1.0

    @_disable_dynamo  # see NOTE [untraced] in core/optimizer.py
    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.measuring:
            self._guard.run("grad_norm", self._measure_gradients, optimizer)
            self._guard.run("update_ratio", self._copy_weights)
            if self._freed and not self._has_warned:
                self._has_warned = True
                warn("Monitor", _FREED)

    def _measure_gradients(self, optimizer: Optimizer) -> None:
        used = [square(p.grad) for p in self._params() if p.grad is not None]
        self._used = length(used) / scale_of(optimizer)
        self._freed = bool(self._parts) and not used

    def _copy_weights(self) -> None:
        self._old = [(p, p.detach().clone()) for p in self._params()]

    def _params(self) -> list[torch.Tensor]:
        return [p for ref in self._refs if (p := ref()) is not None]

    @_disable_dynamo
    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._guard.run("a row", self._finish, optimizer)
        self._begin()

    def _finish(self, optimizer: Any) -> None:
        """Count a step that has been made, and send a row if it was measured."""
        if bool(getattr(optimizer, "found_inf", False)):  # the scaler skipped the step
            return
        self._steps += 1
        if not self.measuring:
            return
        self.row = {"step": float(self._steps), **(self._guard.run("lr", self._rate, optimizer) or {})}
        if not self._freed:
            own = getattr(optimizer, "grad_norm", None)  # norm before clipping, of an optimizer that clips by itself
            limit = optimizer.param_groups[0].get("clip_grad_norm")
            shrunk = min(1.0, limit / (own + 1e-6)) if limit is not None and own else 1.0
            self.row |= self._guard.run("grad_norm", self._norms, shrunk) or {}
            self.row |= self._guard.run("update_ratio", self._updates) or {}
            self.row |= self._guard.run("second_moment_staleness", self._staleness, optimizer, shrunk) or {}
            self.row |= self._guard.run("noise_scale", self._noise_scale) or {}
        if self._losses:
            self.row |= {"loss": self._losses[-1], "spikes": float(self._spikes)}
        self._sinks = [sink for sink in self._sinks if self._send(sink)]

    def _send(self, sink: Sink) -> bool:
        """Send the row to a sink; return whether the sink has taken it."""
        try:
            sink(self.row)
        except Exception as error:
            name = getattr(sink, "__name__", type(sink).__name__)
            self._guard.omit(f"each further row of the sink {name}", describe_error(error))
            return False
        return True

    def _rate(self, optimizer: Any) -> dict[str, float]:
        if not all("lr" in group for group in optimizer.param_groups):
            self._guard.omit("lr", f"the groups of {type(optimizer).__name__} have none")
            return {}
        return {"lr": max(float(group["lr"]) for group in optimizer.param_groups)}

    def _norms(self, shrunk: float) -> dict[str, float]:
        arrived = length(self._sums.values()) / self._scale() if self._sums else self._used
        self._clips.append(self._used * shrunk < _SHRUNK * arrived)
        return {"grad_norm": arrived, "clip_fraction": sum(self._clips) / len(self._clips)}

    def _updates(self) -> dict[str, float]:
        moved = [float(square(p.detach() - old)) for p, old in self._old]
        sizes = [float(square(old)) for _, old in self._old]
        single = [math.sqrt(m / s) for m, s in zip(moved, sizes, strict=True) if s > 0]
        whole = math.sqrt(math.fsum(moved) / math.fsum(sizes)) if any(sizes) else math.nan
        return {"update_ratio": whole, "update_ratio_max": max(single, default=math.nan)}

    def _staleness(self, optimizer: Any, shrunk: float) -> dict[str, float]:
        factor = shrunk / scale_of(optimizer)
        try:
            stale = [s for group in optimizer.param_groups for s in find_staleness(optimizer, group, factor)]
        except StateError as error:
            self._guard.omit("second_moment_staleness", str(error))
            return {}
        return {"second_moment_staleness": max(stale)} if stale else {}

    def _noise_scale(self) -> dict[str, float]:
        batches = max(map(len, self._parts.values()), default=0)
        if batches < 2 or self._wrapped:
            return {}
        each = sum(float(one) for squares in self._parts.values() for one in squares) / batches
        self._noise.add(each, sum(float(one) for one in self._sums.values()), batches)
        return {"noise_scale": self._noise.value}


class _Arrival:
    """The hooks of a parameter, which store the norms of its gradients; see NOTE [weak hooks] in step_in_backward.py.

    Args:
        monitor: the monitor, which is not kept alive.
        number: index of the parameter. The parameter itself would be kept alive by its own hook.
    """

    def __init__(self, monitor: Monitor, number: int) -> None:
        self._monitor, self._number = weakref.ref(monitor), number

    @_disable_dynamo
    def arrive(self, grad: torch.Tensor) -> None:
        """Store the norm of the gradient if the step is measured."""
        monitor = self._monitor()
        if monitor is not None and monitor.measuring:
            monitor.arrive(self._number, grad)

    @_disable_dynamo
    def accumulate(self, param: torch.Tensor) -> None:
        """Store the norm of the accumulated gradient if the step is measured."""
        monitor = self._monitor()
        if monitor is not None and monitor.measuring:
            monitor.accumulate(self._number, param)
