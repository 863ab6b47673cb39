"""The check of schedules on schedule-free optimizers."""

import pytest
import torch

import fallline as fl


def found(optimizer, scheduler):
    model = torch.nn.ParameterList(optimizer.param_groups[0]["params"])
    ids = [finding.id for finding in fl.lint(model, optimizer, scheduler, 1000)]
    return "schedule-free-with-decay" in ids


def optimizer_of(cls):
    return cls([torch.nn.Parameter(torch.ones(3, 3))], lr=0.01)


@pytest.mark.parametrize("cls", [fl.ScheduleFreeSGD, fl.ScheduleFreeAdamW])
def test_a_decay_is_found_and_a_constant_rate_is_not(cls):
    opt = optimizer_of(cls)
    assert found(opt, fl.Cosine(opt, total_steps=1000))
    for make in (lambda opt: None, fl.Constant):
        opt = optimizer_of(cls)
        assert not found(opt, make(opt))
    opt = optimizer_of(cls)
    assert not found(opt, torch.optim.lr_scheduler.LinearLR(opt, 0.1, total_iters=100))  # a warm-up


def test_it_sees_the_package_and_leaves_other_optimizers_alone():
    schedulefree = pytest.importorskip("schedulefree")
    opt = optimizer_of(schedulefree.AdamWScheduleFree)
    assert found(opt, fl.Cosine(opt, total_steps=1000))
    opt = optimizer_of(fl.AdamW)
    assert not found(opt, fl.Cosine(opt, total_steps=1000))
