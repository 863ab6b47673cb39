"""Muon: momentum that is orthogonalized, for the matrices of hidden layers; AdamW updates the other parameters."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from fallline.arguments import is_number
from fallline.core.common_options import CommonOptions
from fallline.core.optimizer import Optimizer, Params, Scalar
from fallline.errors import ArgumentError, suggest
from fallline.group_values import number
from fallline.optimizers.adamw import adamw
from fallline.optimizers.orthogonal.rules import muon, normuon
from fallline.routing import ADAMW, ALGORITHMS, MUON, Route, Routed, Router, Routing
from fallline.rules.ranges import FRACTION
from fallline.rules.rule import Rule

ADAMW_LR = 3e-4  # the usual learning rate of AdamW beside Muon
NEURON = "neuron"
_CONVENTIONS = ("original", "match_rms_adamw")
_DTYPES = ("bfloat16", "float16", "float32", "float64")


class Muon(Optimizer):
    """Muon for the matrices of hidden layers, and AdamW for all other parameters, in one optimizer.

    Pass the model. Embeddings, the output layer, normalization parameters, biases and other vectors are updated by
    AdamW; `print(optimizer.routing)` lists the algorithm of each parameter with the reason, and `route` changes it.
    Given tensors or named parameters instead of the model, it decides by dimensions and names. The weight of a
    convolution is flattened to a matrix with a row for each output channel.

    Use when: the model is a transformer or another network of large matrices, and AdamW is tuned already. Tune lr and
        adamw_lr separately: 0.02 and 3e-4 are usual with adjust_lr_fn="original". With "match_rms_adamw", the lr and
        weight decay of AdamW are a good start for both. An update costs several products of matrices, which large
        batches hide.

    Args:
        params: the model, named parameters, parameters, or groups of them. A group can set `algorithm` to "muon" or
            "adamw" for all its parameters.
        lr: learning rate of the matrices, >= 0; a number or a one-element tensor.
        weight_decay: each step multiplies the parameter by 1 − lr·weight_decay.
        momentum: decay of the running mean of the gradient, >= 0.
        nesterov: look one step ahead with the momentum.
        ns_coefficients: the three coefficients of the Newton–Schulz iteration.
        eps: lower limit of the norm by which the momentum is divided.
        ns_steps: number of iterations, >= 1.
        adjust_lr_fn: the factor s, by the shape of the matrix: "original" (or None), √max(1, rows/columns), or
            "match_rms_adamw", 0.2·√max(rows, columns).
        adamw_lr: learning rate of the parameters that AdamW updates; None means 3e-4, or lr if that is smaller.
        adamw_betas: betas of AdamW, each in [0, 1).
        adamw_eps: eps of AdamW, >= 0.
        adamw_weight_decay: weight decay of the parameters that AdamW updates; None means `weight_decay`.
        model: the model, if `params` are its parameters or groups of them; its modules decide then too.
        route: maps names of parameters or modules to "muon" or "adamw", or is a function of name and parameter that
            returns one of them, or None for the default.
        split: maps names of parameters or modules to the number of matrices that are stacked along the first
            dimension, such as {"qkv": 3}. nn.MultiheadAttention, LSTM and GRU are split by default.
        norm: "neuron" divides each row of the step by its running root mean square, and keeps the norm of the step
            (NorMuon, Li et al. 2025, arXiv:2510.05491); it takes one more number of state for each row.
        norm_beta: decay of that running mean, in [0, 1).
        ns_dtype: dtype of the products: "bfloat16", "float16", "float32" or "float64".
        maximize, foreach, backend …: options of every optimizer, see `fallline.core.common_options.CommonOptions`.

    Raises:
        ArgumentError: a hyperparameter is out of range, or a name in `route` or `split` matches no parameter.
        GradientError: in `step`, a gradient is sparse or does not match its parameter.

    Example:
        >>> import torch, fallline as fl
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> print(fl.Muon(model, lr=0.02).routing)
        muon   0.weight (8×4): a matrix of Linear
        adamw  0.bias (8): a vector
        adamw  2.weight (2×8): the output layer
        adamw  2.bias (2): a vector
    """

    rule = muon

    def __init__(
        self,
        params: nn.Module | Params,
        lr: Scalar = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        adamw_lr: Scalar | None = None,
        adamw_betas: tuple[Scalar, Scalar] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float | None = None,
        model: nn.Module | None = None,
        route: Route | None = None,
        split: Mapping[str, int] | None = None,
        norm: str | None = None,
        norm_beta: float = 0.95,
        ns_dtype: str = "bfloat16",
        **options: Unpack[CommonOptions],
    ) -> None:
        self._router = Router(type(self).__name__, params if isinstance(params, nn.Module) else model, route, split)
        self._adamw = {
            "lr": _at_most(lr, ADAMW_LR) if adamw_lr is None else adamw_lr,
            "eps": adamw_eps,
            "weight_decay": weight_decay if adamw_weight_decay is None else adamw_weight_decay,
            "betas": adamw_betas,  # only its groups have them: torch's CyclicLR would cycle betas instead of momentum
        }
        self.routing = Routing()
        super().__init__(
            _named(params) if isinstance(params, nn.Module) else params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
            ns_dtype=ns_dtype,
            norm=norm,
            norm_beta=norm_beta,
            **options,
        )
        self._router.check_names([route.name for route in self.routing.routes])
        for group in (self.defaults, {**self.defaults, **self._adamw, "algorithm": ADAMW}):
            self.rule_of(group).check(type(self).__name__, group)  # also if no parameter uses them

    @classmethod
    def rule_of(cls, group: Mapping[str, Any]) -> Rule:
        """Return the rule of a group, by its `algorithm` and `norm`."""
        if group.get("algorithm") == ADAMW:
            return adamw
        return normuon if group.get("norm") == NEURON else cls.rule

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the parameters as one group for each algorithm, and for each number of blocks.

        A group can set `adamw_lr`, `adamw_betas`, `adamw_eps` and `adamw_weight_decay` for its parameters that AdamW
        updates. If it sets only `weight_decay`, that applies to both; if it sets only `lr`, the ratio to the default
        does. If the group has an `algorithm`, it is not divided, and its options apply as they are.
        """
        given = dict(param_group) if isinstance(param_group, Mapping) else {}
        own = self._adamw_options(given)
        members = _members(given.get("params"), len(self.routing.routes))
        if members is None:  # the base class raises the error that fits
            super().add_param_group(param_group)
            return
        told = given.get("algorithm")
        if told is None:
            routes = [self._router.decide(label, tensor) for label, tensor, _ in members]
            self._check_group({**self.defaults, **given})  # also if none of its parameters uses the options
        else:
            self._check_algorithm(told)
            routes = [_as_told(told, label, tensor, given.get("blocks", 1)) for label, tensor, _ in members]
        parts: dict[tuple[str, int], list[Any]] = {}
        for route, (_, _, member) in zip(routes, members, strict=True):
            parts.setdefault((route.algorithm, route.blocks), []).append(member)
        for (algorithm, blocks), params in (parts or {(told or MUON, 1): []}).items():  # a group may be empty
            options = given if algorithm == MUON else {**given, **own} if told is None else {**own, **given}
            if len(parts) > 1 and "name" in given:
                options = {**options, "name": f"{given['name']}, {algorithm}" + f", {blocks} blocks" * (blocks > 1)}
            super().add_param_group({**options, "params": params, "algorithm": algorithm, "blocks": blocks})
        self.routing.routes += routes

    def _adamw_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take the options of AdamW out of those of a group, and return them with the defaults of the others."""
        found = {"amsgrad": False, **self._adamw}
        if "weight_decay" in given:
            found["weight_decay"] = given["weight_decay"]
        if "lr" in given and is_number(given["lr"]) and is_number(found["lr"]) and is_number(self.defaults["lr"]):
            usual = self.defaults["lr"]
            found["lr"] = found["lr"] * (given["lr"] / usual) if usual else min(given["lr"], ADAMW_LR)
        return found | {key: given.pop(f"adamw_{key}") for key in self._adamw if f"adamw_{key}" in given}

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        name = type(self).__name__
        coefficients, steps = group["ns_coefficients"], group["ns_steps"]
        if not isinstance(coefficients, (tuple, list)) or len(coefficients) != 3:
            raise ArgumentError(
                f"{name}: ns_coefficients must be three numbers, got {coefficients!r}; leave them out for Muon's"
            )
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps < 100:
            raise ArgumentError(f"{name}: ns_steps must be an integer in [1, 100), got {steps!r}; leave it out for 5")
        if group["adjust_lr_fn"] not in (None, *_CONVENTIONS):
            raise ArgumentError(
                f"{name}: adjust_lr_fn must be one of {', '.join(_CONVENTIONS)} or None, got "
                f"{group['adjust_lr_fn']!r}; " + suggest(str(group["adjust_lr_fn"]), _CONVENTIONS, "leave it out")
            )
        FRACTION.check(name, "norm_beta", group["norm_beta"])  # also if no rule uses it
        if group["norm"] not in (None, NEURON):
            raise ArgumentError(f"{name}: norm must be {NEURON!r} or None, got {group['norm']!r}; leave it out")
        if group["ns_dtype"] not in _DTYPES:
            raise ArgumentError(
                f"{name}: ns_dtype must be one of {', '.join(_DTYPES)}, got {group['ns_dtype']!r}; leave it out for "
                "'bfloat16'"
            )

    def _check_algorithm(self, algorithm: Any) -> None:
        if algorithm not in ALGORITHMS:
            raise ArgumentError(
                f"{type(self).__name__}: algorithm must be {' or '.join(map(repr, ALGORITHMS))}, got {algorithm!r}; "
                "leave it out to decide for each parameter"
            )

    def __getstate__(self) -> dict[str, Any]:
        kept = {"routing": self.routing, "_adamw": self._adamw, "_router": self._router.without_model()}
        return {**super().__getstate__(), **kept}


def _named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, param) for name, param in model.named_parameters() if param.requires_grad]


def _at_most(lr: Any, limit: float) -> Any:
    try:
        return lr if number(lr) <= limit else limit
    except (TypeError, ValueError, RuntimeError):  # no number, which the check of the options reports
        return lr


def _members(params: Any, count: int) -> list[tuple[str, torch.Tensor, Any]] | None:
    """Return name, tensor and the entry itself of every parameter of a group; None if one of them is invalid."""
    if isinstance(params, torch.Tensor):
        params = [params]
    if isinstance(params, (set, frozenset, str)) or not isinstance(params, Iterable):
        return None
    found = []
    for index, entry in enumerate(params):
        name, tensor = entry if isinstance(entry, tuple) and len(entry) == 2 else (f"parameter {count + index}", entry)
        if not isinstance(tensor, torch.Tensor):
            return None
        found.append((str(name), tensor, entry))
    return found


def _as_told(algorithm: str, name: str, param: torch.Tensor, blocks: int) -> Routed:
    return Routed(name, tuple(param.shape), algorithm, "chosen by its group", blocks)
