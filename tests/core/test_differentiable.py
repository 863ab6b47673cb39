"""A differentiable step has the derivatives of its values."""

import pytest
import torch

from support.variants import EVERY_CASE, normal


@EVERY_CASE
def test_a_differentiable_step_has_the_derivative_of_its_values(cls, name, options):
    """By the parameters before two steps, by what the gradients depend on, and by a tensor lr."""
    if cls.rule.name == "soap":  # the refusal is tested in tests/optimizers/test_soap_rule.py
        pytest.skip("SOAP refuses the option: eigenvectors of equal eigenvalues have no derivative")

    def two_steps(start, scale, lr):
        param = start.clone()
        opt = cls([{"params": [param], "initial_lr": 0.1}], lr=lr, differentiable=True, **options)
        for power in (1, 2):
            param.grad = scale**power + start
            opt.step()
        return param

    inputs = [normal(3, seed=seed, dtype=torch.float64).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(two_steps, (*inputs, torch.tensor(0.1, dtype=torch.float64, requires_grad=True)))
