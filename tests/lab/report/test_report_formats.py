"""The report in other formats, in notebooks, and in TensorBoard."""

import csv
import importlib
import io
import json
import math
import re
import sys
from dataclasses import replace

import altair as alt
import pytest

import fallline as fl
from fallline.errors import ArgumentError, MissingExtraError, StudyError
from fallline.lab.analysis.verdicts import Verdict
from fallline.lab.report import (
    FORMATS,
    Records,
    figures,
    summary_html,
    tables,
    to_tensorboard,
    write_formats,
)
from fallline.lab.report.formats import WIDTH, static_spec
from fallline.lab.report.headline import headline
from fallline.lab.report.measure import measure
from fallline.lab.report.tables import to_csv
from fallline.lab.report.topics import document
from fallline.lab.report.topics import figures as page_figures
from fallline.lab.report.topics import tables as every_table
from fallline.lab.report.topics.leaderboard import leaders
from fallline.lab.report.topics.sensitivity import sensitivities
from fallline.lab.report.topics.time_to_target import fixed_target
from fallline.lab.report.topics.training import curves
from fallline.lab.report.topics.tuning_budget import budgets
from fallline.lab.search.trials import confirm, tuning_trials
from fallline.lab.tasks import Digits
from support.studies import changed, lose_a_seed, renamed, traced


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two arms that search weight decay too, and one that fails."""
    arms = ["momentum", "adamw", "sgd@lr=1e30"]
    return fl.compare("digits", arms, steps=20, trials=16, seeds=2, out=tmp_path_factory.mktemp("study"), jobs=0)


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder, write_formats(traced(study).record, folder, FORMATS)


@pytest.mark.slow
def test_every_format_writes_every_table_and_figure(study, written):
    folder, paths = written
    names = {path.relative_to(folder).as_posix() for path in paths}
    drawn = page_figures(traced(study).record)
    assert {"axis-weight_decay", "gradient-norm", "update-norm", "budget-seconds"} <= drawn.keys()
    assert "seconds of tuning (this machine)" in json.dumps(drawn["budget-seconds"].to_dict())
    pictures = {f"figures/{name}.{form}" for name in drawn for form in ("svg", "png", "pdf")}
    csvs = {f"tables/{table.name}.csv" for table in every_table(traced(study).record)}
    assert names == {"report.html", "report.md"} | pictures | csvs
    assert {"leaderboard", "pairwise", "hyperparameters", "time_to_target", "costs", "spikes"} <= tables(
        traced(study).record
    ).keys()
    heads = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF"}
    for path in paths:
        assert path.read_bytes().startswith(heads.get(path.suffix[1:], b""))


@pytest.mark.slow
def test_a_picture_has_the_legend_that_the_page_has_outside_it(study, written):
    folder, _ = written
    for name in page_figures(traced(study).record):
        text = (folder / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert name == "strip" or all(
            f">{arm}</text>" in text or arm == study.baseline for arm in ("momentum", "adamw")
        )
        assert "NaN" not in text, name


@pytest.mark.slow
def test_markdown_says_what_the_page_says(study, written):
    folder, _ = written
    text = (folder / "report.md").read_text(encoding="utf-8")
    report = document(traced(study).record)
    assert text.startswith(f"# {report.headline}\n")
    titles = [report.code.title, "Summary", *(section.title for section in report.sections)]
    assert titles == re.findall(r"^## (.*)$", text, re.M)
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", text)) == {f"figures/{name}.svg" for name in report.charts}
    assert all((folder / link).exists() for link in re.findall(r"\]\((.*?)\)", text))
    shown = sum(len(table.visible_records) + 2 for table in report.tables)
    assert len(re.findall(r"^\|", text, re.M)) == shown  # a line a row, a head and its rule


def test_markdown_alone_shows_no_picture_that_is_not_there(study, tmp_path):
    (path,) = write_formats(study.record, tmp_path, ["md"])
    assert "](" not in path.read_text(encoding="utf-8")


def test_markdown_escapes_names(study, tmp_path):
    (path,) = write_formats(renamed(study, "adamw", "a|b*c<i>").record, tmp_path, ["md"])
    text = path.read_text(encoding="utf-8")
    assert "a\\|b\\*c\\<i\\>" in text and "<i>" not in re.sub(r"```.*?```", "", text, flags=re.S)


@pytest.mark.slow
def test_csv_holds_the_records_unrounded(study, written):
    folder, _ = written
    rows = list(csv.DictReader(io.StringIO((folder / "tables" / "leaderboard.csv").read_text(encoding="utf-8"))))
    for row, expected in zip(rows, study.leaderboard(), strict=True):
        assert row["arm"] == expected["arm"]
        assert row["test_loss"] == ("" if math.isnan(expected["test_loss"]) else repr(expected["test_loss"]))


@pytest.mark.parametrize("formats", [["html", "docx"], []])
def test_an_unknown_format_is_one_sentence(study, tmp_path, formats):
    with pytest.raises(ArgumentError, match=r"format: must be one of html, md, csv, png, svg, pdf, got ('docx'|none);"):
        write_formats(study.record, tmp_path, formats)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"report: the file must be writable, got '.*file'"):
        write_formats(study.record, tmp_path / "file", ["md"])


def test_records_become_a_data_frame(study):
    frame = tables(study.record)["leaderboard"].to_pandas()
    assert list(frame["arm"]) == [row["arm"] for row in study.leaderboard()]


def test_without_pandas_records_name_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match="pip install pandas"):
        Records([{"arm": "adam"}]).to_pandas()


def test_outside_the_page_a_figure_has_a_width_and_its_description_as_title():
    chart = alt.layer(alt.Chart().mark_line()).properties(width="container", description="The loss.")
    spec = static_spec(chart)
    assert spec["width"] == WIDTH and spec["title"]["text"] == "The loss."


@pytest.mark.slow
def test_a_notebook_shows_figures_and_a_summary(study):
    chart = figures(study.record)["learning-rates"]
    assert "text/html" in chart._repr_mimebundle_()
    spec = chart.to_dict()
    assert spec["width"] > 0 and '"orient": "top"' in json.dumps(spec)  # "container" has no width in a notebook
    html = summary_html(renamed(study, "adamw", "<b>").record)
    assert "&lt;b&gt;" in html and "<b>" not in html


def test_tensorboard_holds_every_point_of_every_curve(study, tmp_path):
    accumulators = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    to_tensorboard(traced(study).record, tmp_path)
    assert len(list(tmp_path.rglob("events.*"))) == len(study.trials)
    trial = confirm(study.spec, study.searches["adamw"])[0]
    (folder,) = tmp_path.glob(f"adamw/confirm-{trial.index}-{trial.seed % 10**6:06d}")
    events = accumulators.EventAccumulator(str(folder)).Reload()
    expected = [(row["step"], row["val_loss"]) for row in study.outcome(trial).curve]
    found = [(event.step, event.value) for event in events.Scalars("val_loss")]
    assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]  # stored in single precision
    assert len(events.Scalars("trace/grad_norm")) == trial.steps
    assert events.Scalars("final/test_loss")[0].step == trial.steps


def test_without_tensorboard_the_error_names_it(study, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match="pip install tensorboard"):
        to_tensorboard(study.record, tmp_path)


def test_seconds_of_tuning_are_trials_times_the_median_time(study):
    trials = tuning_trials(study.spec, study.searches["adamw"])[1:]
    times = sorted(study.store.costs(trial).seconds for trial in trials)
    rows = [row for row in budgets(study.record) if row["arm"] == "adamw"]
    assert len(rows) == len(trials)
    assert rows[2]["seconds"] == pytest.approx(3 * (times[len(times) // 2 - 1] + times[len(times) // 2]) / 2)


def test_the_target_is_the_baselines_median_and_lost_with_it(study):
    last = sorted(o.metrics["val_loss"] for o in map(study.outcome, confirm(study.spec, study.searches["momentum"])))
    assert fixed_target(study.record) == pytest.approx(sum(last) / 2)
    broken = lose_a_seed(study, "momentum")  # one of two runs: the median is infinite
    assert fixed_target(broken.record) is None and "time-to-target" not in page_figures(broken.record)


def test_spikes_are_counted_over_the_confirmation_runs(study):
    (row,) = [row for row in tables(traced(study).record)["spikes"] if row["arm"] == "adamw"]
    assert (row["runs"], row["spikes"], row["most_spikes"], row["largest_grad_norm"]) == (2, 1, 1, 1.1)
    assert "spikes" not in tables(study.record) or "gradient-norm" in page_figures(study.record)


@pytest.mark.slow
def test_a_study_by_accuracy_is_compared_by_differences(study, tmp_path, monkeypatch):
    """Higher is better, nothing is a ratio, and the unit of the loss names no accuracy."""
    monkeypatch.setattr(Digits, "metric", "val_accuracy")
    monkeypatch.setattr(Digits, "mode", "max")
    monkeypatch.setattr(Digits, "unit", "bits")
    study = changed(study)
    kind = measure(study.record)
    assert (kind.test, kind.is_loss, kind.title("val_loss")) == ("test_accuracy", False, "validation loss (bits)")
    rates = {row["arm"]: row for row in sensitivities(study.record)}
    outcomes = [study.outcome(trial) for trial in tuning_trials(study.spec, study.searches["adamw"])]
    best = max(o.metrics["val_accuracy"] for o in outcomes if not o.failure)
    assert rates["adamw"]["best"] == best and rates["adamw"]["excess"] > 0
    assert max(row["expected"] for row in budgets(study.record) if row["arm"] == "adamw") <= best
    spec = page_figures(study.record)["learning-rates"].to_dict()
    scales = [
        layer["encoding"]["y"]["scale"] for layer in spec["layer"] if "scale" in layer.get("encoding", {}).get("y", {})
    ]
    assert scales and all(scale.get("type") != "log" for scale in scales)
    text = write_formats(study.record, tmp_path, ["html"])[0].read_text(encoding="utf-8").split("<script>")[0]
    assert "nats" not in text and "higher is better" in text


def test_csv_of_nothing_is_empty_where_there_is_no_number():
    assert to_csv(Records([{"a": math.nan, "b": None, "c": math.inf}])) == "a,b,c\n,,inf\n"


def test_a_failed_run_is_a_red_cross_where_it_failed(study):
    chart = curves(lose_a_seed(study, "adamw").record, "val").to_dict()
    (cross,) = [layer for layer in chart["layer"] if layer["mark"].get("text") == "×"]
    rows = chart["datasets"][cross["data"]["name"]]
    assert [(row["arm"], row["step"]) for row in rows] == [("adamw", 20)]
    red, green, blue = (int(cross["mark"]["color"][i : i + 2], 16) for i in (1, 3, 5))
    assert red > 150 and green < 30 and blue < 30


def test_a_self_check_that_finds_a_difference_has_failed_either_way(study):
    arms = (study.spec.arms[0], replace(study.spec.arms[1], twin=True))
    searches = {arm.name: study.searches[arm.name] for arm in arms}
    result = study.results["adamw"]
    for verdict, word in [(Verdict.BETTER, "failed"), (Verdict.WORSE, "failed"), (Verdict.IDENTICAL, "passed")]:
        twins = replace(study.record, spec=replace(study.spec, arms=arms), searches=searches)
        vars(twins)["comparisons"] = {"adamw": replace(result, verdict=verdict)}  # instead of what it would compute
        assert headline(twins, leaders(study.record)).startswith(f"Self-check {word}: momentum")
