"""After loading a checkpoint the linter counts from the start of the training."""

import copy

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR

import fallline as fl
from support.setups import model, split, warmup_then

STEPS = 2000


def half(part):
    return 1 - part


def sequence(opt):
    return SequentialLR(opt, [LinearLR(opt, 0.01, total_iters=100), CosineAnnealingLR(opt, STEPS - 100)], [100])


SCHEDULERS = {
    "ours": lambda opt: fl.WarmupCosine(opt, 100, STEPS),
    "ours in a sequence": lambda opt: SequentialLR(opt, [fl.Warmup(opt, 100), fl.Cosine(opt, STEPS - 100)], [100]),
    "a sequence of torch's": sequence,
    "a lambda": lambda opt: LambdaLR(opt, warmup_then(100, STEPS, half)),
    "one cycle": lambda opt: OneCycleLR(opt, 1e-3, total_steps=STEPS, cycle_momentum=False, pct_start=0.05),
    "steps": lambda opt: StepLR(opt, STEPS // 3, 0.1),
}
EVERY_SCHEDULER = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)


def resumed(make, done, lr=1e-3):
    """Return a model, optimizer and scheduler as a script that resumes has them."""
    net = model()

    def build():
        optimizer = torch.optim.AdamW(split(net, 0.1), lr=lr, betas=(0.9, 0.95))
        return optimizer, make(optimizer)

    optimizer, scheduler = build()
    for param in net.parameters():
        param.grad = torch.ones_like(param)
    for _ in range(done):
        optimizer.step()
        scheduler.step()
    states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    optimizer, scheduler = build()
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    return net, optimizer, scheduler


def messages(setup, steps):
    return [(finding.id, finding.message) for finding in fl.lint(*setup, steps)]


@EVERY_SCHEDULER
@pytest.mark.parametrize("done", [1, 300])
@pytest.mark.parametrize("steps", [STEPS, 2 * STEPS], ids=["right length", "longer run"])
def test_the_findings_are_those_at_the_start(make, done, steps):
    expected = messages(resumed(make, 0), steps)
    assert messages(resumed(make, done), steps) == expected


def test_a_scheduler_that_cannot_be_run_from_its_start_is_checked_from_now():
    class Drifting(StepLR):  # its first rates depend on when it was created
        def get_lr(self):
            return [group["lr"] * 0.999 for group in self.optimizer.param_groups] if self.last_epoch > 5 else [1e-4] * 2

    setup = resumed(lambda opt: Drifting(opt, 100), 500)
    setup[2].optimizer.param_groups[0]["lr"] = setup[2].optimizer.param_groups[1]["lr"] = 5e-4
    assert [id for id, _ in messages(setup, STEPS)] == []
    whole = {id for id, _ in messages(resumed(lambda opt: Drifting(opt, 100), 0), STEPS)}
    assert whole == {"decay-time-scale", "short-warmup"}


@pytest.mark.parametrize("make", [SCHEDULERS["ours"], SCHEDULERS["a sequence of torch's"]], ids=["ours", "torch's"])
def test_an_optimizer_without_state_is_not_unstepped_after_loading(make):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    first = torch.optim.SGD([weight], lr=0.1)
    scheduler = make(first)
    for _ in range(30):
        first.step()
        scheduler.step()
    fresh = torch.optim.SGD([weight], lr=0.1)
    follower = make(fresh)
    fresh.load_state_dict(first.state_dict())
    follower.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    assert fl.lint(None, fresh, follower, STEPS) == []
