"""The check of a model in eval mode whose parameters are training weights."""

import pytest
import torch

import fallline as fl


def trained(cls):
    model = torch.nn.Linear(3, 3)
    optimizer = cls(model.parameters(), lr=0.01)
    optimizer.train()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def found(model, optimizer):
    return "evaluated-in-train-mode" in [finding.id for finding in fl.lint(model, optimizer)]


@pytest.mark.parametrize("package", ["fallline", "schedulefree"])
def test_only_a_trained_optimizer_in_train_mode_is_found(package):
    theirs = package == "schedulefree" and pytest.importorskip("schedulefree")
    model, optimizer = trained(theirs.AdamWScheduleFree if theirs else fl.ScheduleFreeAdamW)
    assert not found(model, optimizer)  # it trains
    model.eval()
    assert found(model, optimizer)
    optimizer.eval()
    assert not found(model, optimizer)


def test_averaged_is_right_and_a_model_that_was_not_trained_yet_may_be_in_eval_mode():
    model, optimizer = trained(fl.ScheduleFreeSGD)
    model.eval()
    assert found(model, fl.SAM(optimizer))
    with optimizer.averaged():
        assert not found(model, optimizer)
    assert not found(model, fl.ScheduleFreeSGD(model.parameters()))
    assert not found(model, fl.AdamW(model.parameters()))
