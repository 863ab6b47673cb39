"""The page over several studies: every number against the trials behind it."""

import csv
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

import fallline as fl
from fallline.cli import app
from fallline.errors import ArgumentError
from fallline.lab import load, survey
from fallline.lab.analysis.several_tasks import draw_tasks
from fallline.lab.report import write_survey
from fallline.lab.report.survey import practice, ranking, schedules
from fallline.lab.report.survey.page import survey_document, trial_records
from fallline.lab.run.reproduce import reproduce
from support.studies import lose_a_seed, renamed

ARMS = ["momentum", "adamw", "sgd@lr=1e30"]
ADAM, LION = "adam@lr=0.005", "lion@lr=0.001"  # neither fails


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two arms, and one that fails."""
    return fl.compare("digits", ARMS, steps=20, trials=4, seeds=3, out=tmp_path_factory.mktemp("study"), jobs=0)


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    """Three tasks, two optimizers, two schedules."""
    out = tmp_path_factory.mktemp("survey")
    tasks = ["breast-cancer", "diabetes", "digits-cnn"]
    studies = survey(tasks, [ADAM, LION], ["constant", "cosine"], length=0.3, trials=2, seeds=3, out=out, jobs=0)
    return [study.record for study in studies]


def on_task(study, name, folder):
    """The same numbers, as if they were of another task in another folder."""
    task = study.record
    ids = {trial.id: replace(trial, task=name).id for trial in study.trials}
    spec = replace(study.spec, seed=study.spec.seed)
    object.__setattr__(spec, "task", name)
    return replace(
        task, spec=spec, folder=folder, outcomes={ids[trial]: outcome for trial, outcome in task.outcomes.items()}
    )


def ratios(studies, arms):
    names = [f"{i}" for i in range(len(studies))]
    rows = ranking.ratio_table(arms, names, draw_tasks(studies, arms)).records
    return {(row["arm"], row["task"]): row["ratio"] for row in rows}


def test_an_arm_with_a_failed_seed_has_failed_on_the_task(study, tmp_path):
    lost = lose_a_seed(study, "adamw")
    studies = [on_task(study, "digits", tmp_path / "a"), on_task(study, "digits-cnn", tmp_path / "b")]
    studies.append(on_task(lost, "digits", tmp_path / "c"))
    means = {arm: sum(study.confirmed(arm)) / 3 for arm in ("momentum", "adamw")}
    ratio = ratios(studies, ARMS)
    assert ratio["momentum", "0"] == pytest.approx(max(1, means["momentum"] / means["adamw"]))
    assert ratio["adamw", "2"] == ratio["sgd@lr=1e30", "1"] == math.inf and ratio["momentum", "2"] == 1.0
    html, trials = write_survey(studies, tmp_path)
    text = html.read_text(encoding="utf-8")
    assert "A profile depends on the set of arms" in text and "failed on 3" in text
    assert {row["task"] for row in csv.DictReader(trials.read_text(encoding="utf-8").splitlines())} == {
        "digits (a)",
        "digits-cnn",
        "digits (c)",
    }


def test_two_studies_or_the_same_twice_are_refused(study, tmp_path):
    studies = [on_task(study, "digits", tmp_path / name) for name in "aab"]
    with pytest.raises(
        ArgumentError, match="a page over several studies needs at least 3 of them, one per task, got 2"
    ):
        write_survey(studies[1:], tmp_path)
    with pytest.raises(ArgumentError, match="each study may be given only once"):
        write_survey(studies, tmp_path)


def test_results_below_0_have_no_ratios(study, tmp_path):
    studies = [on_task(study, name, tmp_path / name) for name in ("digits", "digits-cnn", "text")]
    trial = studies[2].confirmation_trials("adamw")[0]
    outcome = studies[2].outcome(trial)
    below = replace(outcome, metrics={**outcome.metrics, "test_loss": -0.5})
    studies[2] = replace(studies[2], outcomes={**studies[2].outcomes, trial.id: below})
    with pytest.raises(ArgumentError, match=r"no test loss may be below 0, got -0.5 on text; leave this study out"):
        write_survey(studies, tmp_path)


def test_arms_that_not_every_study_has_are_left_out_and_named(study, tmp_path):
    other = on_task(renamed(study, "adamw", "lion"), "digits", tmp_path / "c")
    studies = [on_task(study, "digits", tmp_path / "a"), on_task(study, "digits-cnn", tmp_path / "b"), other]
    text = write_survey(studies, tmp_path)[0].read_text(encoding="utf-8")
    assert "Left out, because not every study has them: adamw, lion." in text


@pytest.mark.parametrize(
    ("tasks", "options", "said"),
    [
        (["digits", "digits-cnn"], {}, "tasks: must be at least 3 different tasks, got digits, digits-cnn"),
        (["digits", "digits", "text"], {}, "tasks: must be at least 3 different tasks, got digits, digits, text"),
        (["digits", "digits-cnn", "text"], {"length": 0}, "length: must be above 0, got 0"),
        (["digits", "digits-cnn", "tekst"], {}, "task: must be one of"),
    ],
)
def test_a_survey_that_cannot_be_run_is_refused_before_the_first_study(tasks, options, said, tmp_path):
    with pytest.raises(ArgumentError, match=said):
        survey(tasks, ["adam", "lion"], out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_the_steps_of_a_survey_are_a_fraction_of_those_of_each_task(surveyed):
    assert [study.spec.steps for study in surveyed] == [60, 60, 90]
    assert not any(outcome.failure for study in surveyed for outcome in study.outcomes.values())
    assert {study.seeds for study in surveyed} == {3}


def test_every_number_of_the_ratios_is_a_mean_of_the_listed_trials(surveyed):
    arms = surveyed[0].arms
    rows = trial_records(surveyed)
    for study in surveyed:
        own = {arm: [r["value"] for r in rows if (r["task"], r["arm"]) == (study.spec.task, arm)] for arm in arms}
        assert {arm: len(values) for arm, values in own.items()} == dict.fromkeys(arms, 3)
        means = {arm: sum(values) / 3 for arm, values in own.items()}
        shown = {
            arm: ratio for (arm, task), ratio in ratios(surveyed, arms).items() if task == f"{surveyed.index(study)}"
        }
        assert shown == pytest.approx({arm: mean / min(means.values()) for arm, mean in means.items()})
        files = {path.parent.name for path in study.folder.glob("trials/*/trial.json")}
        assert {row["trial"] for row in rows if row["task"] == study.spec.task} <= files


def test_a_listed_trial_can_be_reproduced(surveyed):
    row = trial_records(surveyed)[-1]
    found = reproduce(surveyed[-1].folder, row["trial"])
    assert found.equal and found.trial.arm == row["arm"]


def test_ranks_are_those_of_the_means(surveyed):
    arms = surveyed[0].arms
    table = ranking.rank_table(arms, ["perceptron", "perceptron", "convolutional"], draw_tasks(surveyed, arms))
    places = [sorted(arms, key=lambda arm, s=study: sum(s.confirmed(arm))) for study in surveyed]
    for row in table.records:
        right = [place.index(row["arm"]) + 1 for place in places]
        assert row["rank"] == pytest.approx(sum(right) / 3)
        assert row["rank_perceptron"] == pytest.approx(sum(right[:2]) / 2) and row["rank_convolutional"] == right[2]
        assert 1 <= row["rank_low"] <= row["rank_high"] <= 4 and row["wins"] == right.count(1)
    assert [row["rank"] for row in table.records] == sorted(row["rank"] for row in table.records)


def test_schedules_are_compared_with_the_first_one_of_the_same_optimizer(surveyed):
    arms = surveyed[0].spec.arms
    (block,) = schedules.section(arms, draw_tasks(surveyed, [arm.name for arm in arms])).blocks
    rows = {row["arm"]: row for row in block.table.records}
    assert {name: row["against"] for name, row in rows.items()} == {
        f"{ADAM} + cosine": f"{ADAM} + constant",
        f"{LION} + cosine": f"{LION} + constant",
    }
    logs = [math.log(sum(s.confirmed(f"{LION} + cosine")) / sum(s.confirmed(f"{LION} + constant"))) for s in surveyed]
    found = rows[f"{LION} + cosine"]
    assert found["ratio"] == pytest.approx(math.exp(sum(logs) / 3)) and found["low"] < found["ratio"] < found["high"]
    assert schedules.section(arms[:1], draw_tasks(surveyed, [arms[0].name])) is None


def test_the_gain_of_tuning_and_the_costs_are_those_of_the_studies(surveyed):
    arms = surveyed[0].arms
    boards = [{row["arm"]: row for row in study.leaderboard()} for study in surveyed]
    for row in practice.default_table(surveyed, arms).records:
        gains = [board[row["arm"]]["default_val_loss"] / board[row["arm"]]["tuned_val_loss"] for board in boards]
        assert row["factor"] == pytest.approx(median(gains)) and row["failed"] == 0
        assert row["least"] == min(gains) >= 1 and row["most"] == max(gains)
    for row in practice.rate_table(surveyed, arms).records:
        rates = [board[row["arm"]]["lr"] for board in boards]
        assert (row["lowest_lr"], row["highest_lr"]) == (min(rates), max(rates))
    rows = {row["arm"]: row for row in practice.cost_table(surveyed, arms, f"{ADAM} + constant").records}
    assert rows[f"{ADAM} + constant"]["state"] == 1 and rows[f"{LION} + cosine"]["state"] == pytest.approx(
        0.5, rel=0.01
    )


def test_the_page_has_every_section(surveyed, tmp_path):
    titles = [section.title for section in survey_document(surveyed).sections]
    assert titles == ["Performance profile", "Ranks", "Schedules", "Tuning", "Time and memory", "Arms and tasks"]
    paths = write_survey(surveyed, tmp_path, ["html", "md", "svg"])
    assert [path.name for path in paths] == ["survey.html", "profile.svg", "ranks.svg", "survey.md", "trials.csv"]
    assert "perceptron (2 tasks)" in (tmp_path / "survey.md").read_text(encoding="utf-8")


def run(out):
    words = "survey breast-cancer diabetes digits --optimizers adam,lion --length 0.1 --trials 1 --seeds 2 -j 1"
    return [sys.executable, "-m", "fallline", *words.split(), "--out", str(out)]


@pytest.mark.slow
def test_a_survey_that_was_killed_twice_and_resumed_equals_one_that_was_not(tmp_path, monkeypatch):
    subprocess.run(run(tmp_path / "whole"), check=True, capture_output=True)
    for count in (2, 7):
        with subprocess.Popen(
            run(tmp_path / "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            while len(list((tmp_path / "killed").glob("*/trials/*/trial.json"))) < count:
                assert process.poll() is None
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "killed" / "survey.html").exists()
    monkeypatch.setattr("sys.argv", run(tmp_path / "killed")[2:])
    assert app.run() == 0
    trials = [(tmp_path / name / "trials.csv").read_text(encoding="utf-8") for name in ("whole", "killed")]
    assert trials[0] == trials[1] and trials[0].count("\n") == 1 + 3 * 2 * 2
    for task in ("breast-cancer", "diabetes", "digits"):
        tables = [
            Path(tmp_path / name / task / "results.csv").read_text(encoding="utf-8") for name in ("whole", "killed")
        ]
        assert tables[0] == tables[1]
        assert load(tmp_path / "killed" / task).spec.task == task
