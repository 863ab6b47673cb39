"""The rules of Muon and of NorMuon, whose steps are orthogonalized."""

from typing import Any

from fallline.rules.matrices import mean_square, newton_schulz, scale_by_shape
from fallline.rules.ops import maximum, sqrt
from fallline.rules.ranges import FRACTION, NON_NEGATIVE
from fallline.rules.rule import rule

LEAST = 1e-10  # added to the lengths by which NorMuon divides, as in the authors' code
TINY = 1e-30  # instead of 0, if the step is 0


def average(grad: Any, momentum_buffer: Any, momentum: Any, nesterov: bool) -> tuple[Any, Any]:
    """Return the running mean of gradients after a step, and what is orthogonalized: the mean, or one step ahead."""
    momentum_buffer = momentum * momentum_buffer + (1 - momentum) * grad
    return momentum_buffer, momentum * momentum_buffer + (1 - momentum) * grad if nesterov else momentum_buffer


@rule(
    state={"momentum_buffer": None},
    ranges={"momentum": NON_NEGATIVE, "eps": NON_NEGATIVE},
    formula="m = μ·m + (1 − μ)·g;  u = μ·m + (1 − μ)·g;  p ·= 1 − lr·wd;  p −= lr·s·NS(u),  s = √max(1, rows/columns)",
    source="Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; match_rms_adamw: Liu et al. 2025, "
    "arXiv:2502.16982, section 2.2",
    weight_decay_modes=("decoupled", "independent", "l2"),
    whole=True,
)
def muon(
    param: Any,
    grad: Any,
    momentum_buffer: Any,
    *,
    lr: Any,
    momentum: Any,
    eps: Any,
    nesterov: bool,
    ns_coefficients: tuple,  # type: ignore[type-arg]  # the declaration compares the plain type
    ns_steps: int,
    ns_dtype: str,
    adjust_lr_fn: str,
    blocks: int,
) -> tuple[Any, ...]:
    """Step along the momentum, with all its singular values set to about 1.

    State:   momentum_buffer: like param, starts at 0. Running mean of gradients.
    Hyper:   lr: step length in units of the spectral norm, times a factor of the shape, >= 0.  momentum: >= 0.
             eps: lower limit of the norm by which the momentum is divided.
    Follows: Jordan et al. 2024, in the form of torch.optim.Muon.
    Differs: matrices of one shape are multiplied as a batch, and large wide or tall ones by polynomials of their Gram
             matrix, which rounds differently within `ns_dtype`.
    """
    momentum_buffer, update = average(grad, momentum_buffer, momentum, nesterov)
    direction = newton_schulz(update, eps, coefficients=ns_coefficients, steps=ns_steps, dtype=ns_dtype, blocks=blocks)
    return param - lr * scale_by_shape(direction, convention=adjust_lr_fn, blocks=blocks), momentum_buffer


def row_shapes(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shape of the state of NorMuon: a number for each row.

    Example:
        >>> row_shapes((8, 3, 5, 5))
        {'second_momentum_buffer': (8, 1, 1, 1)}
    """
    return {"second_momentum_buffer": (*shape[:1], *(1 for _ in shape[1:]))}


@rule(
    state={"momentum_buffer": None, "second_momentum_buffer": None},
    shapes=row_shapes,
    ranges={"momentum": NON_NEGATIVE, "eps": NON_NEGATIVE, "norm_beta": FRACTION},
    formula="d = NS(u);  r = β·r + (1 − β)·mean(d²) of each row;  o = d/√r;  p −= lr·s·o·‖d‖/‖o‖;  u, s: see Muon",
    source="Li et al. 2025, arXiv:2510.05491, algorithm 1",
    weight_decay_modes=("decoupled", "independent", "l2"),
    whole=True,
)
def normuon(
    param: Any,
    grad: Any,
    momentum_buffer: Any,
    second_momentum_buffer: Any,
    *,
    lr: Any,
    momentum: Any,
    norm_beta: Any,
    eps: Any,
    nesterov: bool,
    ns_coefficients: tuple,  # type: ignore[type-arg]  # the declaration compares the plain type
    ns_steps: int,
    ns_dtype: str,
    adjust_lr_fn: str,
    blocks: int,
) -> tuple[Any, ...]:
    """Give every row of Muon's step the same mean length, without changing the length of the whole.

    State:   momentum_buffer: like param, starts at 0. Running mean of gradients.
             second_momentum_buffer: a number for each row, starts at 0. Running mean of its mean squared element.
    Hyper:   norm_beta: in [0, 1), decay of second_momentum_buffer.  The others are those of `muon`.
    Follows: Li et al. 2025, arXiv:2510.05491, algorithm 1, with the scale of the authors' code (zichongli5/NorMuon),
             which keeps the norm of the orthogonal matrix and then applies the factor of the shape.
    Differs: the norm of stacked matrices (`blocks`) is that of the stack. The row of a convolution is all of an output
             channel, as in the paper; the authors' code takes the mean over the last dimension only.
    """
    momentum_buffer, update = average(grad, momentum_buffer, momentum, nesterov)
    direction = newton_schulz(update, eps, coefficients=ns_coefficients, steps=ns_steps, dtype=ns_dtype, blocks=blocks)
    second_momentum_buffer = norm_beta * second_momentum_buffer + (1 - norm_beta) * mean_square(direction, 0)
    even = direction / (sqrt(second_momentum_buffer) + LEAST)
    even = even * sqrt(mean_square(direction) / maximum(mean_square(even), TINY))
    new = param - lr * scale_by_shape(even, convention=adjust_lr_fn, blocks=blocks)
    return new, momentum_buffer, second_momentum_buffer
