"""The adapter to skorch, with its real networks."""

import numpy as np
import pytest
import torch

from fallline.lab.design.schedules import learning_rates
from support.trials import read_reports, trial_in

skorch = pytest.importorskip("skorch", reason="skorch is not installed: pip install skorch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
from fallline.integrations.skorch import TrialCallback  # noqa: E402

INPUTS = np.random.default_rng(0).standard_normal((80, 3)).astype(np.float32)
CLASSES = (INPUTS.sum(1) > 0).astype(np.int64)


class Rates(skorch.callbacks.Callback):
    def __init__(self):
        self.seen = []

    def on_batch_begin(self, net, training=False, **_):
        if training:
            self.seen.append(net.optimizer_.param_groups[0]["lr"])


def fit(trial):
    torch.manual_seed(trial.seed)
    rates = Rates()
    net = skorch.NeuralNetClassifier(
        torch.nn.Sequential(torch.nn.Linear(3, 2)),
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=2,
        batch_size=16,
        train_split=skorch.dataset.ValidSplit(5, stratified=True),
        callbacks=[TrialCallback(trial), rates],
        verbose=0,
    )
    return net.fit(INPUTS, CLASSES), rates.seen


@pytest.mark.parametrize(("optimizer", "name"), [("adamw", "AdamW"), ("sam(sgd)", "SAM")])
def test_the_arm_trains_and_reports(tmp_path, monkeypatch, optimizer, name):
    options = {"lr": 0.01, "rho": 0.05} if name == "SAM" else {"lr": 0.01}
    net, rates = fit(trial_in(tmp_path, monkeypatch, optimizer=optimizer, options=options))
    assert type(net.optimizer_).__name__ == name
    assert rates == [0.01 * factor for factor in learning_rates("cosine", 8, 0.1)]
    logs, (result,), _ = read_reports(tmp_path)
    batches = [batch["train_loss"] for epoch in net.history for batch in epoch["batches"] if "train_loss" in batch]
    assert [row["train_loss"] for row in logs if "train_loss" in row] == pytest.approx(batches)
    found = net.history[:, ("valid_loss", "valid_acc")]
    assert [(row["val_loss"], row["val_acc"]) for row in logs if "val_loss" in row] == found
    assert (result["val_loss"], result["val_acc"]) == found[-1]
