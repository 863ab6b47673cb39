"""What an update rule declares, and the complete update that a backend runs for it."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.ops import maximum, minimum

WEIGHT_DECAY_MODES = ("l2", "decoupled", "independent")
ALL, TENSOR = "all", "tensor"  # a norm is taken over all parameters of all groups, or over one
EMA = "ema"  # the state key of averaged parameters
MASTER = "master"  # the state key of float32 parameters behind half-precision ones

Norm = Callable[[Any, str], Any]  # (values, ALL or TENSOR) -> the Euclidean norm


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may take: finite, from `low` (unless `open`) up to, but not, `below`."""

    low: float = 0.0
    below: float = math.inf
    open: bool = False
    optional: bool = False  # or None

    def __str__(self) -> str:
        if self.below == math.inf:
            limit = "" if self.low == -math.inf else f" {'>' if self.open else '>='} {self.low:g}"
            return f"a finite number{limit}" + " or None" * self.optional
        return f"in [{self.low:g}, {self.below:g})"

    def check(self, owner: str, name: str, value: Any) -> None:
        """Raise ArgumentError unless `value` (a number or a one-element tensor) lies in the range."""
        if value is None and self.optional:
            return
        try:
            number = _float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ArgumentTypeError(f"{owner}: {name} must be {self}, got {value!r}; pass a number") from None
        above = self.low < number if self.open else self.low <= number
        if not (math.isfinite(number) and above and number < self.below):
            raise ArgumentError(f"{owner}: {name} must be {self}, got {number:g}; choose a value in that range")


