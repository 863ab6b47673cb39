"""What every optimizer can do around its update: clip the gradients, move and decay with caution, average.

Caution: Liang et al. 2024, arXiv:2411.16085, algorithm 1, scaled as in the authors' c_adamw.py (d / nnz, at most 1000;
the paper has d / (nnz + 1)); of decay: Chen et al. 2025, arXiv:2510.12402, equation 2.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracles.formula import decayed
from oracles.problem import Array

Grads = dict[str, Array | None]


@dataclass(frozen=True)
class Options:
    """The options of a case that are not the oracle's; None where it does not ask for one."""

    clip_grad_norm: float | None = None
    clip_grad_value: float | None = None
    ema_decay: float | None = None
    cautious: bool = False
    cautious_weight_decay: bool = False


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


def stepped(
    update: Callable[..., Array],
    p: Array,
    g: Array,
    state: dict[str, Array],
    lr: float,
    lr0: float,
    config: Mapping[str, Any],
    options: Options,
) -> Array:
    """Return the parameter after one step; a cautious one has no decay but those that multiply the parameter."""
    if not (options.cautious or options.cautious_weight_decay):
        return update(p, g, state, lr, lr0, **config)
    declared = inspect.signature(update).parameters
    mode, wd = (config.get(name, declared[name].default) for name in ("weight_decay_mode", "weight_decay"))
    start = p if options.cautious_weight_decay else decayed(p, g, mode, wd, lr, lr0)[0]
    moved = update(start, g, state, lr, lr0, **{**config, "weight_decay": 0.0}) - start
    if options.cautious:
        ascent = -g if config.get("maximize") else g
        agrees = (moved * ascent < 0).astype(np.float64)
        moved = moved * agrees / max(float(agrees.mean()), 1e-3)
    if options.cautious_weight_decay:
        decay = start - decayed(start, g, mode, wd, lr, lr0)[0]
        return start + moved - decay * (-moved * start >= 0)
    return start + moved


def average(before: Array, after: Array, state: dict[str, Array], options: Options) -> None:
    """Move the average of a parameter, which starts as the parameter before its first update."""
    if options.ema_decay is not None:
        d = options.ema_decay
        state["ema"] = np.asarray(d * state.get("ema", before) + (1 - d) * after)
