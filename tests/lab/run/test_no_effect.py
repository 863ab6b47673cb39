"""A warning names the cause if trials are bit-for-bit identical although their hyperparameters differ."""

import pytest
import torch

import fallline as fl
from fallline.lab.tasks import Digits
from fallline.lab.user_code.import_path import path_of

TINY = {"steps": 20, "trials": 2, "seeds": 2, "jobs": 0}


class Ignores(torch.optim.SGD):
    """Takes a learning rate, and trains with another one."""

    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, lr=lr, weight_decay=weight_decay)

    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.1
        return super().step(closure)


class OwnBetas(Digits):
    def param_groups(self, model):
        return [{"params": list(model.parameters()), "betas": (0.9, 0.99)}]


def said(study):
    return [warning for warning in study.warnings() if "bit-for-bit" in warning]


def test_an_optimizer_that_ignores_its_learning_rate_is_told(tmp_path):
    place = path_of(Ignores)
    study = fl.compare("digits", [place, "sgd@lr=0.1..1"], out=tmp_path, **TINY)
    (warning,) = said(study)
    assert warning.startswith(f"{place}: 5 of its 5 tuning trials are bit-for-bit identical although lr differs, so ")
    assert warning.endswith(
        f"; possible causes: {place} ignores it, the updates are lost in rounding, or the task does not use the updates"
    )


@pytest.mark.slow
def test_options_that_the_task_sets_in_every_group_are_named_as_the_cause(tmp_path, monkeypatch):
    monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": OwnBetas})
    study = fl.compare("digits", ["adam@lr=0.01@weight_decay=0@beta1=0.5..0.95"], out=tmp_path, **TINY)
    (warning,) = said(study)
    assert "although beta1 differs" in warning
    assert warning.endswith("; param_groups of the task sets beta1 itself, in every group")


def test_trials_that_differ_are_no_warning(tmp_path):
    assert said(fl.compare("digits", ["sgd@lr=0.1..1"], out=tmp_path, **TINY)) == []
