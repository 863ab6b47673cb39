"""The optimizers, one a file, and the function that makes one by name."""

from typing import Any

from fallline.base import Optimizer, Params
from fallline.errors import ArgumentError
from fallline.optimizers.adam import Adam
from fallline.optimizers.adamw import AdamW
from fallline.optimizers.lamb import LAMB
from fallline.optimizers.lion import Lion
from fallline.optimizers.rmsprop import RMSprop
from fallline.optimizers.sgd import SGD

__all__ = ["LAMB", "OPTIMIZERS", "SGD", "Adam", "AdamW", "Lion", "RMSprop", "create_optimizer"]

OPTIMIZERS: dict[str, type[Optimizer]] = {cls.rule.name: cls for cls in (SGD, RMSprop, Adam, AdamW, LAMB, Lion)}


def create_optimizer(name: str, params: Params, **options: Any) -> Optimizer:
    """Return the optimizer called `name` (lower case, as `fallline list` prints it) with the given options.

    Raises:
        ArgumentError: no optimizer has that name, or an option is out of range.
        ArgumentTypeError: an option is unknown.

    Example:
        >>> import torch, fallline as fl
        >>> opt = fl.create_optimizer("adamw", [torch.nn.Parameter(torch.zeros(3))], lr=3e-4)
        >>> type(opt).__name__, opt.param_groups[0]["lr"]
        ('AdamW', 0.0003)
    """
    if name not in OPTIMIZERS:
        raise ArgumentError(
            f"create_optimizer: name must be one of {', '.join(OPTIMIZERS)}, got {name!r}; see `fallline list`"
        )
    return OPTIMIZERS[name](params, **options)
