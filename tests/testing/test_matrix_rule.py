"""A matrix optimizer from outside, as short as a user would write it, keeps every promise."""

import numpy as np
import pytest
import torch

from fallline.errors import FalllineError
from fallline.rules.matrices import newton_schulz
from fallline.rules.ranges import NON_NEGATIVE
from fallline.rules.rule import rule
from fallline.testing import cases, check_rule


@rule(
    state={"momentum_buffer": None},
    ranges={"momentum": NON_NEGATIVE},
    formula="m = μ·m + g;  p −= lr·U·Vᵀ, where m = U·S·Vᵀ",
    source="Carlson et al. 2015, Stochastic spectral descent",
    whole=True,
)
def spectral(param, grad, momentum_buffer, *, lr, momentum):
    """Step along the nearest orthogonal matrix; twelve cubic iterations find it where no singular value is tiny."""
    momentum_buffer = momentum * momentum_buffer + grad
    direction = newton_schulz(momentum_buffer, 1e-7, coefficients=(1.5, -0.5, 0.0), steps=12, dtype="float64")
    return param - lr * direction, momentum_buffer


def oracle(
    param, grad, state, lr, lr0, *, momentum=0.9, weight_decay=0.0, weight_decay_mode="l2", maximize=False, **options
):
    """The same in NumPy."""
    limit = options.get("clip_grad_value", np.inf)
    grad = np.clip(grad, -limit, limit) * (-1 if maximize else 1)
    if weight_decay_mode == "l2":
        grad = grad + weight_decay * param
    else:
        param = param * (1 - weight_decay * (lr if weight_decay_mode == "decoupled" else lr / lr0))
    m = state["m"] = momentum * state.get("m", np.zeros_like(param)) + grad
    x = m.reshape(m.shape[0] if m.ndim else 1, -1)
    x = x / max(np.linalg.norm(x), 1e-7)
    for _ in range(12):
        x = 1.5 * x - 0.5 * (x @ x.T) @ x
    return param - lr * x.reshape(param.shape)


DEFAULTS = {"lr": 0.01, "momentum": 0.9}


@pytest.mark.slow
def test_a_matrix_rule_from_outside_passes():
    check_rule(spectral, defaults=DEFAULTS, backends=["reference"], oracle=oracle)


def test_its_updates_are_orthogonal_whatever_the_backend():
    for name, check, subject in cases(spectral, defaults=DEFAULTS, oracle=oracle):
        if name.startswith(("follows_the_oracle-default", "backends_agree-default", "every_shape_works-default")):
            check(subject)
    wide = torch.nn.Parameter(torch.zeros(2, 5))
    optimizer = subject.cls([wide], lr=1.0)
    wide.grad = torch.tensor([[1.0, 2, 3, 4, 5], [2, -1, 0, 1, 0]])
    optimizer.step()
    assert torch.allclose(wide @ wide.T, torch.eye(2), atol=1e-5)


def test_what_the_rule_does_not_take_is_an_error():
    with pytest.raises(FalllineError, match="defaults must hold every hyperparameter of the rule spectral"):
        check_rule(spectral, defaults={"lr": 0.1})
