"""SAM and ASAM around another oracle, on an objective whose gradient depends on the parameters.

Foret et al. 2021, arXiv:2010.01412v3, algorithm 1; Kwon et al. 2021, arXiv:2102.11600v3, algorithm 1, without bias.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from oracles.problem import Array

Params = dict[str, Array]


def gradient(params: Params) -> Params:
    """Return the gradient of sum(w^4/4 - w^2/2 + s·w) over all elements, s being the sum of all of them over 100."""
    total = sum(float(w.sum()) for w in params.values()) / 100
    return {name: w**3 - w + 2 * total for name, w in params.items()}


def loss(params: Params) -> float:
    """Return that objective."""
    total = sum(float(w.sum()) for w in params.values())
    return sum(float((w**4 / 4 - w**2 / 2).sum()) for w in params.values()) + total**2 / 100


def perturbed(params: Params, grads: Params, rho: float, adaptive: bool) -> Params:
    """Return the parameters after the climb; the norm is over all of them."""
    if adaptive:
        norm = np.sqrt(sum(float(((np.abs(params[k]) * grads[k]) ** 2).sum()) for k in params)) + 1e-12
        return {k: params[k] + rho * params[k] ** 2 * grads[k] / norm for k in params}
    norm = np.sqrt(sum(float((grads[k] ** 2).sum()) for k in params)) + 1e-12
    return {k: params[k] + rho * grads[k] / norm for k in params}


def run(
    params: Params, update: Callable[..., Array], steps: int, rho: float, adaptive: bool, lr: float, **options: Any
) -> Params:
    """Return the parameters after some steps of the base's update with the gradient from the climb."""
    states: dict[str, dict[str, Array]] = {name: {} for name in params}
    for _ in range(steps):
        second = gradient(perturbed(params, gradient(params), rho, adaptive))
        params = {k: np.asarray(update(params[k], second[k], states[k], lr, lr, **options)) for k in params}
    return params
