"""A user's own model goes all the way: contract, study, report, and the winner as pasted code."""

from pathlib import Path

import pytest
import torch

import fallline as fl
from fallline.lab.contract.contract import find_breaches
from fallline.lab.report import best_code
from fallline.lab.tasks import get_task

FILE = "examples/unet_shapes.py"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_example_is_short():
    assert len((ROOT / FILE).read_text(encoding="utf-8").splitlines()) < 40


@pytest.mark.slow
def test_a_u_net_runs_through_contract_study_report_and_pasted_winner(at_root, tmp_path):
    task = get_task(f"{FILE}:Shapes")
    assert find_breaches(task) == []
    study = fl.compare(
        f"{FILE}:Shapes", ["adam", "momentum"], steps=40, trials=2, seeds=2, jobs=2, out=tmp_path / "study"
    )
    assert all(row["failed"] == 0 and row["test_loss"] < 0.713 for row in study.leaderboard())  # the pixels' entropy
    report = study.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"{FILE}:Shapes" in report and "U-Net of two levels" in report

    torch.manual_seed(0)
    space = {"model": task.model()}
    exec(best_code(study.record), space)  # defines opt and sched
    batches = task.batches("train", torch.Generator().manual_seed(0))
    losses = []
    for _ in range(40):
        space["opt"].zero_grad()
        losses.append(task.loss(space["model"], next(batches)))
        losses[-1].backward()
        space["opt"].step()
        space["sched"].step()
    assert losses[-1] < 0.713 < losses[0]
