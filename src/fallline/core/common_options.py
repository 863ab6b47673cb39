"""The options that all optimizers share, each declared once with its type, default and description."""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, get_args, get_origin, get_type_hints

import torch
from typing_extensions import Unpack  # typing has it from Python 3.11 on; torch depends on typing_extensions

from fallline.rules.rule import Rule


@dataclass(frozen=True)
class Default:
    """The default value of an option."""

    value: Any


class TorchFlags(TypedDict, total=False):
    """The keywords that most PyTorch optimizers share; see `CommonOptions`."""

    maximize: Annotated[bool, Default(False)]
    foreach: Annotated[bool | None, Default(None)]
    capturable: Annotated[bool, Default(False)]
    differentiable: Annotated[bool, Default(False)]
    fused: Annotated[bool | None, Default(None)]


class ExtraOptions(TypedDict, total=False):
    """The keywords that all Fallline optimizers accept and PyTorch's do not; see `CommonOptions`."""

    weight_decay_mode: str  # the default is the first mode of the rule
    clip_grad_norm: Annotated[float | None, Default(None)]
    clip_grad_value: Annotated[float | None, Default(None)]
    ema_decay: Annotated[float | None, Default(None)]
    cautious: Annotated[bool, Default(False)]
    cautious_weight_decay: Annotated[bool, Default(False)]
    state_dtype: Annotated[torch.dtype | str | None, Default(None)]
    master_weights: Annotated[bool | str, Default(False)]
    stochastic_rounding: Annotated[bool, Default(False)]
    rounding_seed: Annotated[int, Default(0)]
    backend: Annotated[str, Default("auto")]


class CommonOptions(TorchFlags, ExtraOptions, total=False):
    """The keywords that every optimizer accepts besides its own hyperparameters.

    A constructor takes them as `**options: Unpack[CommonOptions]` and passes them on to `Optimizer.__init__`. If the
    optimizer of the same name in `torch.optim` has other flags, or has them in another position, the class declares the
    flags itself and takes `Unpack[ExtraOptions]`. A group can set its own values, except of `clip_grad_norm` and
    `backend`.

    Args:
        maximize: maximize the objective instead of minimizing it.
        foreach: PyTorch's flag; True selects the foreach backend, False the reference backend.
        capturable: PyTorch's flag for CUDA graphs; only False is supported.
        differentiable: let autograd record the step; selects the reference backend.
        fused: PyTorch's flag; True selects the fused backend, False the reference backend.
        weight_decay_mode: "l2" adds weight_decay·param to the gradient; "decoupled" multiplies the parameter by
            1 − lr·weight_decay; "independent" by 1 − weight_decay·lr/lr0, where lr0 is the rate before any schedule.
        clip_grad_norm: scale all gradients so that their total norm is at most this value. The attribute `grad_norm`
            holds the norm before clipping.
        clip_grad_value: clamp every element of the gradients to [−value, value], before the norm is computed.
        ema_decay: keep averages of the parameters, e = d·e + (1 − d)·param after each step; see `ema_weights`.
        cautious: move only the elements whose update has the direction of the negative gradient, and scale their
            updates up by their share of the elements of the tensor, at most 1,000 times (Liang et al. 2024,
            arXiv:2411.16085).
        cautious_weight_decay: decay only the elements that the update does not move away from 0 (Chen et al. 2025,
            arXiv:2510.12402); weight_decay_mode must be "decoupled" or "independent".
        state_dtype: dtype of new state, or its name. torch.bfloat16 halves its size and is rounded stochastically;
            averages of the parameters, and states of other shapes, keep their dtype. None means the dtype of the
            parameter, but float32 for half precision. "int8" stores states in 8 bits per element and a float32 scale
            per 256 elements, rounded stochastically: `state[param]` then has `…_codes` and `…_scale`; see
            `state_as_numbers`. It is for optimizers that update every element on its own.
        master_weights: keep float32 copies of bfloat16 or float16 parameters in the state. Updates and decay apply to
            them, and the parameter is their copy, rounded to nearest. Any other write to the parameter is lost.
            "split32" and "split24" keep no copies, but the 16 or 8 bits that a bfloat16 parameter lacks.
        stochastic_rounding: round bfloat16 parameters so that updates below half an ulp are correct on average.
        rounding_seed: random numbers depend only on this seed, the index of the parameter, its step and the element.
        backend: "auto" (fused on CPU, foreach elsewhere), "fused", "foreach", "compile" or "reference"; PyTorch's flags
            take effect only under "auto".
    """


def expand_signature(init: Callable[..., Any], rule: Rule | None) -> inspect.Signature | None:
    """Return the signature of a constructor with `**options: Unpack[...]` expanded to single keywords.

    Args:
        init: the constructor.
        rule: the update rule; its first weight decay mode is the default of `weight_decay_mode`.

    Returns:
        The signature, or None if the constructor does not take such options.
    """
    signature = inspect.signature(init)
    parameters = list(signature.parameters.values())
    last = parameters[-1]
    options = _unpacked(last.annotation, init) if last.kind is last.VAR_KEYWORD else None
    return None if options is None else signature.replace(parameters=[*parameters[:-1], *_keywords(options, rule)])


def _unpacked(annotation: Any, init: Callable[..., Any]) -> Any:
    """Return the TypedDict in `Unpack[TypedDict]`, or None for another annotation."""
    if isinstance(annotation, str):  # the module has `from __future__ import annotations`
        try:
            annotation = eval(annotation, getattr(init, "__globals__", {}))
        except Exception:  # a name that is imported for type checkers only
            return None
    return get_args(annotation)[0] if get_origin(annotation) is Unpack else None


def _keywords(options: Any, rule: Rule | None) -> Iterator[inspect.Parameter]:
    """Yield the entries of a TypedDict as keyword-only parameters."""
    defaults = defaults_of(options) | ({} if rule is None else {"weight_decay_mode": rule.weight_decay_modes[0]})
    for name, kind in get_type_hints(options).items():
        default = defaults.get(name, inspect.Parameter.empty)
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def defaults_of(options: Any) -> dict[str, Any]:
    """Return the defaults that a TypedDict of options declares.

    Example:
        >>> defaults_of(TorchFlags)
        {'maximize': False, 'foreach': None, 'capturable': False, 'differentiable': False, 'fused': None}
    """
    declared = get_type_hints(options, include_extras=True).items()
    return {
        name: note.value
        for name, hint in declared
        for note in getattr(hint, "__metadata__", ())
        if isinstance(note, Default)
    }
