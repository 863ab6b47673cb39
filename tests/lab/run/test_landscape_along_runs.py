"""The landscape along a run: measured where it should be, right, and without a trace in the run itself."""

import math
from dataclasses import replace

import pytest
import torch

import fallline as fl
from fallline.lab.design.trial import Trial
from fallline.lab.report.topics.landscape import landscape
from fallline.lab.run.landscape import Waypoints
from fallline.lab.run.loop import Checkpoint
from fallline.lab.run.trial import run
from fallline.lab.tasks import Task
from support.killing import interrupt_training

PLAIN = Trial("confirm", "digits", "momentum", "sgd", "cosine", 40, 0, 7, {"lr": 0.1, "momentum": 0.9})
MEASURED = replace(PLAIN, landscape=True)
X = torch.tensor([[2.0, 0.0], [0.0, 1.0]])


class Bowl(Task):
    name, steps, summary = "bowl", 10, "w'·H·w/2 with H = diag(4, 1)"

    def model(self):
        return torch.nn.Linear(2, 1, bias=False)

    def batches(self, split, generator):
        while True:
            yield X

    def loss(self, model, batch):
        return model(batch).square().sum() / 2


def test_a_bowl_is_measured_exactly():
    task, model = Bowl(), Bowl().model()
    before = [torch.tensor([[1.0, 1.0]])]
    waypoints = Waypoints(task, [1.0] * 10, 0)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.6, 0.9]]))  # one step of 0.1 down the gradient (4, 1)
    waypoints.keep(model, before, 0.1)
    waypoints.after(1, model)
    (row,) = waypoints.rows
    assert row["sharpness"] == pytest.approx(4, rel=1e-3) and row["lambda_min"] == pytest.approx(1, rel=1e-3)
    assert row["trace"] == pytest.approx(5, rel=1e-5)  # sign vectors are exact on a diagonal
    # Along −(4, 1) from (0.6, 0.9) the loss first falls by 4·2.4 + 0.9 a unit and has waypoints 4·16 + 1: it is back
    # where it was at η = 2·10.5/65. The bracket is 1 % wide.
    assert row["critical_sharpness"] == pytest.approx(65 / 10.5, rel=0.01)


def test_an_update_that_raises_the_loss_has_no_critical_sharpness():
    model = Bowl().model()
    waypoints = Waypoints(Bowl(), [1.0] * 10, 0)
    waypoints.keep(model, [p.detach() / 2 for p in model.parameters()], 0.1)  # away from the minimum
    waypoints.after(1, model)
    assert math.isnan(waypoints.rows[0]["critical_sharpness"])


def test_a_loss_that_has_run_away_ends_no_study():
    model = Bowl().model()
    with torch.no_grad():
        model.weight.fill_(1e30)  # finite, but its square is not
    waypoints = Waypoints(Bowl(), [1.0] * 10, 0)
    waypoints.keep(model, [p.detach() / 2 for p in model.parameters()], 0.1)
    waypoints.after(1, model)
    assert waypoints.rows == []


def test_an_error_of_a_measurement_leaves_out_its_point_and_nothing_else(monkeypatch):
    plain = run(PLAIN)[0]

    def broken(*arguments, **options):
        # PyTorch raises this for an operation that has no second derivative.
        raise NotImplementedError("derivative for aten::_thing is not implemented")

    monkeypatch.setattr("fallline.lab.run.landscape.eigsh", broken)
    with pytest.warns(fl.errors.LandscapeWarning, match="is omitted because measuring it raised NotImpl"):
        measured = run(MEASURED)[0]
    assert measured.landscape == [] and measured.failure is None and measured.metrics == plain.metrics


@pytest.mark.slow
def test_measuring_changes_no_number_of_the_run():
    plain, measured = run(PLAIN)[0], run(MEASURED)[0]
    assert [row["step"] for row in measured.landscape] == [1, 20, 40] and plain.landscape == []
    assert (plain.metrics, plain.curve, plain.trace) == (measured.metrics, measured.curve, measured.trace)


@pytest.mark.slow
def test_a_resumed_run_measures_the_same(tmp_path, monkeypatch):
    whole = run(MEASURED)[0]
    interrupt_training(monkeypatch, 28)
    checkpoint = Checkpoint(tmp_path / "run.pt", 10)
    with pytest.raises(KeyboardInterrupt):
        run(MEASURED, checkpoint=checkpoint)
    assert run(MEASURED, checkpoint=checkpoint)[0].landscape == whole.landscape


@pytest.mark.slow
def test_the_report_shows_flat_against_sharp(tmp_path):
    study = fl.compare(
        "digits", ["momentum", "sam(momentum)"], steps=40, trials=2, seeds=2, landscape=True, jobs=1, out=tmp_path
    )
    table = landscape(study.record)
    assert len(table.records) == 2 * 2 * 3 and {row["stage"] for row in table.records} == {"start", "middle", "end"}
    assert all(row["sharpness"] > 0 > row["lambda_min"] for row in table.records)
    page = study.report(tmp_path / "report.html").read_text()
    assert "<h2>Landscape" in page and "Sharpness of the confirmation runs" in page
