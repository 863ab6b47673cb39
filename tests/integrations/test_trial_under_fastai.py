"""The adapter to fastai, with its real Learner."""

import pytest
import torch

from fallline.errors import ArgumentError
from fallline.lab.design.schedules import learning_rates
from support.trials import read_reports, trial_in

basics = pytest.importorskip("fastai.basics", reason="fastai is not installed: pip install fastai")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
from fallline.integrations.fastai import TrialCallback  # noqa: E402

INPUTS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))


class Rates(basics.Callback):
    def before_batch(self):
        if self.training:
            self.learn.seen.append(self.opt.param_groups[0]["lr"])

    def after_batch(self):
        if self.training:
            self.learn.losses.append(float(self.loss))  # the Recorder smooths them


def learner_of(trial):
    rows = list(zip(INPUTS, INPUTS.sum(1, keepdim=True), strict=True))
    loaders = [basics.DataLoader(part, bs=8, shuffle=k == 0, num_workers=0) for k, part in enumerate((rows, rows[:16]))]
    torch.manual_seed(trial.seed)
    model = torch.nn.Linear(3, 1)
    learn = basics.Learner(
        basics.DataLoaders(*loaders),
        model,
        torch.nn.MSELoss(),
        metrics=[basics.mae],
        cbs=[TrialCallback(trial), Rates()],
    )
    learn.seen, learn.losses = [], []
    return learn


def test_the_arm_trains_and_reports(tmp_path, monkeypatch, capsys):
    learn = learner_of(trial_in(tmp_path, monkeypatch))
    with learn.no_bar():
        learn.fit(2)
        (_, *first), (_, *last) = learn.recorder.values
        learn.validate()  # fastai calls before_fit and after_fit here too
    assert learn.seen == [0.01 * factor for factor in learning_rates("cosine", 16, 0.1)]
    logs, (result,), _ = read_reports(tmp_path)
    assert [row["train_loss"] for row in logs if "train_loss" in row] == pytest.approx(learn.losses)
    assert [(row["step"], row["val_loss"], row["val_mae"]) for row in logs if "val_loss" in row] == [
        (8, *first),
        (16, *last),
    ]
    assert [result["val_loss"], result["val_mae"]] == last


def test_a_second_schedule_is_refused(tmp_path, monkeypatch, capsys):
    learn = learner_of(trial_in(tmp_path, monkeypatch))
    with learn.no_bar(), pytest.raises(ArgumentError, match="the trial must set the learning rate alone"):
        learn.fit_one_cycle(1)
