"""Create an optimizer by name."""

from typing import Any

from fallline.core.optimizer import Optimizer, Params
from fallline.errors import ArgumentError, find_name, suggest
from fallline.optimizers.registry import OPTIMIZERS


def create_optimizer(name: str, params: Params, **options: Any) -> Optimizer:
    """Create the optimizer called `name` (as printed by `fallline list`, regardless of case) with the given options.

    Args:
        name: name of the optimizer.
        params: parameters, named parameters, or groups of them.
        **options: keyword arguments of the optimizer class.

    Raises:
        ArgumentError: no optimizer has that name, or an option is out of range.
        ArgumentTypeError: an option is unknown.

    Example:
        >>> import torch, fallline as fl
        >>> opt = fl.create_optimizer("adamw", [torch.nn.Parameter(torch.zeros(3))], lr=3e-4)
        >>> type(opt).__name__, opt.param_groups[0]["lr"]
        ('AdamW', 0.0003)
    """
    found = find_name(name, OPTIMIZERS) if isinstance(name, str) else None
    if found is None:
        raise ArgumentError(
            f"create_optimizer: name must be one of {', '.join(OPTIMIZERS)}, got {name!r}; "
            + suggest(name, OPTIMIZERS, "see `fallline list`")
        )
    return OPTIMIZERS[found](params, **options)
