"""What every optimizer can do around its update: clip the gradients, average the parameters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from oracles.problem import Array

Grads = dict[str, Array | None]


@dataclass(frozen=True)
class Options:
    """The options of a case that are not the oracle's; None where it does not ask for one."""

    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    ema_decay: float | None = None


def split(config: Mapping[str, object]) -> tuple[dict[str, object], Options]:
    """Return the keywords of the update and the options around it."""
    names = Options.__dataclass_fields__
    own = {key: value for key, value in config.items() if key not in names}
    return own, Options(**{key: value for key, value in config.items() if key in names})  # type: ignore[arg-type]


def clipped(grads: Grads, options: Options) -> Grads:
    """Return the gradients cut to values first, then scaled to a norm over all parameters."""
    if options.clip_grad_value is not None:
        limit = options.clip_grad_value
        grads = {name: None if g is None else np.clip(g, -limit, limit) for name, g in grads.items()}
    if options.clip_grad_norm is not None:
        squares = [float(x) ** 2 for g in grads.values() if g is not None for x in np.ravel(g)]
        coefficient = min(1.0, options.clip_grad_norm / (math.sqrt(math.fsum(squares)) + 1e-6))
        grads = {name: None if g is None else np.asarray(g * coefficient) for name, g in grads.items()}
    return grads


def average(before: Array, after: Array, state: dict[str, Array], options: Options) -> None:
    """Move the average of a parameter, which starts as the parameter before its first update."""
    if options.ema_decay is not None:
        d = options.ema_decay
        state["ema"] = np.asarray(d * state.get("ema", before) + (1 - d) * after)
