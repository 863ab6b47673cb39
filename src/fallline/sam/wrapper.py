"""SAM: each step uses the gradient from where, nearby, the loss is largest."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.amp import GradScaler

from fallline.errors import ArgumentTypeError, StateError
from fallline.rules.rule import NON_NEGATIVE
from fallline.sam.batchnorm import frozen_batchnorm
from fallline.sam.perturbation import ADAPTIVE, RHO, Perturbation


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation around any optimizer, ours or PyTorch's.

    A step climbs by e = rho·grad/‖grad‖, the norm being that of all parameters of all groups, takes the gradient there,
    puts the parameters back to the bit, and lets the base make its step with that second gradient. Weight decay,
    clipping and averages belong to the base's step. SAM has no groups, state or defaults of its own: they are the
    base's, whose groups get the options `sam_rho` and `sam_adaptive`; state dicts are the base's too.

    Either pass a closure that clears the gradients, computes the loss, calls backward and returns the loss; it is
    called twice, and `step` returns the first loss. Or take the two phases by hand, for mixed precision and for
    accumulated gradients (`examples/` has one of each)::

        loss_of(batch).backward(); opt.first_step(zero_grad=True)
        loss_of(batch).backward(); opt.second_step(zero_grad=True)

    With a GradScaler `scaler.step(opt)` is the second phase: it unscales the second gradients in `.grad`. Where either
    pass had a NaN or Inf, the parameters are as before the climb and the base makes no step. Under DDP the climb is
    each rank's own if the first forward and backward run in `model.no_sync()` (m-sharpness), common otherwise.

    Args:
        base: an optimizer, not a class.
        rho: how far to climb, >= 0, in param units; relative to them if adaptive, where 0.5 to 2 are usual.
        adaptive: ASAM: climb by e = rho·param²·grad/‖param·grad‖.
        model: the running statistics of its batch normalisation layers stay as they are in the second pass. Without
            it, wrap that pass in `fallline.frozen_batchnorm(model)`.

    Raises:
        ArgumentError, ArgumentTypeError: an argument cannot be used.
        StateError: in a step, the phases are called out of order.

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
    _step_supports_amp_scaling = True  # GradScaler then calls `step` always, with `found_inf` set

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
                f"SAM: base must be an optimizer that is no SAM, got {base!r}; pass one, for example "
                "fallline.SGD(model.parameters(), lr=0.1)"
            )
        NON_NEGATIVE.check("SAM", "rho", rho)
        if not isinstance(adaptive, bool):
            raise ArgumentTypeError(f"SAM: adaptive must be True or False, got {adaptive!r}; pass one of them")
        if model is not None and not isinstance(model, torch.nn.Module):
            raise ArgumentTypeError(f"SAM: model must be a torch.nn.Module, got {model!r}; leave it out")
        for options in (base.defaults, *base.param_groups):
            options[RHO], options[ADAPTIVE] = float(rho), adaptive
        self.__setstate__({"base": base, "model": model})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # PyTorch's way to an optimizer whose groups are there already
        self._perturbation = Perturbation(self.base)
        self._climbed = False
        self._frozen = ExitStack()

    def __getstate__(self) -> dict[str, Any]:
        if self._climbed:
            raise StateError("SAM: a copy needs a finished step, got one between its phases; call second_step() first")
        return {"base": self.base, "model": self.model}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the base."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the base."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The defaults of the base."""
        return self.base.defaults

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; it may have a `sam_rho` and `sam_adaptive` of its own."""
        NON_NEGATIVE.check("SAM", RHO, param_group.get(RHO, 0.0))
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of the base; `sam_rho` and `sam_adaptive` are among the options of the groups."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of SAM, or of the base alone, into the base."""
        kept = [(group[RHO], group[ADAPTIVE]) for group in self.param_groups]
        self.base.load_state_dict(state_dict)
        for group, (rho, adaptive) in zip(self.param_groups, kept, strict=True):
            group.setdefault(RHO, rho)
            group.setdefault(ADAPTIVE, adaptive)

    def first_step(self, zero_grad: bool = False) -> None:
        """Climb along the gradients.

        Args:
            zero_grad: clear them afterwards.

        Raises:
            StateError: the parameters have climbed already.
            GradientError: a gradient cannot be used; nothing has moved.
        """
        if self._climbed:
            raise StateError("SAM: first_step() must follow a finished step, got two of them; call second_step() next")
        self._perturbation.apply()
        self._climbed = True
        if self.model is not None:
            self._frozen.enter_context(frozen_batchnorm(self.model))
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False) -> None:
        """Put the parameters back and let the base make its step with the gradients of now.

        Args:
            zero_grad: clear them afterwards.

        Raises:
            StateError: there was no `first_step`.
        """
        if not self._climbed:
            raise StateError("SAM: second_step() must follow first_step(), got none; call it after the first backward")
        self.step()  # hooks of SAM hear of it, and PyTorch's schedulers see that a step was made
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a whole step with a closure, or after `first_step()` the second phase without one.

        Args:
            closure: clears gradients, computes the loss, calls backward and returns the loss.

        Returns:
            What the closure returned first, or None without one.

        Raises:
            StateError: there is neither a closure nor a first phase, or both.
        """
        if closure is None:
            if not self._climbed and all(float(group.get("lr", 1.0)) == 0 for group in self.param_groups):
                self.base.step()  # torch.distributed.checkpoint makes such a step to have the state created
            elif not self._climbed:
                raise StateError(
                    "SAM: step() needs a closure or a first_step() before it, got neither; pass a closure that clears "
                    "gradients, computes the loss, calls backward and returns the loss"
                )
            else:
                skipped = hasattr(self, "found_inf") and self._found_inf()
                self._descend()
                if not skipped:
                    self.base.step()
            return None
        with torch.enable_grad():
            loss = closure()
        self.first_step()
        try:
            with torch.enable_grad():
                closure()
        except BaseException:
            self._descend()
            raise
        self._descend()
        self.base.step()
        return loss

    def _descend(self) -> None:
        self._climbed = False
        self._frozen.close()
        self._perturbation.undo()

    def _found_inf(self) -> bool:
        """Unscale the second gradients for the GradScaler that calls `step`, and tell it and us what it found.

        A scaler unscales an optimizer once between updates, and that was the first pass. It does not pass itself, so
        it is looked up among the callers: nobody else knows the scale. (A `grad_scaler` argument would be passed, but
        PyTorch warns at every step that it is going to stop.)
        """
        frame = inspect.currentframe()
        while frame is not None and not isinstance(frame.f_locals.get("self"), GradScaler):
            frame = frame.f_back
        if frame is None:
            raise StateError("SAM: found_inf must be set by torch.amp.GradScaler, got another caller; use its step()")
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
        """Register a hook on the state dict, which is the base's."""
        return self.base.register_state_dict_pre_hook(hook, prepend)

    def register_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register a hook on the state dict, which is the base's."""
        return self.base.register_state_dict_post_hook(hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register a hook on loading, which the base does."""
        return self.base.register_load_state_dict_pre_hook(hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        """Register a hook on loading, which the base does."""
        return self.base.register_load_state_dict_post_hook(hook, prepend)