def _float(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError("float() would read it, but no update can")
    return float(value.item() if hasattr(value, "item") else value)  # float() of a tensor with a gradient warns


NON_NEGATIVE = Range()
POSITIVE = Range(open=True)
FRACTION = Range(0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule: one pure function of numbers, with its state and hyperparameters declared.

    Attributes:
        name: lower-case name, as `fallline.create_optimizer` takes it.
        function: `(param, grad, *state, **hyperparameters) -> (param, *state)`.
        state: state key to the option that must be truthy for the state to exist (None: it always exists).
        ranges: hyperparameter (as in a parameter group) to the numbers it may take.
        formula: the update in one line, for people.
        source: where the rule comes from.
        weight_decay_modes: how decay may enter; the first is meant when the user does not say. "in_update" leaves it
            to the function.
        counts_steps: whether the state has a `step`, the age of the parameter; true if the function asks for `step`.
        global_norms: how many norms over ALL the function takes.
        exact: options that do not go with a state that is rounded stochastically, to the reason.
        stability: states, numbers and options by name to (P, c): near a minimum the rule steps by lr·P⁻¹ times (a mean
            or sum of) the gradients, and is stable while the eigenvalues of P⁻¹·Hessian are below c/lr. None: unknown.
        arguments: the numbers that the function takes by keyword.
        flags: the options that the function takes by keyword.
        takes_norms: whether it takes `norm` by keyword: `norm(values, TENSOR)` or `norm(values, ALL)`.
    """

    name: str
    function: Callable[..., tuple[Any, ...]]
    state: Mapping[str, str | None]
    ranges: Mapping[str, Range]
    formula: str
    source: str
    weight_decay_modes: tuple[str, ...] = WEIGHT_DECAY_MODES
    counts_steps: bool = False
    global_norms: int = 0
    exact: Mapping[str, str] = field(default_factory=dict)
    stability: Callable[..., tuple[Any, Any]] | None = None
    arguments: tuple[str, ...] = field(init=False)
    flags: tuple[str, ...] = field(init=False)
    takes_norms: bool = field(init=False)

    def __post_init__(self) -> None:
        parameters = inspect.signature(self.function).parameters.values()
        named = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        numbers = [p.name for p in named if p.annotation is not bool and p.name != "norm"]
        object.__setattr__(self, "arguments", tuple(numbers))
        object.__setattr__(self, "takes_norms", any(p.name == "norm" for p in named))
        object.__setattr__(self, "flags", tuple(p.name for p in named if p.annotation is bool))
        object.__setattr__(self, "counts_steps", self.counts_steps or "step" in self.arguments)

    def check(self, owner: str, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError for the first hyperparameter of `group` outside its range."""
        for name, allowed in {"lr": NON_NEGATIVE, "weight_decay": NON_NEGATIVE, **self.ranges}.items():
            if f"{name.removesuffix('s')}1" in self.arguments:  # betas are beta1 and beta2 in a rule
                _check_pair(owner, name, group[name], allowed)
            else:
                allowed.check(owner, name, group[name])
        self.check_mode(owner, group)

    def check_mode(self, owner: str, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError when the rule does not know the decay mode of `group`; any other would be no decay."""
        mode = group["weight_decay_mode"]
        if mode not in self.weight_decay_modes:
            raise ArgumentError(
                f"{owner}: weight_decay_mode must be one of {', '.join(self.weight_decay_modes)}, got {mode!r}; "
                f"leave it out for {self.weight_decay_modes[0]!r}"
            )

    def stability_of(self, state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[Any, float] | None:
        """Return the diagonal of P, or 1, and the largest stable eigenvalue of P⁻¹·Hessian; None if none is declared.

        Args:
            state: of one parameter; KeyError if it lacks what the rule needs, as before a first step.
            group: the options.
        """
        if self.stability is None:
            return None
        given = {**group, **dict(zip(("beta1", "beta2"), group.get("betas", ()), strict=False))}
        wanted = inspect.signature(self.stability).parameters
        optional = {key for key, option in self.state.items() if option is not None and not group[option]}
        found = {
            name: None if name in optional else state[name] if name in self.state or name == "step" else given[name]
            for name in wanted
        }
        preconditioner, constant = self.stability(**found)
        lr = _float(group["lr"])
        return preconditioner, _float(constant) / lr if lr else math.inf

    def update_for(self, group: Mapping[str, Any], unscale: bool = False) -> "Update":
        """Return the update that the options of one parameter group ask for; `unscale` divides by a `grad_scale`."""
        state = tuple(key for key, option in self.state.items() if option is None or group[option])
        mode = group["weight_decay_mode"] if group["weight_decay"] else None
        around = [EMA] * (group.get("ema_decay") is not None) + [MASTER] * bool(group.get("master_weights"))
        return Update(
            rule=self,
            state=(*state, *around),
            flags=tuple((name, bool(group[name])) for name in self.flags),
            absent=tuple(
                name
                for name in self.arguments
                if group.get(name, 0) is None or (name == "weight_decay" and mode != "in_update")
            ),
            weight_decay_mode=mode,
            maximize=bool(group["maximize"]),
            unscale=unscale,
            clip_value=group.get("clip_grad_value") is not None,
            clip_norm=group.get("clip_grad_norm") is not None,
            round_param=bool(group.get("stochastic_rounding")),
            state_dtype=group.get("state_dtype"),
        )


def _check_pair(owner: str, name: str, values: Any, allowed: Range) -> None:
    if not isinstance(values, (tuple, list)) or len(values) != 2:
        raise ArgumentError(f"{owner}: {name} must be two numbers, got {name}={values!r}; pass (0.9, 0.999)")
    for index, value in enumerate(values):
        allowed.check(owner, f"{name}[{index}]", value)


@dataclass(frozen=True)
class Update:
    """One rule with its options settled: everything that happens to an element in a step.

    Called on numbers of any kind that `ops` knows, it is the only place where unscaling, clipping, decay,
    `maximize` and averaging are applied, so that every backend runs the same lines.
    """

    rule: Rule
    state: tuple[str, ...]
    flags: tuple[tuple[str, bool], ...]
    absent: tuple[str, ...]
    weight_decay_mode: str | None
    maximize: bool
    unscale: bool
    clip_value: bool
    clip_norm: bool
    round_param: bool
    state_dtype: Any

    @property
    def counts_steps(self) -> bool:
        """Whether the state has a `step`: the rule may need it, and the random numbers of rounding."""
        return self.rule.counts_steps or self.rounds

    @property
    def rounds(self) -> bool:
        """Whether anything that is written may be rounded stochastically."""
        return self.round_param or self.state_dtype is not None

    @property
    def scalars(self) -> tuple[str, ...]:
        """The names of the numbers that the update reads, in the order of a kernel's arguments."""
        extra = [name for name in self.rule.arguments if name not in self.absent]
        extra += {
            "l2": ["weight_decay"],
            "decoupled": ["weight_decay", "lr"],
            "independent": ["weight_decay", "relative_lr"],
        }.get(self.weight_decay_mode or "", [])
        extra += ["grad_scale"] * self.unscale
        extra += ["clip_grad_value"] * self.clip_value + ["clip_grad_norm"] * self.clip_norm
        extra += ["ema_decay"] * (EMA in self.state)
        return tuple(dict.fromkeys(extra))

    @property
    def global_norms(self) -> int:
        """How many norms over all parameters the update takes."""
        return int(self.clip_norm) + self.rule.global_norms

    def __call__(
        self, param: Any, grad: Any, state: Sequence[Any], scalars: Mapping[str, Any], norm: Norm
    ) -> tuple[Any, ...]:
        """Return the new parameter and the new states, in the order of `self.state`."""
        given = dict(zip(self.state, state, strict=True))
        param = given.get(MASTER, param)
        if self.unscale:
            grad = grad / scalars["grad_scale"]
        if self.maximize:
            grad = -grad
        if self.clip_value:
            limit = scalars["clip_grad_value"]
            grad = minimum(maximum(grad, -limit), limit)
        if self.clip_norm:
            grad = grad * minimum(scalars["clip_grad_norm"] / (norm(grad, ALL) + 1e-6), 1)
        if self.weight_decay_mode == "l2":
            grad = grad + scalars["weight_decay"] * param
        elif self.weight_decay_mode == "decoupled":
            param = param * (1 - scalars["lr"] * scalars["weight_decay"])
        elif self.weight_decay_mode == "independent":
            param = param * (1 - scalars["relative_lr"] * scalars["weight_decay"])
        keywords = {name: None if name in self.absent else scalars[name] for name in self.rule.arguments}
        if self.rule.takes_norms:
            keywords["norm"] = norm
        new_param, *new = self.rule.function(
            param, grad, *(given.get(key) for key in self.rule.state), **keywords, **dict(self.flags)
        )
        kept = [value for key, value in zip(self.rule.state, new, strict=True) if key in given]
        if EMA in given:
            decay = scalars["ema_decay"]
            kept.append(decay * given[EMA] + (1 - decay) * new_param)
        if MASTER in given:
            kept.append(new_param)  # the parameter is a copy of it, rounded where it is stored
        return new_param, *kept


def rule(
    *,
    state: Mapping[str, str | None],
    ranges: Mapping[str, Range],
    formula: str,
    source: str,
    weight_decay_modes: tuple[str, ...] = WEIGHT_DECAY_MODES,
    counts_steps: bool = False,
    global_norms: int = 0,
    exact: Mapping[str, str] | None = None,
    stability: Callable[..., tuple[Any, Any]] | None = None,
) -> Callable[[Callable[..., tuple[Any, ...]]], Rule]:
    """Declare the decorated function as an update rule; see `Rule` for the arguments.

    The function takes the parameter, the gradient and its states by position, and by keyword the numbers it needs:
    hyperparameters by their group name (`betas` arrives as `beta1` and `beta2`), `step` (1 at a parameter's first
    update) and `first` (true when the state was created in this step). A keyword annotated `bool` is an option,
    settled before the update runs, so that the function may branch on it; it may branch on a state being None too.
    """

    def declare(function: Callable[..., tuple[Any, ...]]) -> Rule:
        return Rule(
            function.__name__,
            function,
            dict(state),
            dict(ranges),
            formula,
            source,
            weight_decay_modes,
            counts_steps,
            global_norms,
            dict(exact or {}),
            stability,
        )

    return declare
