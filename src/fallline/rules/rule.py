"""The declaration of an update rule: its function, state, hyperparameters and their ranges."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fallline.arguments import real_number
from fallline.errors import ArgumentError
from fallline.rules.ranges import NON_NEGATIVE, Range, several

WEIGHT_DECAY_MODES = ("l2", "decoupled", "independent")
MULTIPLYING_MODES = ("decoupled", "independent")  # the modes in which decay multiplies the parameter
ALL, TENSOR = "all", "tensor"  # scope of a norm: all parameters of all groups, or a single parameter
EMA = "ema"  # the state key of averaged parameters
MASTER = "master"  # the state key of the float32 master weights of half-precision parameters, or of what they lack
INT8 = "int8"  # the value of `state_dtype` for states of 8 bits in blocks
BLOCK = 256  # elements of a block, which share a scale
REMAINDER_BITS = {"split24": 8, "split32": 16}  # what bfloat16 parameters lack, by value of `master_weights`

_FLAGS = (bool, int, str, tuple)  # annotations of options that select what the function computes
_VALUES = {"norm": "takes_norms", "undecayed": "takes_undecayed"}  # keywords of a function that are no numbers

Norm = Callable[[Any, str], Any]  # (values, ALL or TENSOR) -> the Euclidean norm


@dataclass(frozen=True, eq=False)
class Rule:
    """An update rule: a pure function of numbers, with a declaration of its state and hyperparameters.

    Attributes:
        name: lower-case name, as in `fallline.create_optimizer`.
        function: `(param, grad, *state, **hyperparameters) -> (param, *state)`.
        state: maps each state key to the option that must be truthy for the state to exist (None: it always exists).
        ranges: maps each hyperparameter (as in a parameter group) to its range.
        formula: the update in one line, for readers.
        source: the publication of the rule.
        weight_decay_modes: supported weight decay modes; the first is the default. In the mode "in_update", the
            function applies the decay.
        whole: whether the function needs whole tensors, such as for products of matrices, and not single elements.
        counts_steps: whether the state has a `step`, the age of the parameter; true if the function takes `step`.
        global_norms: the number of norms over ALL that the function computes.
        exact: maps each option that cannot be combined with stochastically rounded state to the reason.
        stability: function of states, numbers and options (by name) that returns (P, c). Near a minimum the rule steps
            by lr·P⁻¹ times (a mean or sum of) the gradients, and it is stable while the eigenvalues of P⁻¹·Hessian are
            below c/lr. None: unknown.
        scalar_state: maps each number in the state of a parameter, besides `step`, to its initial value, such as
            NAdam's product of momenta. The function takes them by keyword.
        advance: function `(*scalar_state, **numbers) -> tuple` of plain numbers that returns the values of
            `scalar_state` after a step; it takes the hyperparameters and `step` that it needs by keyword. It is called
            before the update, so the function gets the new values.
        copies: the state keys that start as copies of the parameter instead of zeros.
        non_negative: the state keys whose values are never below 0, such as second moments. With state_dtype="int8"
            they keep a larger range and never become 0.
        sums: the names of sums over all elements of all parameters that `adapt` takes.
        summands: function `(param, grad, *state, **numbers) -> tuple` of the elements that are summed, one for each of
            `sums`. It takes the numbers and flags that it needs by keyword.
        group_state: the names of numbers that the groups keep, such as Prodigy's estimate of the distance. They are
            hyperparameters too, whose first values the constructor sets.
        adapt: function `(*group_state, **numbers) -> tuple` of plain numbers that returns the values of `group_state`
            after a step; it takes hyperparameters and `sums` by keyword. `function` gets both, as `d` and `next_d`.
        shapes: function `(shape, **options) -> dict` of the shape of a parameter, and of the options that it takes by
            keyword. It returns the shapes of the states that have another shape than the parameter, and None for a
            state that a parameter of this shape does not have. None: all states have the shape of the parameter.
        steps: the state keys that hold multiples of past steps, which depend on lr.
        arguments: the numbers that the function takes by keyword.
        flags: the options that the function takes by keyword whose values are known before the update runs, with their
            types.
        takes_norms: whether the function takes `norm` by keyword: `norm(values, TENSOR)` or `norm(values, ALL)`.
        takes_undecayed: whether the function takes `undecayed` by keyword: the parameter before weight decay.
        lengths: the hyperparameters that are several numbers, such as `betas`, with their count. The function takes
            them as beta1, beta2 and so on.
    """

    name: str
    function: Callable[..., tuple[Any, ...]]
    state: Mapping[str, str | None]
    ranges: Mapping[str, Range]
    formula: str
    source: str
    weight_decay_modes: tuple[str, ...] = WEIGHT_DECAY_MODES
    whole: bool = False
    counts_steps: bool = False
    global_norms: int = 0
    exact: Mapping[str, str] = field(default_factory=dict)
    stability: Callable[..., tuple[Any, Any]] | None = None
    scalar_state: Mapping[str, float] = field(default_factory=dict)
    advance: Callable[..., tuple[float, ...]] | None = None
    copies: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    summands: Callable[..., tuple[Any, ...]] | None = None
    group_state: tuple[str, ...] = ()
    adapt: Callable[..., tuple[float, ...]] | None = None
    shapes: Callable[..., Mapping[str, tuple[int, ...] | None]] | None = None
    steps: tuple[str, ...] = ()
    non_negative: tuple[str, ...] = ()
    summand_arguments: tuple[str, ...] = field(init=False)
    advance_arguments: tuple[str, ...] = field(init=False)
    arguments: tuple[str, ...] = field(init=False)
    flags: Mapping[str, type] = field(init=False)
    takes_norms: bool = field(init=False)
    lengths: Mapping[str, int] = field(init=False)
    takes_undecayed: bool = field(init=False)

    def __post_init__(self) -> None:
        for name, keys in (("copies", self.copies), ("non_negative", self.non_negative), ("steps", self.steps)):
            if unknown := [key for key in keys if key not in self.state]:
                raise ArgumentError(
                    f"rule {self.name}: {name} must be among the keys of state ({', '.join(self.state)}), got "
                    f"{unknown[0]!r}; correct its name"
                )
        parameters = inspect.signature(self.function).parameters.values()
        named = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        flags = {p.name: p.annotation for p in named if p.annotation in _FLAGS}
        numbers = [p.name for p in named if p.name not in flags and p.name not in _VALUES]
        object.__setattr__(self, "arguments", tuple(numbers))
        for name, attribute in _VALUES.items():
            object.__setattr__(self, attribute, any(p.name == name for p in named))
        object.__setattr__(self, "flags", flags)
        parts = {name: [f"{name.removesuffix('s')}{i}" for i in range(1, 10)] for name in self.ranges}
        used = {
            name: [i for i, part in enumerate(own, 1) if part in numbers and part not in self.ranges]
            for name, own in parts.items()
        }
        object.__setattr__(self, "lengths", {name: max(2, *indices) for name, indices in used.items() if indices})
        counts_steps = self.counts_steps or "step" in self.arguments or bool(self.scalar_state)
        object.__setattr__(self, "counts_steps", counts_steps)
        object.__setattr__(self, "summand_arguments", _keywords_of(self.summands))
        after = [] if self.advance is None else [*inspect.signature(self.advance).parameters][len(self.scalar_state) :]
        object.__setattr__(self, "advance_arguments", tuple(after))

    def check(self, owner: str, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError for the first hyperparameter of `group` that is out of range."""
        for name, allowed in {"lr": NON_NEGATIVE, "weight_decay": NON_NEGATIVE, **self.ranges}.items():
            if name in self.lengths:
                for index, value in enumerate(several(owner, name, group[name], self.lengths[name])):
                    allowed.check(owner, f"{name}[{index}]", value)
            else:
                allowed.check(owner, name, group[name])
        self.check_mode(owner, group)

    def check_mode(self, owner: str, group: Mapping[str, Any]) -> None:
        """Raise ArgumentError if the decay mode of `group` is unknown; otherwise there would silently be no decay."""
        mode = group["weight_decay_mode"]
        if mode not in self.weight_decay_modes:
            raise ArgumentError(
                f"{owner}: weight_decay_mode must be one of {', '.join(self.weight_decay_modes)}, got {mode!r}; "
                f"leave it out for {self.weight_decay_modes[0]!r}"
            )

    def next_scalars(self, scalars: Mapping[str, float], numbers: Mapping[str, Any]) -> dict[str, float]:
        """Return the values of `scalar_state` after a step, from those before it and the numbers of the step."""
        if self.advance is None:
            return {}
        keywords = {name: real_number(numbers[name]) for name in self.advance_arguments}
        new = self.advance(*(scalars[key] for key in self.scalar_state), **keywords)
        return dict(zip(self.scalar_state, new, strict=True))

    def adapted(self, numbers: Mapping[str, Any], sums: Mapping[str, float]) -> dict[str, float]:
        """Return the values of `group_state` after a step, from the numbers of the step and the sums."""
        if self.adapt is None:
            return {}
        known = {**numbers, **sums}
        now = (real_number(numbers[name]) for name in self.group_state)
        new = self.adapt(*now, **{name: _plain(known[name]) for name in _keywords_of(self.adapt)})
        return dict(zip(self.group_state, new, strict=True))

    def state_shapes(self, shape: Sequence[int], group: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the shape of every state that a parameter has, by its key.

        Args:
            shape: shape of the parameter.
            group: options of its group.
        """
        own = self.own_shapes(shape, group)
        present = [key for key, option in self.state.items() if option is None or group[option]]
        shapes = {key: own.get(key, tuple(shape)) for key in present}
        return {key: found for key, found in shapes.items() if found is not None}

    def own_shapes(self, shape: Sequence[int], group: Mapping[str, Any]) -> Mapping[str, tuple[int, ...] | None]:
        """Return the states that do not have the shape of the parameter, as `shapes` declares them."""
        if self.shapes is None:
            return {}
        options = [*inspect.signature(self.shapes).parameters][1:]
        return self.shapes(tuple(shape), **{option: group[option] for option in options})

    def stability_of(self, state: Mapping[str, Any], group: Mapping[str, Any]) -> tuple[Any, float] | None:
        """Return the diagonal of P (or 1) and the largest stable eigenvalue of P⁻¹·Hessian; None without `stability`.

        Args:
            state: state of one parameter.
            group: options of its group.

        Raises:
            KeyError: the state lacks a key that the rule needs, for example before the first step.
        """
        if self.stability is None:
            return None
        given = {**group, **{f"beta{i}": beta for i, beta in enumerate(group.get("betas", ()), start=1)}}
        wanted = inspect.signature(self.stability).parameters
        optional = {key for key, option in self.state.items() if option is not None and not group[option]}
        own = {*self.state, *self.scalar_state, "step"}
        found = {name: None if name in optional else state[name] if name in own else given[name] for name in wanted}
        preconditioner, constant = self.stability(**found)
        lr = real_number(group["lr"])
        return preconditioner, real_number(constant) / lr if lr else math.inf


def _keywords_of(function: Callable[..., Any] | None) -> tuple[str, ...]:
    """Return the names of the keyword-only parameters of a function."""
    parameters = () if function is None else inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


def _plain(value: Any) -> float | None:
    return None if value is None else real_number(value)


def rule(
    *,
    state: Mapping[str, str | None],
    ranges: Mapping[str, Range],
    formula: str,
    source: str,
    weight_decay_modes: tuple[str, ...] = WEIGHT_DECAY_MODES,
    whole: bool = False,
    counts_steps: bool = False,
    global_norms: int = 0,
    exact: Mapping[str, str] | None = None,
    stability: Callable[..., tuple[Any, Any]] | None = None,
    scalar_state: Mapping[str, float] | None = None,
    advance: Callable[..., tuple[float, ...]] | None = None,
    copies: tuple[str, ...] = (),
    sums: tuple[str, ...] = (),
    summands: Callable[..., tuple[Any, ...]] | None = None,
    group_state: tuple[str, ...] = (),
    adapt: Callable[..., tuple[float, ...]] | None = None,
    shapes: Callable[..., Mapping[str, tuple[int, ...] | None]] | None = None,
    steps: tuple[str, ...] = (),
    non_negative: tuple[str, ...] = (),
) -> Callable[[Callable[..., tuple[Any, ...]]], Rule]:
    """Declare the decorated function as an update rule; see `Rule` for the arguments.

    The function takes the parameter, the gradient and its states by position, and the numbers that it needs by keyword:
    hyperparameters by their name in the group (`betas` is passed as `beta1`, `beta2` and so on), `step` (1 in the first
    update of a parameter), `first` (true if the state was created in this step) and the numbers of `scalar_state`. A
    keyword annotated with bool, int, str or tuple is an option whose value is known before the update runs, so the
    function may branch on it. It may also branch on whether a state or an optional number is None.
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
            whole,
            counts_steps,
            global_norms,
            dict(exact or {}),
            stability,
            dict(scalar_state or {}),
            advance,
            copies,
            sums,
            summands,
            group_state,
            adapt,
            shapes,
            steps,
            non_negative,
        )

    return declare
