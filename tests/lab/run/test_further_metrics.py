"""A further metric that is not finite, or that a run does not have, is a dash, and decides nothing."""

import json
import math

import pytest

from fallline.cli import show
from fallline.lab.comparison import compare
from fallline.lab.report.formats import write_formats
from fallline.lab.report.topics.leaderboard import leaders
from fallline.lab.run.reproduce import reproduce
from fallline.lab.study import load
from support.task_data import LINE

TASK = (
    LINE
    + """
@fl.task(steps=40)
class Line:
    def model(self):
        model = torch.nn.Linear(1, 1)
        model.sure = bool(torch.rand(()) < 0.5)
        return model

    def batches(self, split, generator):
        return batches(split, generator)

    def loss(self, model, batch):
        return torch.nn.functional.mse_loss(model(batch[0]), batch[1])

    def evaluate(self, model, batch):
        sure = {"sure": 1.0} if model.sure else {}  # only some of the seeds have it
        return {"correlation": float("nan"), "ratio": float("inf"), "count": 64.0, **sure}
"""
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("further")
    (folder / "mine.py").write_text(TASK)
    arms = ["sgd@lr=0.3", "adam@lr=0.1"]
    return compare(f"{folder / 'mine.py'}:Line", arms, trials=1, seeds=4, jobs=0, out=folder / "study")


def strict(text):
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_it_fails_no_run_and_is_a_dash_in_every_table(study):
    rows = leaders(study.record)
    assert [row["failed"] for row in rows] == [0, 0] and all(row["finished"] for row in rows)
    assert all(math.isnan(row["test_correlation"]) and math.isnan(row["test_ratio"]) for row in rows)
    assert all(row["test_count"] == 64 and row["test_loss"] < 1 for row in rows)
    with show.console.capture() as capture:
        show.verdict(study)
    assert "nan" not in capture.get() and "inf" not in capture.get().replace("interior", "")


def test_a_metric_that_only_some_runs_have_is_a_dash(study):
    arm = study.arms[0]
    values = study.confirmed(arm, "test_sure")
    assert 0 < sum(map(math.isnan, values)) < 4 and set(values) - {1.0} == {value for value in values if value != value}
    assert all(math.isnan(row.get("test_sure", math.nan)) for row in leaders(study.record))


def test_every_format_is_written_and_all_json_is_json(study, tmp_path):
    assert len(write_formats(study.record, tmp_path, ["html", "md", "csv", "svg"])) > 10
    row = next(line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| 1 | sgd"))
    assert "nan" not in row and "inf" not in row
    assert "nan" not in (tmp_path / "tables" / "leaderboard.csv").read_text()
    assert ",nan" not in (study.store.folder / "results.csv").read_text()
    files = [path for path in study.store.folder.rglob("*.json*") if path.suffix in (".json", ".jsonl")]
    assert len(files) > 6
    for path in files:
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            strict(text)


def test_a_stored_outcome_that_holds_no_number_is_read_and_reproduced(study):
    again = load(study.store.folder)
    assert repr(again.leaderboard()) == repr(study.leaderboard())
    found = reproduce(study.store.folder, study.trials[0].id)
    assert found.equal and not [change for change in found.changes if "correlation" in change or "ratio" in change]


def test_tensorboard_gets_the_finite_ones(study, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study.to_tensorboard(tmp_path)
    run = next(path.parent for path in tmp_path.rglob("events*"))
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    assert (
        "val_loss" in tags
        and "val_count" in tags
        and not [tag for tag in tags if "correlation" in tag or "ratio" in tag]
    )
