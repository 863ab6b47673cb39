"""Where PyTorch has the same schedule it has the same numbers, and its SequentialLR runs ours."""

import pytest
import torch

import fallline as fl
from fallline import schedules as fs
from support.schedulers import close, lrs, parameter, saved, sgd, train


@pytest.mark.parametrize("base", [0.1, 3e-4])
def test_step_decay_is_torchs_step_lr(base):
    for options, theirs in [
        ({"step_size": 3, "gamma": 0.1}, torch.optim.lr_scheduler.StepLR(sgd(base), 3, 0.1)),
        ({"step_size": 3, "gamma": 2.0}, torch.optim.lr_scheduler.StepLR(sgd(base), 3, 2.0)),
        ({"milestones": [2, 5], "gamma": 0.1}, torch.optim.lr_scheduler.MultiStepLR(sgd(base), [2, 5], 0.1)),
    ]:
        optimizer = sgd(base)
        expected = train(theirs.optimizer, theirs, 12)  # torch multiplies up, which drifts by roundings
        assert train(optimizer, fs.StepDecay(optimizer, **options), 12) == [close(row, rel=1e-14) for row in expected]


def test_cosine_is_torchs_until_its_end():
    optimizer = sgd(0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd(0.1), 8, eta_min=0.01)
    for used in train(optimizer, fs.Cosine(optimizer, 8, 0.01), 9):
        assert used == close(theirs._get_closed_form_lr(), rel=1e-15)
        theirs.optimizer.step()
        theirs.step()
    assert theirs._get_closed_form_lr()[0] > lrs(optimizer)[0] == 0.01, "where torch rises again"


def test_one_cycle_is_torchs_for_learning_rate_and_momentum():
    for total in (7, 10, 31):
        theirs = torch.optim.AdamW([parameter()], lr=0.5)
        ours = torch.optim.AdamW([parameter()], lr=0.5)
        expected = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.3, total_steps=total, pct_start=0.4)
        scheduler = fl.OneCycle(ours, total, 0.3, pct_start=0.4)
        for k in range(total):
            for key in ("lr", "betas"):
                assert ours.param_groups[0][key] == close(theirs.param_groups[0][key], rel=1e-12, abs=1e-16)
            for optimizer, sched in ((theirs, expected), (ours, scheduler)):
                optimizer.step()
                if k < total - 1 or sched is scheduler:
                    sched.step()
        assert ours.param_groups[0]["betas"] == (0.95, 0.999)
        assert lrs(ours) == [0.3 / 25 / 1e4], "it stays, where torch's raises"


@pytest.mark.parametrize("mult", [1, 2, 3])
def test_cosine_restarts_is_torchs(mult):
    optimizer = sgd(0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd(0.1), 4, mult, eta_min=0.01)
    expected = train(theirs.optimizer, theirs, 40)
    assert train(optimizer, fl.CosineRestarts(optimizer, 4, mult, 0.01), 40) == [close(r, rel=1e-12) for r in expected]


def test_polynomial_is_torchs_one_step_later():
    theirs = torch.optim.lr_scheduler.PolynomialLR(sgd(0.1), 9, power=2)
    expected = train(theirs.optimizer, theirs, 12)
    optimizer = sgd(0.1)
    ours = train(optimizer, fl.Polynomial(optimizer, 9, 2), 11)
    assert ours == [close(row, rel=1e-10, abs=1e-17) for row in expected[1:]]


SEQUENCES = {
    "ours": lambda opt: [fs.WarmupCosine(opt, 4, 4), fs.Cosine(opt, 6)],
    "ours, then torch's": lambda opt: [fs.WarmupCosine(opt, 4, 4), torch.optim.lr_scheduler.CosineAnnealingLR(opt, 6)],
    "torch's, then ours": lambda opt: [torch.optim.lr_scheduler.LinearLR(opt, 0.25, 1.0, 3), fs.Cosine(opt, 6)],
}


@pytest.mark.parametrize("parts", SEQUENCES.values(), ids=SEQUENCES)
def test_sequential_lr_runs_and_resumes_ours(parts):
    def build(optimizer):
        return torch.optim.lr_scheduler.SequentialLR(optimizer, parts(optimizer), milestones=[4])

    expected = [0.125, 0.25, 0.375, 0.5] + [fs.cosine(6)(k, 0.5) for k in range(7)]
    for k in range(11):
        optimizer = sgd(0.5)
        scheduler = build(optimizer)
        used = train(optimizer, scheduler, k)
        assert scheduler.get_last_lr() == lrs(optimizer)
        state = saved(optimizer, scheduler)
        optimizer = sgd(0.5)
        scheduler = build(optimizer)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        used += train(optimizer, scheduler, 11 - k)
        assert [lr for (lr,) in used] == close(expected, rel=1e-12, abs=1e-15)


def test_sequential_lr_starts_ours_without_the_updates_before_its_turn():
    optimizer = sgd(1.0)
    parts = [fs.Constant(optimizer), fs.Cosine(optimizer, 6)]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])
    train(optimizer, scheduler, 3)
    assert parts[1].last_epoch == 0
