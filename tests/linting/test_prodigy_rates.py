"""The check of Prodigy's learning rate and of schedules that restart."""

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

import fallline as fl


def found(optimizer, scheduler=None):
    model = torch.nn.Module()
    model.weights = torch.nn.ParameterList(p for group in optimizer.param_groups for p in group["params"])
    ids = {finding.id: finding for finding in fl.lint(model, optimizer, scheduler, total_steps=100)}
    return ids.get("prodigy-learning-rate")


def prodigy(**options):
    return fl.Prodigy([torch.nn.Parameter(torch.zeros(3, 3))], **options)


@pytest.mark.parametrize("lr", [1e-3, 2.0])
def test_another_rate_than_one_is_found(lr):
    finding = found(prodigy(lr=lr))
    assert finding.severity == "warning" and f"multiplies it by lr={lr:g}" in finding.message


def test_a_schedule_that_restarts_is_found():
    opt = prodigy()
    finding = found(opt, CosineAnnealingWarmRestarts(opt, 25))
    assert "the schedule restarts: lr falls to 0.00" in finding.message


def test_one_decay_with_a_warm_up_is_not_found():
    opt = prodigy(safeguard_warmup=True)
    assert found(opt, fl.WarmupCosine(opt, warmup_steps=10, total_steps=100)) is None
    assert found(prodigy()) is None


def test_other_optimizers_may_have_any_rate():
    assert found(fl.AdamW([torch.nn.Parameter(torch.zeros(3, 3))], lr=0.1)) is None
