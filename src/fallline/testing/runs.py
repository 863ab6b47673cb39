"""The option sets with which an optimizer is tested, derived from its signature, and short runs of it."""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fallline.core.optimizer import Optimizer
from fallline.errors import ArgumentError, ArgumentTypeError

Options = dict[str, Any]

# Arguments that do not change what a step computes.
EXECUTION = {"params", "backend", "foreach", "fused", "capturable", "differentiable"}
COUPLING = {"clip_grad_norm"}  # makes parameters depend on the gradients of others; tested separately
MASKING = {"cautious", "cautious_weight_decay"}  # a sign that rounding turns changes the result; tested separately
# Options for some dtypes and in some combinations only; tested separately.
ROUNDED = {"state_dtype", "master_weights", "stochastic_rounding", "rounding_seed"}
NEEDS: dict[str, Options] = {
    "nesterov": {"momentum": 0.9, "dampening": 0},
    "dampening": {"momentum": 0.9},
    "decoupled_weight_decay": {"weight_decay": 0.1},
    "no_prox": {"weight_decay": 0.1},
}
# Values of numbers whose default is 0 or None, where 0.5 does nothing.
VALUES: dict[str, float] = {"warmup_steps": 8, "beta3_warmup": 8, "alpha_warmup": 8}
BACKENDS = ("fused", "foreach", "reference")
REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Tolerances for the same update with another order of operations, relative to the largest element of the tensor. The
# measured differences over 6 steps are 2.2e-6 in float32 and 8.0e-16 in float64; half precision may differ by one ulp.
ROUNDING = {torch.float32: 8e-6, torch.float64: 2e-14, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def variants(cls: type[Optimizer]) -> dict[str, Options]:
    """Return option sets by name: the defaults, each option on its own, and all compatible options together."""
    found: dict[str, Options] = {"default": {}}
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default
        if name in EXECUTION | COUPLING | MASKING | ROUNDED:
            continue
        if name == "weight_decay_mode":
            found |= {mode: {"weight_decay": 0.1, name: mode} for mode in cls.rule.weight_decay_modes}
        elif default is None:
            found[name] = {name: VALUES.get(name, 0.5)}
        elif default is False:
            found[name] = {**NEEDS.get(name, {}), name: True}
        elif isinstance(default, (int, float)) and default == 0 and name != "weight_decay":
            found[name] = {**NEEDS.get(name, {}), name: VALUES.get(name, 0.5)}
    found = {name: options for name, options in found.items() if accepts(cls, options)}
    everything: Options = {}
    for options in found.values():
        merged = {**options, **everything}
        everything = merged if accepts(cls, merged) else everything
    return {**found, "everything": everything}


def accepts(cls: type[Optimizer], options: Options, dtype: torch.dtype = torch.float32) -> bool:
    """Return whether an optimizer can be built with these options, for parameters of a dtype."""
    try:
        cls([parameter(dtype=dtype)], **options)
    except (ArgumentError, ArgumentTypeError):
        return False
    return True


def parameter(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    """Return a parameter with normally distributed values."""
    return torch.nn.Parameter(normal(*shape, seed=seed, dtype=dtype))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return normally distributed values, which are the same for every dtype up to rounding."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def set_grads(params: Iterable[torch.Tensor], step: int) -> None:
    """Set a gradient for every parameter that depends only on the step and the index of the parameter."""
    for index, param in enumerate(params):
        param.grad = normal(*param.shape, seed=1000 * step + index + 1, dtype=param.dtype)


def train(opt: torch.optim.Optimizer, steps: Iterable[int]) -> list[torch.Tensor]:
    """Run `steps` with the gradients of `set_grads`, and return copies of the parameters."""
    params = [p for group in opt.param_groups for p in group["params"]]
    for step in steps:
        set_grads(params, step)
        opt.step()
    return [p.detach().clone() for p in params]


def state_of(opt: torch.optim.Optimizer) -> list[dict[str, torch.Tensor]]:
    """Return copies of the states, in the order of the parameters."""
    params = [p for group in opt.param_groups for p in group["params"]]
    return [{k: v.detach().clone() for k, v in opt.state[p].items() if v is not None} for p in params]


def same_bits(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    """Return whether two lists of tensors are bit-for-bit identical (NaN equals NaN)."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))
        for a, b in zip(one, other, strict=True)
    )


def same_state(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> bool:
    """Return whether the states of two optimizers are bit-for-bit identical."""
    pairs = zip(state_of(one), state_of(other), strict=True)
    return all(a.keys() == b.keys() and same_bits(list(a.values()), [b[k] for k in a]) for a, b in pairs)


def distance(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Return the largest difference relative to the largest element of its tensor; Inf if only one value is finite."""
    return max((_distance(a.detach(), b.detach()) for a, b in zip(one, other, strict=True)), default=0.0)


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.to(torch.complex128), b.to(torch.complex128)
    if not torch.equal(a.isfinite(), b.isfinite()):
        return float("inf")
    a, b = a[a.isfinite()], b[b.isfinite()]
    return ((a - b).abs().max() / a.abs().max().clamp(min=1e-30)).item() if a.numel() else 0.0


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return real.contiguous().view(torch.uint8) if real.dim() else real.reshape(1).view(torch.uint8)
