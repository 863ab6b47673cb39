"""`watch` records a running training for the run-time checks."""

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch._compile import _disable_dynamo
from torch.optim import Optimizer

from fallline.errors import ArgumentTypeError
from fallline.guard import Guard
from fallline.linting.finding import Finding
from fallline.linting.running import RUN_CHECKS, Record
from fallline.wrappers import unwrap_optimizer, updaters

_COMPARISON = "the comparison of gradients between steps"


class Watch:
    """Records the steps of an optimizer until `close`, and finds mistakes. It does not change the training.

    An error in the recording does not end the training: one ObserverWarning names what is omitted and the cause. The
    hooks keep neither the model nor the optimizer alive.

    Attributes:
        record: the losses and counts recorded so far.

    Example:
        >>> import torch
        >>> import fallline as fl
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = fl.SGD([weight], lr=0.1)
        >>> watch = fl.watch(optimizer)
        >>> for _ in range(10):
        ...     loss = weight.square().sum()
        ...     loss.backward()  # and no zero_grad
        ...     optimizer.step()
        ...     watch.loss(loss)
        >>> [finding.id for finding in watch.findings()]
        ['gradients-not-zeroed']
    """

    def __init__(self, optimizer: Optimizer, scaler: Any = None) -> None:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.record = Record()
        self._scaler = scaler if scaler is not None else getattr(optimizer, "scaler", None)  # accelerate's
        # One parameter is enough, and the smallest is the cheapest.
        param = min(params, key=torch.Tensor.numel) if params else None
        self._param = weakref.ref(param) if param is not None else None
        self._guard = Guard("watch")
        self._arrived: torch.Tensor | None = None
        self._before: torch.Tensor | None = None
        updater = updaters(optimizer)[0]
        # By these two references the optimizer owns the watch; see NOTE [weak hooks] in step_in_backward.py.
        self._handles = [
            updater.register_step_pre_hook(self._before_step),
            updater.register_step_post_hook(self._after_step),
        ]
        if param is not None:
            self._handles.append(param.register_hook(_arrival_hook(self)))

    def loss(self, value: float | torch.Tensor) -> None:
        """Record the loss of a step."""
        self.record.losses.append(value.item() if isinstance(value, torch.Tensor) else float(value))

    def findings(self) -> list[Finding]:
        """Return the mistakes found so far."""
        return [finding for check in RUN_CHECKS.values() for finding in check(self.record)]

    def close(self) -> None:
        """Stop recording and remove the hooks. The record is kept."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._arrived = self._before = self._param = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def add_gradient(self, grad: torch.Tensor) -> None:
        """Add a gradient that a backward pass has computed for the parameter."""
        self._guard.run(_COMPARISON, self._add, grad)

    def _add(self, grad: torch.Tensor) -> None:
        grad = _dense(grad)
        self._arrived = grad.clone() if self._arrived is None else self._arrived + grad

    @_disable_dynamo  # see NOTE [untraced] in core/optimizer.py
    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if not _has_closure(args, kwargs):  # a closure computes the gradients inside the step
            self._guard.run(_COMPARISON, self._compare, optimizer)

    def _compare(self, optimizer: Optimizer) -> None:
        """Compare the gradient with what the backward passes since the last step have added to it."""
        param = self._param() if self._param is not None else None
        if param is None or param.grad is None or self._arrived is None:
            return
        scale = float(self._scaler.get_scale()) if self._scaler is not None else 1.0
        scaled = scale if getattr(optimizer, "grad_scale", None) is not None else 1.0  # the optimizer unscales
        arrived = self._arrived / scale
        given = _dense(param.grad) / scaled
        size = arrived.norm().item()
        if size > 0 and math.isfinite(size):
            self.record.checked += 1
            if self._before is not None and not torch.allclose(given, arrived, rtol=1e-2, atol=1e-2 * size):
                self.record.not_zeroed += torch.allclose(given, self._before + arrived, rtol=1e-3, atol=1e-3 * size)
            self.record.clipped_scaled += scale >= 1024 and given.norm().item() / size * scale < 32
        self._before = given.clone()

    @_disable_dynamo
    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if _has_closure(args, kwargs):
            self._guard.run(_COMPARISON, self._compare, optimizer)
        self._arrived = None
        self.record.steps += 1
        self._guard.run("the share of steps with clipping", self._count_clipping, optimizer)

    def _count_clipping(self, optimizer: Optimizer) -> None:
        limit, norm = optimizer.param_groups[0].get("clip_grad_norm"), getattr(optimizer, "grad_norm", None)
        if limit is not None and norm is not None:
            self.record.with_clipping += 1
            self.record.clipped += float(norm) > limit


def _arrival_hook(watch: Watch) -> Callable[[torch.Tensor], None]:
    """Return the hook of the parameter of a watch; see NOTE [weak hooks] in step_in_backward.py."""
    ref = weakref.ref(watch)

    @_disable_dynamo
    def hook(grad: torch.Tensor) -> None:
        found = ref()
        if found is not None:
            found.add_gradient(grad)

    return hook


def _dense(grad: torch.Tensor) -> torch.Tensor:
    """Return a gradient as a dense tensor without a graph; the parameter is the smallest, so this is cheap."""
    return grad.detach().to_dense() if grad.layout is not torch.strided else grad.detach()


def _has_closure(args: Any, kwargs: Any) -> bool:
    """Return whether a step, whose arguments a hook gets, has a closure; the first argument is the optimizer."""
    return any(argument is not None for argument in (*args[1:], kwargs.get("closure")))


def watch(optimizer: Optimizer, scaler: Any = None) -> Watch:
    """Watch a training for mistakes that appear only while it runs: loss spikes, clipping, gradients not zeroed.

    Args:
        optimizer: any `torch.optim.Optimizer`; inside a wrapper such as SAM, the one that updates the parameters is
            watched.
        scaler: the `torch.amp.GradScaler`, if there is one.

    Returns:
        A `Watch`. Pass each loss to `watch.loss(loss)`, get the mistakes from `watch.findings()`, and end the recording
        with `watch.close()` or a `with` block. Each step costs a copy of the smallest gradient.

    Raises:
        ArgumentTypeError: `optimizer` is not a `torch.optim.Optimizer`.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> opt = fl.SGD([w], lr=0.1)
        >>> with fl.watch(opt) as watch:
        ...     for _ in range(5):
        ...         (w * w).sum().backward()  # and no zero_grad
        ...         opt.step()
        >>> [finding.id for finding in watch.findings()]
        ['gradients-not-zeroed']
    """
    optimizer = unwrap_optimizer(optimizer)
    if not isinstance(optimizer, Optimizer):
        raise ArgumentTypeError(f"watch: optimizer must be a torch.optim.Optimizer, got {optimizer=!r}; pass one")
    return Watch(optimizer, scaler)
