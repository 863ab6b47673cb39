"""SOAP of the package pytorch-optimizer as an arm: an optimizer whose states come late and have shapes of their own."""

from pathlib import Path

import pytest
import torch

import fallline as fl
from fallline.lab.analysis.verdicts import Verdict
from fallline.lab.design.arms import make_arms
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import derive
from fallline.lab.run.loop import Checkpoint
from fallline.lab.run.trial import run
from fallline.lab.tasks import Digits

pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
NAME = "pytorch_optimizer:SOAP"


def trial(steps=30):
    return Trial("tune", "digits", "soap", NAME, "constant", steps, 0, 7, {"lr": 3e-3}, warmup=0.0)


def test_a_run_is_the_loop_that_its_user_would_write():
    outcome, _ = run(trial())
    torch.manual_seed(derive(7, "init"))
    task = Digits()
    model = task.model()
    optimizer = pytorch_optimizer.SOAP(model.parameters(), lr=3e-3)
    batches = task.batches("train", torch.Generator().manual_seed(derive(7, "data")))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = task.loss(model, next(batches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first = outcome.curve[0]
    rows = int(first["step"])
    assert first["train_loss"] == pytest.approx(sum(losses[:rows]) / rows, rel=1e-4)
    assert outcome.curve[-1]["step"] == 30


def test_a_run_resumes_from_its_checkpoint(tmp_path, monkeypatch):
    whole, _ = run(trial())
    path = Path(tmp_path / "run.pt")
    saved = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: saved.append(replace(self, to)))
    run(trial(), checkpoint=Checkpoint(path, 20))
    monkeypatch.undo()
    assert len(saved) == 1 and path.exists()
    resumed, _ = run(trial(), checkpoint=Checkpoint(path, 20))
    assert resumed.curve == whole.curve


def test_its_hyperparameters_are_searched_by_their_names():
    (arm,) = make_arms([NAME], ["cosine"])
    assert {"lr", "weight_decay", "beta1", "beta2"} <= {d.name for d in arm.space.dimensions}


@pytest.mark.slow
def test_it_is_compared_like_any_other(tmp_path):
    study = fl.compare("digits", [f"{NAME}@lr=3e-3", "sgd@lr=1e-3"], steps=60, trials=1, seeds=3, jobs=2, out=tmp_path)
    assert study.compare_with("sgd@lr=1e-3")[f"{NAME}@lr=3e-3"].verdict is Verdict.BETTER
