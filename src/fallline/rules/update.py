"""The complete update of a parameter: a rule surrounded by unscaling, clipping, weight decay and averaging."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fallline.rules.ops import maximum, minimum, sign, sqrt
from fallline.rules.rule import (
    ALL,
    EMA,
    INT8,
    MASTER,
    MULTIPLYING_MODES,
    REMAINDER_BITS,
    TENSOR,
    Norm,
    Rule,
)


@dataclass(frozen=True)
class Update:
    """A rule with fixed options: everything that happens to an element of a parameter in a step.

    It can be called on all kinds of values that `ops` supports. Unscaling, clipping, decay, `maximize` and averaging
    are applied only here, so that every backend runs the same code.
    """

    rule: Rule
    state: tuple[str, ...]
    flags: tuple[tuple[str, Any], ...]
    absent: tuple[str, ...]
    weight_decay_mode: str | None
    maximize: bool
    unscale: bool
    clip_value: bool
    clip_norm: bool
    cautious: bool
    cautious_weight_decay: bool
    round_param: bool
    state_dtype: Any
    remainder_bits: int | None

    @property
    def counts_steps(self) -> bool:
        """Whether the state has a `step`, which some rules and the random numbers of stochastic rounding need."""
        return self.rule.counts_steps or self.rounds

    @property
    def rounds(self) -> bool:
        """Whether the parameter or its state may be rounded stochastically."""
        return self.round_param or self.state_dtype is not None

    @property
    def in_blocks(self) -> tuple[str, ...]:
        """The states that are stored in 8 bits; copies and averages of the parameter are not."""
        exact = (EMA, MASTER, *self.rule.copies)
        return tuple(key for key in self.state if key not in exact) if self.state_dtype == INT8 else ()

    @property
    def stored(self) -> tuple[str, ...]:
        """The keys under which the states are stored: for states in blocks, those of their codes."""
        return tuple(codes_key(key) if key in self.in_blocks else key for key in self.state)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The keys of all tensors of the state: `stored`, then the scales of the states in blocks."""
        return (*self.stored, *map(scale_key, self.in_blocks))

    @property
    def scalars(self) -> tuple[str, ...]:
        """The names of the numbers that the update reads, in the order of a kernel's arguments."""
        wanted = dict.fromkeys((*self.rule.arguments, *self.rule.summand_arguments))
        extra = [name for name in wanted if name not in self.absent and name not in self.rule.flags]
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
        """The number of norms over all parameters that the update needs."""
        return int(self.clip_norm) + 2 * len(self.rule.sums) + self.rule.global_norms

    def sums(self, norms: Sequence[float]) -> dict[str, float]:
        """Return the sums that the rule has declared, from the norms over all parameters."""
        parts = norms[int(self.clip_norm) :]
        return {name: parts[2 * k] ** 2 - parts[2 * k + 1] ** 2 for k, name in enumerate(self.rule.sums)}

    def of_states(self, keys: Collection[str]) -> "Update":
        """Return the update of parameters that have only these of the rule's states; see `Rule.state_shapes`."""
        kept = tuple(key for key in self.state if key in keys or key in (EMA, MASTER))
        return self if kept == self.state else replace(self, state=kept)

    def __call__(
        self, param: Any, grad: Any, state: Sequence[Any], scalars: Mapping[str, Any], norm: Norm
    ) -> tuple[Any, ...]:
        """Return the new parameter and the new states, in the order of `self.state`."""
        given = dict(zip(self.state, state, strict=True))
        undecayed = param = given.get(MASTER, param)
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
        elif self._multiplies and not self.cautious_weight_decay:
            param = param * (1 - self._decay(scalars))
        states, flags = [given.get(key) for key in self.rule.state], dict(self.flags)
        if self.rule.summands is not None:
            known = flags | {name: scalars[name] for name in self.scalars} | dict.fromkeys(self.absent)
            wanted = {name: known[name] for name in self.rule.summand_arguments}
            for summand in self.rule.summands(param, grad, *states, **wanted):
                for part in (summand, -summand):  # backends sum squares only
                    norm(sqrt(maximum(part, 0.0)), ALL)
        keywords = {name: None if name in self.absent else scalars[name] for name in self.rule.arguments}
        if self.rule.takes_norms:
            keywords["norm"] = norm
        if self.rule.takes_undecayed:
            keywords["undecayed"] = undecayed
        new_param, *new = self.rule.function(param, grad, *states, **keywords, **flags)
        if self.cautious:
            new_param = param + cautious_step(new_param - param, grad, norm)
        if self._multiplies and self.cautious_weight_decay:
            new_param = new_param - self._decay(scalars) * (param * inward(new_param - param, param))
        kept = [value for key, value in zip(self.rule.state, new, strict=True) if key in given]
        if EMA in given:
            decay = scalars["ema_decay"]
            kept.append(decay * given[EMA] + (1 - decay) * new_param)
        if MASTER in given:
            kept.append(new_param)  # the parameter is a copy of it, rounded when it is stored
        return new_param, *kept

    @property
    def _multiplies(self) -> bool:
        """Whether weight decay multiplies the parameter."""
        return self.weight_decay_mode in MULTIPLYING_MODES

    def _decay(self, scalars: Mapping[str, Any]) -> Any:
        """Return the fraction of the parameter that a step removes."""
        rate = "lr" if self.weight_decay_mode == "decoupled" else "relative_lr"
        return scalars[rate] * scalars["weight_decay"]


