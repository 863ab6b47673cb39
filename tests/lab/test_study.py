"""A study from beginning to end: any number of workers, completed, loaded, told apart or not."""

import math

import pytest

import fallline as fl
from fallline.lab import load
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.verdicts import Verdict

TINY = {"steps": 40, "trials": 2, "seeds": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return fl.compare("digits", ["momentum", "adam"], out=tmp_path_factory.mktemp("tiny"), jobs=0, **TINY)


@pytest.mark.slow
def test_the_number_of_workers_and_the_order_of_arms_change_no_byte(tiny, tmp_path):
    fl.compare("digits", ["adam", "momentum"], out=tmp_path, jobs=2, **TINY)
    assert (tmp_path / "results.csv").read_bytes() == (tiny.store.folder / "results.csv").read_bytes()


def test_the_same_call_runs_nothing_again(tiny):
    calls = []
    again = fl.compare("digits", ["momentum", "adam"], out=tiny.store.folder, progress=calls.append, **TINY)
    assert calls == []
    assert again.leaderboard() == tiny.leaderboard()


@pytest.mark.slow
def test_a_deleted_trial_is_run_again_and_gives_the_same(tiny):
    table = (tiny.store.folder / "results.csv").read_bytes()
    trial = tiny.trials[1]
    (tiny.store.folder / "trials" / trial.id / "trial.json").unlink()
    calls = []
    fl.compare("digits", ["momentum", "adam"], out=tiny.store.folder, progress=calls.append, **TINY)
    assert len(calls) == 1 and calls[0].seconds_left >= 0
    assert (tiny.store.folder / "results.csv").read_bytes() == table


def test_a_loaded_study_has_the_same_tables(tiny):
    loaded = load(tiny.store.folder)
    assert loaded.leaderboard() == tiny.leaderboard()
    assert {a: r.sentence for a, r in loaded.results.items()} == {a: r.sentence for a, r in tiny.results.items()}
    assert loaded.baseline == "momentum" and loaded.confirmed("adam") == tiny.confirmed("adam")


def test_only_confirmation_runs_enter_the_headline(tiny):
    confirmed = {t.seed for t in tiny.trials if t.stage == "confirm"}
    assert len(confirmed) == 2 and not confirmed & {t.seed for t in tiny.trials if t.stage == "tune"}
    row = next(row for row in tiny.leaderboard() if row["arm"] == "adam")
    assert row["test_loss"] == pytest.approx(sum(tiny.confirmed("adam")) / 2)


@pytest.mark.slow
def test_an_arm_that_always_fails_is_ranked_last_and_said_to_fail(tmp_path):
    study = fl.compare("digits", ["adam", "sgd@lr=1e30"], out=tmp_path, **TINY)
    assert study.results["sgd@lr=1e30"].verdict is Verdict.FAILED
    assert [row["arm"] for row in study.leaderboard()] == ["adam", "sgd@lr=1e30"]
    assert study.leaderboard()[1]["interior"] is False
    assert any("every tuning trial failed" in warning for warning in study.warnings())
    assert study.report(tmp_path / "report.html").exists()


@pytest.mark.slow
def test_self_check_finds_no_difference_and_a_planted_bad_arm_is_worse(tmp_path):
    study = fl.compare("digits", ["adamw"], self_check=True, trials=8, out=tmp_path / "self")
    assert study.results["adamw (again)"].verdict is Verdict.NOT_DISTINGUISHABLE
    best = study.searches["adamw"].points[study.searches["adamw"].best]["lr"]
    planted = f"adamw@lr={best / 100:.3g}"
    study = fl.compare("digits", ["adamw", planted], trials=8, out=tmp_path / "planted")
    assert study.results[planted].verdict is Verdict.WORSE
    assert study.leaderboard()[-1]["arm"] == planted


def test_an_arm_with_a_failed_seed_has_no_mean(tiny, monkeypatch):
    lost = next(trial.id for trial in tiny.trials if trial.stage == "confirm" and trial.arm == "adam")
    outcome = StudyResults.outcome

    def with_a_failure(self, trial):
        found = outcome(self, trial)
        return found if trial.id != lost else type(found)({"state": "nonfinite", "step": 3, "cause": "planted"}, {}, [])

    monkeypatch.setattr(StudyResults, "outcome", with_a_failure)
    study = load(tiny.store.folder)
    row = next(row for row in study.leaderboard() if row["arm"] == "adam")
    assert (row["failed"], row["seeds"]) == (1, 2)
    assert math.isnan(row["test_loss"]) and math.isnan(row["val_loss"])  # the survivors are not averaged
