"""A loss that is not finite is put down to the batch or the parameter whose fault it is, and to the rate else."""

import copy

import pytest
import torch

import fallline as fl
from fallline.errors import LossError
from fallline.landscape import lr_range
from fallline.landscape.lr_range import training as rising_rate
from support.landscapes import Point, batches, net, squares


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_batch_that_no_rate_can_help_is_named(accumulate):
    """Else the range test would say that the rate, of 1e-7, was too high."""
    model, data = net(), batches(4, 4, 4, 4, 4, 4)
    data[4][0][0] = torch.nan
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        LossError, match=r"^lr_range: loss must be finite, got nan for batch 4; every parameter is finite"
    ):
        lr_range(model, fl.SGD(model.parameters()), squares, data, accumulate=accumulate)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_parameter_that_is_not_finite_is_named():
    model = net()
    model[4].bias.data[0] = torch.inf
    with pytest.raises(LossError, match=r"^lr_range: .* for batch 0; parameter 4.bias is not finite"):
        lr_range(model, fl.SGD(model.parameters()), squares, batches(4))


def test_a_loss_that_overflows_by_a_rate_is_no_error_of_a_batch():
    """A fixed rise at once: beyond a rate of 1 the loss is infinite after one update."""
    model = Point(1.0)

    def loss_fn(model, batch):
        return torch.where(model.w < 0, torch.inf, model.w).sum()

    found = lr_range(model, torch.optim.SGD(model.parameters()), loss_fn, torch.ones(1), high=1e3)
    assert found.diverged and "stops falling" in found.verdict


def test_a_step_of_the_users_own_says_what_it_can():
    model = net()
    optimizer = fl.SGD(model.parameters())

    def step(batch):
        optimizer.zero_grad()
        loss = squares(model, batch) * torch.nan
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(LossError, match="lr_range: loss must be finite before the first update, got nan"):
        lr_range(model, optimizer, None, batches(4), step=step)


def test_a_scaler_that_skips_every_step_is_a_rate_too_high_or_no_gradient_at_all(monkeypatch):
    """The loss is finite; its gradient is not where w is below a half, from the start or after some updates."""
    monkeypatch.setattr(rising_rate, "PATIENCE", 20)

    def loss_fn(model, batch):
        return (model.w.square() + 0.0 * torch.sqrt(torch.where(model.w > 0.5, model.w, 0.0 * model.w))).sum()

    def run(start):
        model = Point(start)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        return lr_range(model, torch.optim.SGD(model.parameters()), loss_fn, torch.ones(1), scaler=scaler)

    found = run(1.0)
    assert found.diverged and len(found.lrs) > 10
    with pytest.raises(
        LossError, match="gradients must be finite at some scale of the scaler, got 20 skipped steps in a row"
    ):
        run(0.4)
