"""SAM: each step uses the gradient at the point in the neighborhood where the loss is approximately largest."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch._compile import _disable_dynamo
from torch.amp import GradScaler

from fallline.core.averages import AveragedWeights
from fallline.errors import ArgumentTypeError, StateError
from fallline.group_values import plain
from fallline.rules.ranges import NON_NEGATIVE
from fallline.sam.base_hooks import creates_state, guard_base
from fallline.sam.batchnorm import frozen_batchnorm
from fallline.sam.perturbation import ADAPTIVE, RHO, Perturbation
from fallline.wrappers import report_skipped_step


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization around any optimizer of Fallline or PyTorch.

    A step moves the parameters by e = rho·grad/‖grad‖ (the norm is over all parameters of all groups), computes the
    gradient there, restores the parameters bit-for-bit, and calls the base optimizer with that second gradient. Weight
    decay, clipping and averages are part of the step of the base. Groups, state, defaults and state dicts of SAM are
    those of the base, whose groups get the options `sam_rho` and `sam_adaptive`.

    Either pass a closure that clears the gradients, computes the loss, calls backward and returns the loss; it is
    called twice, and `step` returns the first loss. Or call the two phases yourself, for mixed precision and gradient
    accumulation (`examples/` has an example of each)::

        loss_of(batch).backward(); opt.first_step(zero_grad=True)
        loss_of(batch).backward(); opt.second_step(zero_grad=True)

    With a GradScaler, `scaler.step(opt)` is the second phase: it unscales the second gradients in `.grad`. If either
    pass had a NaN or Inf, the parameters are restored and the base makes no step. Under DDP, each rank has its own
    perturbation if the first forward and backward run in `model.no_sync()` (m-sharpness); otherwise all ranks share it.

    Args:
        base: an optimizer instance, not a class.
        rho: length of the perturbation, >= 0, in param units; relative to the parameters if adaptive, where 0.5 to 2 is
            usual.
        adaptive: use ASAM, with the perturbation e = rho·param²·grad/‖param·grad‖.
        model: freeze the running statistics of the batch normalization layers of this model in the second pass. Without
            it, wrap that pass in `fallline.frozen_batchnorm(model)`.

    Raises:
        ArgumentError, ArgumentTypeError: an argument cannot be used.
        StateError: in a step, the phases are called in the wrong order.

    Example:
        >>> import torch, fallline as fl
        >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = fl.SAM(fl.SGD([w], lr=0.1), rho=0.5)
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = (w * w).sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> opt.step(closure).item()
        12.5
        >>> [round(x, 2) for x in w.tolist()]  # w − 0.1·(w + 0.5·w/‖w‖)
        [2.67, 3.56]
    """

    base: torch.optim.Optimizer
    model: torch.nn.Module | None
    _step_supports_amp_scaling = True  # with this flag, GradScaler always calls `step`, with `found_inf` set

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float = 0.05,
        adaptive: bool = False,
        *,
        model: torch.nn.Module | None = None,
    ) -> None:
        if not isinstance(base, torch.optim.Optimizer) or isinstance(base, SAM):
            raise ArgumentTypeError(
                f"SAM: base must be an optimizer instance other than SAM, got {base!r}; pass for example "
                "fallline.SGD(model.parameters(), lr=0.1)"
            )
        NON_NEGATIVE.check("SAM", "rho", rho)
        rho, adaptive = plain(rho), plain(adaptive)
        if not isinstance(adaptive, bool):
            raise ArgumentTypeError(f"SAM: adaptive must be True or False, got {adaptive!r}; pass one of them")
        if model is not None and not isinstance(model, torch.nn.Module):
            raise ArgumentTypeError(f"SAM: model must be a torch.nn.Module, got {model!r}; leave it out")
        for options in (base.defaults, *base.param_groups):
            options[RHO], options[ADAPTIVE] = float(rho), adaptive
        self.__setstate__({"base": base, "model": model})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # initializes a torch optimizer whose groups already exist
        self._perturbation = Perturbation(self.base)
        self._perturbed = False
        self._frozen = ExitStack()
        self._handles = guard_base(self.base, self, self.__dict__.get("_handles", ()))

    def __getstate__(self) -> dict[str, Any]:
        self.check_finished("copying", "a copy")
        return {"base": self.base, "model": self.model}

    def check_finished(self, what: str, got: str) -> None:
        """Raise StateError between the two phases, when the parameters are not those that are trained."""
        if self._perturbed:
            raise StateError(
                f"SAM: {what} needs a finished step, got {got} between the two phases; call second_step() first"
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of the base."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the base."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the base."""
        return self.base.defaults

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the parameters by the averages of the base for the duration of a block; see `Optimizer.averaged`.

        Raises:
            StateError: the parameters are perturbed.
        """
        self.check_finished("evaluation", "averaged()")
        with self.base.averaged() if isinstance(self.base, AveragedWeights) else nullcontext():
            yield

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; the group can set its own `sam_rho` and `sam_adaptive`.

        Raises:
            StateError: the parameters are perturbed; those of the new group would not be.
        """
        self.check_finished("adding a group", "add_param_group()")
        NON_NEGATIVE.check("SAM", RHO, param_group.get(RHO, 0.0))
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of the base, whose groups contain `sam_rho` and `sam_adaptive`.

        Raises:
            StateError: the parameters are perturbed, so that a checkpoint of the model would be wrong.
        """
        self.check_finished("saving", "state_dict()")
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of SAM or of the base optimizer into the base.

        Raises:
            StateError: the parameters are perturbed, so that the next phase would undo what is loaded into the model.
        """
        self.check_finished("loading", "load_state_dict()")
        kept = [(group[RHO], group[ADAPTIVE]) for group in self.param_groups]
        self.base.load_state_dict(state_dict)
        for group, (rho, adaptive) in zip(self.param_groups, kept, strict=True):
            group.setdefault(RHO, rho)
            group.setdefault(ADAPTIVE, adaptive)

    @_disable_dynamo  # see NOTE [untraced] in core/optimizer.py
    def first_step(self, zero_grad: bool = False) -> None:
        """Add the perturbation along the gradients to the parameters.

        Args:
            zero_grad: clear the gradients afterwards.

        Raises:
            StateError: the parameters are already perturbed.
            GradientError: a gradient cannot be used; no parameter has changed.
        """
        if self._perturbed:
            raise StateError(
                "SAM: first_step() must follow a finished step, got a second call; call second_step() before it"
            )
        self._perturbation.apply()
        self._perturbed = True
        if self.model is not None:
            self._frozen.enter_context(frozen_batchnorm(self.model))
        if zero_grad:
            self.zero_grad()

    @_disable_dynamo  # see NOTE [untraced] in core/optimizer.py
    def second_step(self, zero_grad: bool = False) -> None:
        """Restore the parameters, and make the step of the base with the current gradients.

        Args:
            zero_grad: clear the gradients afterwards.

        Raises:
            StateError: `first_step` has not been called.
        """
        if not self._perturbed:
            raise StateError(
                "SAM: second_step() must follow first_step(), got no first_step(); call it after the first backward"
            )
        self.step()  # not the inner steps directly, so that hooks of SAM run and PyTorch's schedulers see a step
        if zero_grad:
            self.zero_grad()

    @_disable_dynamo  # see NOTE [untraced] in core/optimizer.py
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a whole step with a closure, or the second phase after `first_step()` without a closure.

        Args:
            closure: clears the gradients, computes the loss, calls backward and returns the loss.

        Returns:
            The value of the first call of the closure, or None without a closure.

        Raises:
            StateError: there is neither a closure nor a first phase, or both.
        """
        if closure is None:
            if not self._perturbed and creates_state(self):
                self.base.step()
            elif not self._perturbed:
                raise StateError(
                    "SAM: step() needs a closure or a first_step() before it, got neither; pass a closure that clears "
                    "the gradients, computes the loss, calls backward and returns the loss"
                )
            else:
                skipped = hasattr(self, "found_inf") and self._found_inf()
                self._restore()
                if skipped:
                    report_skipped_step(self)
                else:
                    self.base.step()
            return None
        with torch.enable_grad():
            loss = closure()
        self.first_step()
        try:
            with torch.enable_grad():
                closure()
        except BaseException:
            self._restore()
            raise
        self._restore()
        self.base.step()
        return loss

    def _restore(self) -> None:
        self._perturbed = False
        self._frozen.close()
        self._perturbation.undo()

    def _found_inf(self) -> bool:
        """Unscale the second gradients for the GradScaler that calls `step`; return whether any gradient is not finite.

        A scaler unscales the gradients of an optimizer only once between updates, which was in the first pass. Only the
        scaler knows the scale, and it does not pass itself to `step`, so it is looked up in the call stack. (PyTorch
        would pass it as an argument named `grad_scaler`, but warns at every step that this is deprecated.)
        """
        frame = inspect.currentframe()
        while frame is not None and not isinstance(frame.f_locals.get("self"), GradScaler):
            frame = frame.f_back
        if frame is None:
            raise StateError(
                "SAM: found_inf must be set by torch.amp.GradScaler, got another caller; call scaler.step(optimizer)"
            )
        scaler: Any = frame.f_locals["self"]
        record = scaler._per_optimizer_states[id(self)]
        first = record["found_inf_per_device"]
        inverse = scaler._scale.double().reciprocal().float()
        second = scaler._unscale_grads_(self, inverse, torch.zeros_like(inverse), False)
        record["found_inf_per_device"] = {
            device: first.get(device, 0) + second.get(device, 0) for device in {**first, **second}
        }
        return any(bool(found.item()) for found in record["found_inf_per_device"].values())

    def register_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register the hook on the base, which creates the state dict."""
        return self.base.register_state_dict_pre_hook(hook, prepend)

    def register_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register the hook on the base, which creates the state dict."""
        return self.base.register_state_dict_post_hook(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register the hook on the base, which loads state dicts."""
        return self.base.register_load_state_dict_pre_hook(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register the hook on the base, which loads state dicts."""
        return self.base.register_load_state_dict_post_hook(hook, prepend)
