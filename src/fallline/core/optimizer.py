"""The base class of all optimizers: parameter groups, state, state dicts and the step over buckets of parameters."""

import inspect
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch._compile import _disable_dynamo

from fallline.backends import BACKENDS
from fallline.backends.blocks import as_numbers
from fallline.core.averages import AveragedWeights
from fallline.core.common_options import expand_signature
from fallline.core.numbers import numbers_of
from fallline.core.options import (
    COMMON,
    check_options,
    check_params,
    check_spelling,
    parameter_list,
    plain_options,
    switched_off,
)
from fallline.core.state_dict import pack, unpack
from fallline.core.step_plan import Cohort, Plan, make_plan
from fallline.errors import ArgumentError, ArgumentTypeError, StateError, StateWarning, suggest
from fallline.group_values import Scalar as Scalar  # re-exported for the optimizers, like Params
from fallline.group_values import number, refill
from fallline.rules.rule import Rule
from fallline.rules.update import Update, update_for
from fallline.wrappers import report_skipped_step

Params: TypeAlias = Iterable[torch.Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, torch.Tensor]]


class Optimizer(AveragedWeights, torch.optim.Optimizer):
    """Base class of the optimizers; it applies `rule` to all parameters through the backends.

    The constructor of a subclass declares the hyperparameters of its rule, takes the options that all optimizers share
    as `**options: Unpack[CommonOptions]`, and passes both on by name::

        def __init__(self, params: Params, lr: Scalar = 1e-3, **options: Unpack[CommonOptions]) -> None:
            super().__init__(params, lr=lr, **options)

    Its signature then also lists the shared options, and its groups contain them. Unknown keywords raise an error.

    Args:
        params: parameters, named parameters, or groups of them.
        **options: the hyperparameters of the rule, and any of `fallline.core.common_options.CommonOptions`.
    """

    rule: ClassVar[Rule]
    # With this flag torch.amp.GradScaler always calls `step`, and sets `found_inf` and (unless it has unscaled already)
    # `grad_scale` during the call. It would treat a default value as a scale set by the user, so there are no defaults.
    _step_supports_amp_scaling = True
    _shared: ClassVar[Mapping[str, Any]] = {}  # the options of `Unpack[...]` with their defaults
    _known: ClassVar[Collection[str]] = ()  # all keywords of a constructor that takes `Unpack[...]`
    _places: Mapping[torch.Tensor, int] | None = None  # indices of the parameters; None: their order in the groups

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Expand `**options: Unpack[...]` in the signature of the constructor to single keywords."""
        super().__init_subclass__(**keywords)
        init: Any = vars(cls).get("__init__")
        signature = None if init is None else expand_signature(init, getattr(cls, "rule", None))
        if signature is None:
            return
        own = set(inspect.signature(init).parameters)
        init.__signature__ = signature
        cls._known = tuple(name for name in signature.parameters if name != "self")
        cls._shared = {
            name: p.default
            for name, p in signature.parameters.items()
            if name not in own and name != "backend" and p.default is not p.empty
        }

    def __new__(cls, *args: Any, **keywords: Any) -> "Optimizer":
        """Raise ArgumentTypeError for unknown keywords; the message lists the known ones."""
        parameters = inspect.signature(cls.__init__).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):  # a user's subclass may accept any keyword
            cls._check_keywords(keywords, [name for name in parameters if name != "self"])
        return super().__new__(cls)

    @classmethod
    def _check_keywords(cls, keywords: Mapping[str, Any], known: Collection[str]) -> None:
        for name in keywords:
            if name not in known:
                raise ArgumentTypeError(
                    f"{cls.__name__}: keyword arguments must be one of {', '.join(known)}, "
                    f"got {name}={keywords[name]!r}; {suggest(name, known)}"
                )

    def __init__(self, params: Params, **options: Any) -> None:
        name = type(self).__name__
        if self._known:  # a subclass with **keywords of its own has not checked them
            self._check_keywords(options, self._known)
        backend = options.pop("backend", "auto")
        own = {option: value for option, value in options.items() if option not in self._shared}
        shared = {option: options.get(option, default) for option, default in self._shared.items()}
        defaults = {**COMMON, "weight_decay_mode": self.rule.weight_decay_modes[0], **own, **shared}
        defaults = plain_options(name, self.rule, defaults)
        if backend not in BACKENDS:
            raise ArgumentError(
                f"{name}: backend must be one of {', '.join(BACKENDS)}, got {backend!r}; leave it out for 'auto'"
            )
        if defaults.get("foreach") and defaults.get("fused"):
            raise ArgumentError(
                f"{name}: foreach and fused must not both be True; leave both out to use the fastest backend"
            )
        self.backend: str = backend
        self.grad_norm: float | None = None
        self._plan: Plan | None = None
        super().__init__(parameter_list(name, params), defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group; options that it does not contain get the defaults of the optimizer.

        Raises:
            ArgumentError: an option is out of range or its name looks like a misspelled option; or a parameter is not
                a leaf or has an unsupported dtype.
        """
        if isinstance(param_group, Mapping):
            param_group = plain_options(
                type(self).__name__, self.rule_of({**self.defaults, **param_group}), param_group
            )
            if param_group.pop("decoupled_weight_decay", False):  # in the groups of torch.optim.Adam and AdamW
                param_group.setdefault("weight_decay_mode", "decoupled")
            group = {**self.defaults, **param_group}
            check_spelling(type(self).__name__, self.defaults, param_group, {k for g in self.param_groups for k in g})
            self._check_group(group)
            param_group = {"base_lr": number(group["lr"]), **param_group}
            if "params" in group:  # otherwise torch raises an error below
                param_group["params"] = check_params(type(self).__name__, group)
        super().add_param_group(param_group)
        self._plan = None

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise ArgumentError if the options of a group are invalid; subclasses add their own checks."""
        check_options(type(self).__name__, self.rule_of(group), self.defaults, group)

    @classmethod
    def rule_of(cls, group: Mapping[str, Any]) -> Rule:
        """Return the update rule of a group; a subclass whose groups have different rules overrides it."""
        return cls.rule

    # NOTE [untraced]: a step writes through memory addresses, reads numbers out of tensors and keeps a plan, which
    # torch.compile cannot trace. Inside a compiled function it runs as usual, at the cost of one graph break.
    # `torch.compiler.disable` imports the compiler at once; PyTorch's own optimizers use this decorator instead.
    @_disable_dynamo
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; `.grad` is read but not modified.

        Under `torch.amp.GradScaler` the update unscales the gradients, which stay scaled in `.grad`. If the scaler
        found a NaN or Inf, the step changes nothing.

        Args:
            closure: clears the gradients, computes the loss, calls backward and returns the loss. It is called once,
                before the update.

        Returns:
            The value that the closure returned, or None without a closure.

        Raises:
            GradientError: a gradient is sparse or its dtype does not match its parameter; nothing has been updated.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if getattr(self, "found_inf", False):
            report_skipped_step(self)
        else:
            with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):
                self._update()
        return loss

    def _update(self) -> None:
        self._check_not_averaged("step()")
        for group in self.param_groups:
            self.rule_of(group).check_mode(type(self).__name__, group)
        unscale = getattr(self, "grad_scale", None) is not None
        updates = [update_for(self.rule_of(group), group, unscale) for group in self.param_groups]
        plan = self._plan
        grads = self._gradients(plan, updates) if plan is not None else None
        if plan is None or grads is None:
            plan = self._plan = self._make_plan(updates)
            grads = self._gradients(plan, updates)
            if grads is None:
                raise RuntimeError("gradients changed while the optimizer was stepping; call step() from one thread")
        numbers: list[dict[str, Any]] = []
        for cohort in plan.cohorts:  # raises before anything is written
            scalars = cohort.scalars if cohort.previous is None else numbers[cohort.previous]
            numbers.append(self._numbers(cohort, scalars))
        plan.advance(numbers)
        norms = self._norms(plan, grads, numbers)
        if updates[0].clip_norm:
            self.grad_norm = norms[0] if norms else 0.0
        self._adapt(plan, numbers, norms)
        for bucket, bucket_grads in zip(plan.buckets, grads, strict=True):
            bucket.step(bucket_grads, numbers, norms)

    def _adapt(self, plan: Plan, numbers: list[dict[str, Any]], norms: Sequence[float]) -> None:
        """Compute the numbers that groups keep, write them to the groups, and add them to the numbers of the step."""
        for group, update in zip(self.param_groups, plan.updates, strict=True):
            if update.rule.adapt is not None and len(norms) >= update.global_norms:
                own = numbers_of(type(self).__name__, update.rule, group, 0, False)
                group.update(update.rule.adapted(own, update.sums(norms)))
        for cohort, own in zip(plan.cohorts, numbers, strict=True):
            group = self.param_groups[cohort.group]
            own |= {f"next_{name}": group[name] for name in self.rule_of(group).group_state}

    def _norms(self, plan: Plan, grads: list[list[torch.Tensor]], numbers: list[dict[str, Any]]) -> list[float]:
        """Return the norms over all parameters that the updates need; each can depend on the norms before it."""
        norms: list[float] = []
        for _ in range(max((bucket.update.global_norms for bucket in plan.buckets), default=0)):
            squares = [b.sum_of_squares(g, numbers, norms) for b, g in zip(plan.buckets, grads, strict=True)]
            norms.append(math.sqrt(math.fsum(squares)))
        return norms

    def _gradients(self, plan: Plan, updates: list[Update]) -> list[list[torch.Tensor]] | None:
        """Return the gradients of every bucket, or None if the plan no longer matches the optimizer."""
        if not plan.holds(updates, self.param_groups, self.state):
            return None
        grads: list[Any] = [[p.grad for p in bucket.params] for bucket in plan.buckets]
        return grads if all(bucket.fits(g) for bucket, g in zip(plan.buckets, grads, strict=True)) else None

    def _make_plan(self, updates: list[Update]) -> Plan:
        """Check every gradient, create missing state, and sort the parameters into buckets and cohorts."""
        with torch.inference_mode(False):  # state made in inference mode could not be updated outside of it
            return make_plan(type(self).__name__, self.param_groups, self.state, updates, self.backend, self._places)

    def _numbers(self, cohort: Cohort, scalars: Mapping[str, float]) -> dict[str, Any]:
        """Return all numbers that the next update of these parameters can read."""
        group, scale = self.param_groups[cohort.group], getattr(self, "grad_scale", None)
        return numbers_of(type(self).__name__, self.rule_of(group), group, cohort.age + 1, cohort.first, scale, scalars)

    def state_as_numbers(self, param: torch.Tensor) -> dict[str, Any]:
        """Return `state[param]`, with float32 tensors instead of the codes and scales of `state_dtype="int8"`.

        Args:
            param: a parameter; if it has no state, the result is empty.
        """
        return as_numbers(self.state[param]) if param in self.state else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state under PyTorch's keys; the class of the same name in `torch.optim` can load it.

        Raises:
            StateError: the parameters are replaced by averages; see `averaged`.
        """
        self._check_not_averaged("state_dict()")
        return pack(type(self).__name__, self.rule_of, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict of Fallline or of the class of the same name in `torch.optim`.

        The state keeps the dtype in which it was saved, unless `state_dtype` is "int8" here or there: then that of this
        optimizer decides. Execution options (backend, foreach, fused) do not change, and options that the state dict
        lacks keep their values. Entries of schedulers and wrappers are kept. A StateWarning names options that were on
        and that the state dict switches off.

        Raises:
            StateError: groups, names or shapes do not match; the optimizer is unchanged.
        """
        self._check_not_averaged("load_state_dict()")
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = hook(self, state_dict) or state_dict
        with torch.inference_mode(False):  # see _make_plan
            state, groups = unpack(type(self).__name__, self.rule_of, self.param_groups, state_dict)
        kept = self.defaults["clip_grad_norm"]  # the one option that all groups share, so it is loaded as the default
        self.defaults["clip_grad_norm"] = groups[0]["clip_grad_norm"]
        try:
            for group in groups:
                self._check_group(group)
        except ArgumentError as error:
            self.defaults["clip_grad_norm"] = kept
            raise StateError(f"{error}; or check whether it was saved by another optimizer") from None
        off = switched_off(self.param_groups, groups)
        rates = refill([own["lr"] for own in self.param_groups], [group["lr"] for group in groups])
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        self.__setstate__({"state": state, "param_groups": groups})
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)
        if off:
            warnings.warn(
                f"{type(self).__name__}: the state dict was saved without options that were switched on, and loading "
                f"it has switched off {', '.join(off)}. Set them in param_groups again to use them.",
                StateWarning,
                stacklevel=2,
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "backend": self.backend, "grad_norm": self.grad_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = None
