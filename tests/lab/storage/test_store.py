"""The folder of a study loses nothing and is never half written."""

import errno
import json
from pathlib import Path

import pytest

from fallline.errors import StudyError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.outcome import Costs, Outcome
from fallline.lab.design.spec import Spec
from fallline.lab.search.trials import tune
from fallline.lab.storage.store import Store
from fallline.lab.storage.study_file import read_study

SPEC = Spec("digits", 40, make_arms(["adam", "sgd"], ["cosine"]), 2, 2)
TRIALS = tune(SPEC, {})[0]
OUTCOME = Outcome(None, {"val_loss": 0.1, "train_loss": 1 / 3}, [{"step": 2, "val_loss": 0.5}])
COSTS = Costs(1.0, 2.0, 0.5, 64)
ANALYSIS = {"baseline": "adam", "margin": None}


def test_what_is_saved_is_read_back_exactly(tmp_path):
    Store(tmp_path).save(TRIALS[0], OUTCOME, COSTS)
    store = Store(tmp_path)
    assert (store.outcome(TRIALS[0]), store.costs(TRIALS[0])) == (OUTCOME, COSTS)
    assert store.outcome(TRIALS[1]) is None
    assert not list(tmp_path.rglob(".draft*"))


@pytest.mark.parametrize("damage", ["", "{", '{"trial": {}}', "[]", "null"])
def test_a_damaged_trial_counts_as_missing_and_is_replaced(tmp_path, damage):
    store = Store(tmp_path)
    store.save(TRIALS[0], OUTCOME, COSTS)
    (tmp_path / "trials" / TRIALS[0].id / "trial.json").write_text(damage)
    assert store.outcome(TRIALS[0]) is None
    store.save(TRIALS[0], OUTCOME, COSTS)
    assert store.outcome(TRIALS[0]) == OUTCOME


def test_a_truncated_ledger_line_harms_nothing(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "ledger.jsonl").write_text('{"id": "ab')
    store.save(TRIALS[0], OUTCOME, COSTS)
    assert store.outcome(TRIALS[0]) == OUTCOME
    assert json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[-1])["id"] == TRIALS[0].id


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def full(self, *arguments, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(
        StudyError, match=r"the study must be written to .* got No space left on device; free up disk space"
    ):
        store.save(TRIALS[0], OUTCOME, COSTS)
    monkeypatch.undo()
    assert store.outcome(TRIALS[0]) is None
    assert list((tmp_path / "trials").iterdir()) == []


def test_an_edited_specification_is_told_and_can_fork(tmp_path):
    store = Store(tmp_path)
    store.claim(SPEC, ANALYSIS, {}, fork=False)
    store.claim(SPEC, {"baseline": "sgd", "margin": 0.1}, {}, fork=False)  # decides no number
    assert read_study(tmp_path)["analysis"]["baseline"] == "sgd"
    edited = Spec("digits", 80, SPEC.arms, 2, 2)
    with pytest.raises(StudyError, match=r"another specification \(steps: 40 -> 80\).*--fork"):
        store.claim(edited, ANALYSIS, {}, fork=False)
    store.claim(edited, ANALYSIS, {}, fork=True)
    assert read_study(tmp_path)["spec"]["steps"] == 80
    assert json.loads((tmp_path / "study-1.json").read_text())["spec"]["steps"] == 40


def test_the_order_of_arms_is_no_edit_and_no_difference_in_the_table(tmp_path):
    turned = Spec("digits", 40, SPEC.arms[::-1], 2, 2)
    store = Store(tmp_path)
    store.claim(SPEC, ANALYSIS, {}, fork=False)
    store.claim(turned, ANALYSIS, {}, fork=False)
    for trial in TRIALS:
        store.save(trial, OUTCOME, COSTS)
    tables = []
    for spec in (SPEC, turned):
        store.write_tables(tune(spec, {})[0])
        tables.append((tmp_path / "results.csv").read_bytes())
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 1 + len(TRIALS)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"^out: the study's folder must be writable, got '.*file/study' \(Not a dir"):
        Store(tmp_path / "file" / "study")


def test_reading_no_study_is_one_sentence(tmp_path):
    with pytest.raises(StudyError, match="must be the folder of a study"):
        read_study(tmp_path)


def test_writing_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.write("a.txt", "old")

    def fail(self, target):
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StudyError, match="got no; free up disk space"):
        store.write("a.txt", "new")
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "old" and {p.name for p in tmp_path.iterdir()} == {"a.txt", "trials"}
