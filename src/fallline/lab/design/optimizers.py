"""The optimizers that a study can name, with their search spaces: Fallline's, SAM around any, and the user's."""

import functools
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from fallline.errors import ArgumentError, find_name, suggest
from fallline.lab.design.spaces import SPACES, Dimension, Space, derived
from fallline.lab.user_code.import_path import is_path, load_object
from fallline.optimizers import OPTIMIZERS, create_optimizer
from fallline.sam import SAM

# SAM's rho has the units of the parameters; ASAM's is relative to them and about ten times as large (Kwon et al. 2021).
_RHO = {
    "sam": (Dimension("rho", "rho", 1e-2, 0.5), 0.05),
    "asam": (Dimension("rho", "rho", 1e-1, 5.0), 0.5),
}
_UNKNOWN_LR = 1e-3  # centre of the search range if the class has no default learning rate


def build_optimizer(
    name: str, params: Any, *, model: torch.nn.Module | None = None, **options: Any
) -> torch.optim.Optimizer:
    """Construct an optimizer from its name in a study: "adamw", "sam(sgd)", "torch.optim:NAdam", "my_file.py:Mine".

    `model` is for optimizers that treat the parameters of different modules differently, such as Muon.

    Example:
        >>> opt = build_optimizer("sam(sgd)", [torch.nn.Parameter(torch.zeros(2))], lr=0.1, rho=0.05)
        >>> type(opt).__name__, opt.param_groups[0]["lr"]
        ('SAM', 0.1)
    """
    wrapper, inner = split_wrapper(name)
    if wrapper:
        rho = options.pop("rho")
        return SAM(build_optimizer(inner, params, model=model, **options), rho=rho, adaptive=wrapper == "asam")
    if is_path(name):
        return load_object("optimizers", name)(params, **options)  # type: ignore[no-any-return]
    if model is not None and "model" in inspect.signature(OPTIMIZERS[name]).parameters:
        options["model"] = model
    return create_optimizer(name, params, **options)


def split_wrapper(name: str) -> tuple[str, str]:
    """Return the names of the wrapper and the optimizer: ("sam", "adamw") for "sam(adamw)", ("", "sgd") for "sgd"."""
    wrapper, _, rest = name.partition("(")
    return (wrapper, rest[:-1]) if rest.endswith(")") else ("", name)


def find_optimizer(name: str) -> str:
    """Return the name of an optimizer as in a study; the user may write it regardless of case.

    Example:
        >>> find_optimizer("SAM(AdamW)"), find_optimizer("torch.optim:NAdam")
        ('sam(adamw)', 'torch.optim:NAdam')
    """
    wrapper, inner = split_wrapper(name.strip())
    if wrapper:
        return f"{find_name(wrapper, _RHO) or wrapper}({find_optimizer(inner)})"
    return inner if is_path(inner) else find_name(inner, SPACES) or inner


@functools.cache
def get_space(name: str) -> Space:
    """Return the search space of an optimizer by its name in a study, as `find_optimizer` returns it.

    Raises:
        ArgumentError: there is no such optimizer, or the named object is not an optimizer.
    """
    wrapper, inner = split_wrapper(name)
    if wrapper and wrapper not in _RHO:
        raise ArgumentError(
            f"optimizers: brackets must follow sam or asam, got {name!r}; write hyperparameters after an @, as in "
            "adamw@weight_decay=0.1"
        )
    if wrapper and inner:
        return _wrapped_space(name, wrapper, get_space(inner))
    if is_path(name):
        return _user_space(name)
    if name not in SPACES:
        hint = (
            f"did you mean {name.lower()}(momentum)?"
            if name.lower() in _RHO
            else f"name the class in it, as in {name}:Mine"
            if name.endswith(".py")
            else f"did you mean {':'.join(name.rsplit('.', 1))}?"
            if "." in name
            else suggest(name, SPACES, "see `fallline list`")
        )
        raise ArgumentError(
            f"optimizers: must be one of {', '.join(SPACES)}, sam(NAME), asam(NAME), package.module:CLASS or "
            f"FILE.py:CLASS, got {name!r}; {hint}"
        )
    return SPACES[name]


def keywords(name: str) -> Mapping[str, Any]:
    """Return the keywords of an optimizer's constructor with their defaults."""
    inner = split_wrapper(name)[1]
    cls = load_object("optimizers", inner) if is_path(inner) else OPTIMIZERS[inner]
    return {k: p.default for k, p in inspect.signature(cls).parameters.items() if k != "params"}


def _wrapped_space(name: str, wrapper: str, base: Space) -> Space:
    if split_wrapper(base.optimizer)[0]:
        raise ArgumentError(
            f"optimizers: an optimizer must be wrapped only once, got {name!r}; for example sam(momentum)"
        )
    if base.measured:
        raise ArgumentError(
            f"optimizers: {wrapper} must wrap an optimizer that steps without a closure, got {name!r}; "
            f"use {base.optimizer} without {wrapper}"
        )
    dimension, default = _RHO[wrapper]
    return replace(
        base,
        optimizer=f"{wrapper}({base.optimizer})",
        dimensions=(*base.dimensions, dimension),
        defaults={**base.defaults, "rho": default},
        passes=2,
    )


def _user_space(name: str) -> Space:
    """Return the search space of a class that the user names by its location, derived from its constructor."""
    cls = load_object("optimizers", name)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ArgumentError(
            f"optimizers: {name} must be a subclass of torch.optim.Optimizer, got a {type(cls).__name__}; "
            "try torch.optim:NAdam"
        )
    signature = dict(keywords(name))
    if "lr" not in signature:
        raise ArgumentError(
            f"optimizers: {name} must take a keyword lr, got {', '.join(signature) or 'none'}; add lr to its "
            "constructor"
        )
    if not isinstance(signature["lr"], float | int):
        signature["lr"] = _UNKNOWN_LR
    decoupled = bool(signature.get("decoupled_weight_decay", "AdamW" in cls.__name__ or cls.__name__.endswith("W")))
    return replace(derived(name, signature, decoupled), measured=needs_closure(cls))


def needs_closure(cls: type[torch.optim.Optimizer]) -> bool:
    """Return whether `step` requires a closure, which it may call several times."""
    closure = inspect.signature(cls.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


SPACES |= {
    name: derived(name, keywords(name), keywords(name).get("weight_decay_mode") != "l2")
    for name in OPTIMIZERS
    if name not in SPACES
}
