"""A step that was skipped does not count, and a loop without steps is told so."""

import pytest
import torch

from fallline import schedules as fs
from support.schedulers import EVERY_SCHEDULE, lrs, parameter, sgd, train


@EVERY_SCHEDULE
@pytest.mark.parametrize("make", [torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr, fused=True)])
def test_a_step_that_gradscaler_skips_does_not_count(make, build, pure):
    weight = parameter()
    optimizer = make([weight], lr=1.0)
    scheduler = build(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    counted = 0
    for skip in (True, False, True, True, False, False):
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        if skip:
            weight.grad[0] = torch.inf
        before = weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        assert not skip or torch.equal(weight, before)
        counted += not skip
        assert (scheduler.last_epoch, lrs(optimizer)) == (counted, [pure(counted, 1.0)])


def test_an_epoch_counts_though_its_last_update_was_skipped():
    weight = parameter()
    optimizer = torch.optim.Adam([weight], fused=True)
    scheduler = fs.Cosine(optimizer, 10)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for value in (1.0, torch.inf):
        weight.grad = torch.full((2,), value)
        scaler.scale(torch.ones(()))  # the scaler makes its scale at first use
        scaler.step(optimizer)
        scaler.update()
    scheduler.step()
    assert scheduler.last_epoch == 1


def test_a_few_skipped_steps_are_no_reason_to_warn():
    optimizer = sgd()
    scheduler = fs.Cosine(optimizer, 10)
    for _ in range(10):
        train(optimizer, scheduler, 2)
        scheduler.step()
    assert scheduler.last_epoch == 20


def test_a_wrapper_counts_when_the_optimizer_inside_it_steps():
    class Wrapper(torch.optim.Optimizer):  # as SAM: two phases that bypass `step`, or `step`, which may do nothing
        def __init__(self, base):
            super().__init__(base.param_groups, base.defaults)
            self.param_groups = base.param_groups
            self.base = base

        def second_step(self):
            self.base.step()

        def step(self, closure=None):
            pass

    optimizer = Wrapper(sgd(1.0))
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    optimizer.second_step()
    scheduler.step()
    assert lrs(optimizer) == [0.5]
    optimizer.step()
    scheduler.step()
    assert lrs(optimizer) == [0.5]


@pytest.mark.parametrize("updates", [0, 1], ids=["no update", "two calls an update"])
def test_a_loop_without_updates_stands_still_and_says_so_once(updates):
    optimizer = sgd(1.0)
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    with pytest.warns(
        UserWarning, match=r"StepDecay.step\(\) did not advance in 5 .*step_decay\(step_size=1"
    ) as caught:
        for _ in range(20):
            for _ in range(updates):
                optimizer.step()
            scheduler.step()
            scheduler.step()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (scheduler.last_epoch, lrs(optimizer)) == (20 * updates, [0.5 ** (20 * updates)])
