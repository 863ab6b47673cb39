"""Groups with learning rates of their own: searched in their ratios, in trials, range tests and the pasted code."""

import pytest
import torch

import fallline as fl
from fallline.lab.design.param_groups import own_options, scale_groups
from fallline.lab.design.trial import Trial
from fallline.lab.run.trial import start
from fallline.lab.tasks import Digits
from fallline.landscape import lr_range


def rates(groups, key="lr", **options):
    defaults = {"lr": 1e-3, "weight_decay": options.pop("default_decay", 0.0)}
    return [group.get(key) for group in scale_groups(groups, options, defaults)]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([{"lr": 1.0}, {"lr": 0.1}], [0.5, 0.05]),
        ([{"lr": 1e-4}, {}], [0.05, 0.5]),  # the one without has the default of 1e-3
        ([{"lr": 1e-2}, {}], [0.5, 0.05]),
        ([{"lr": torch.tensor(2.0)}, {"lr": 1}], [0.5, 0.25]),
        ([{"lr": 0.0}, {"lr": 0.0}], [0.0, 0.0]),
        ([{}, {}], [None, None]),
    ],
)
def test_rates_keep_their_ratios_to_the_highest(groups, expected):
    assert rates(groups, lr=0.5) == pytest.approx(expected)
    assert all(group.keys() <= {"lr"} for group in groups)  # the task's own groups are not changed


def test_weight_decay_keeps_its_ratios_and_its_zeros():
    assert rates([{"weight_decay": 0.1}, {"weight_decay": 0}], "weight_decay", weight_decay=0.3) == [0.3, 0.0]
    assert rates([{"weight_decay": 0.0}, {}], "weight_decay", weight_decay=0.3) == [0.0, None]
    assert rates([{"weight_decay": 0.1}, {}], "weight_decay", weight_decay=0.3) == [0.3, None]
    decays = rates([{"weight_decay": 0.1}, {}], "weight_decay", weight_decay=0.3, default_decay=0.01)
    assert decays == pytest.approx([0.3, 0.03])
    assert rates([{"weight_decay": 0.1}], "weight_decay", lr=0.5) == [0.1]  # an optimizer that has none


def test_plain_parameters_and_other_options_stay_as_they_are():
    params = [torch.nn.Parameter(torch.zeros(2))]
    assert scale_groups(params, {"lr": 0.1}, {"lr": 1.0})[0] is params[0]
    (group,) = scale_groups([{"params": params, "betas": (0.5, 0.9)}], {"lr": 0.1}, {"lr": 1.0})
    assert group == {"params": params, "betas": (0.5, 0.9)}
    assert own_options([group, params[0]]) == ["betas"]


class Grouped(Digits):
    def param_groups(self, model):
        first, *others = model.parameters()
        return [{"params": [first], "lr": 0.02, "weight_decay": 0.0}, {"params": others, "lr": 0.2}]


@pytest.mark.parametrize("optimizer", ["sgd", "sam(sgd)", "torch.optim:SGD"])
def test_a_range_test_and_a_trial_mean_the_same_rate(optimizer, monkeypatch):
    monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": Grouped})
    options = {"lr": 0.3, "weight_decay": 0.1, **({"rho": 0.05} if "sam" in optimizer else {})}
    training = start(Trial("tune", "digits", "arm", optimizer, "cosine", 40, 0, 7, options))
    groups = training.optimizer.param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.03, 0.3])
    assert [group["weight_decay"] for group in groups] == [0.0, 0.1]
    data = list(zip(range(12), training.batches, strict=False))
    found = lr_range(training.model, training.optimizer, training.task.loss, [b for _, b in data], steps=10, high=1e-3)
    assert found.ratios == pytest.approx((0.1, 1.0))


def test_the_searched_rate_has_an_effect_where_all_groups_have_their_own(monkeypatch, tmp_path):
    monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": Grouped})
    study = fl.compare("digits", ["sgd"], steps=40, trials=2, seeds=2, jobs=0, out=tmp_path)
    losses = [study.outcome(trial).metrics["val_loss"] for trial in study.trials if trial.stage == "tune"]
    assert len(set(losses)) == len(losses)
    code = study.best_code()
    assert "opt = fl.SGD(groups, " in code
    assert "groups = list(task.param_groups(model))" in code
    task = Grouped()
    space = {"model": task.model(), "task": task}
    exec(code, space)
    best = study.leaderboard()[0]["lr"]
    assert [group["base_lr"] for group in space["opt"].param_groups] == pytest.approx([best / 10, best], rel=1e-5)