def codes_key(key: str) -> str:
    """Return the key of the codes of a state that is stored in blocks."""
    return f"{key}_codes"


def is_codes(key: Any) -> bool:
    """Return whether a key of a state is that of codes."""
    return isinstance(key, str) and key.endswith(codes_key(""))


def scale_key(key: str) -> str:
    """Return the key of the scales of a state that is stored in blocks."""
    return f"{key}_scale"


def cautious_step(step: Any, grad: Any, norm: Norm) -> Any:
    """Return the elements of a step that have the direction of −grad, divided by their share, and 0 for the others.

    Liang et al. 2024, arXiv:2411.16085, algorithm 1, with the scale of the authors' code: the share counts as at least
    0.001.
    """
    agrees = maximum(-sign(step) * sign(grad), 0.0)
    differs = 1 - agrees
    agreeing, differing = norm(agrees, TENSOR) ** 2, norm(differs, TENSOR) ** 2
    return step * agrees / maximum(agreeing / (agreeing + differing), 1e-3)


def inward(step: Any, param: Any) -> Any:
    """Return 0 where a step leads away from 0, and 1 elsewhere (Chen et al. 2025, arXiv:2510.12402, equation 2)."""
    return 1 - maximum(sign(step) * sign(param), 0.0)


def update_for(rule: Rule, group: Mapping[str, Any], unscale: bool = False) -> Update:
    """Return the update of a rule under the options of one parameter group; `unscale` divides by a `grad_scale`."""
    state = tuple(key for key, option in rule.state.items() if option is None or group[option])
    mode = group["weight_decay_mode"] if group["weight_decay"] else None
    around = [EMA] * (group.get("ema_decay") is not None) + [MASTER] * bool(group.get("master_weights"))
    return Update(
        rule=rule,
        state=(*state, *around),
        flags=tuple(
            (name, kind(group[name]) if kind in (bool, tuple) else group[name]) for name, kind in rule.flags.items()
        ),
        absent=tuple(
            name
            for name in dict.fromkeys((*rule.arguments, *rule.summand_arguments))
            if group.get(name, 0) is None or (name == "weight_decay" and mode != "in_update")
        ),
        weight_decay_mode=mode,
        maximize=bool(group["maximize"]),
        unscale=unscale,
        clip_value=group.get("clip_grad_value") is not None,
        clip_norm=group.get("clip_grad_norm") is not None,
        cautious=bool(group.get("cautious")),
        cautious_weight_decay=bool(group.get("cautious_weight_decay")),
        round_param=bool(group.get("stochastic_rounding")),
        state_dtype=group.get("state_dtype"),
        remainder_bits=REMAINDER_BITS.get(group.get("master_weights", False)),
    )
