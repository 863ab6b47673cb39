"""From a question to a finished study: what is refused, called back, counted, reproduced."""

import json
import shutil
import warnings

import pytest
import torch
from rich.cells import cell_len

import fallline as fl
from fallline.errors import ArgumentError, StudyError, TaskWarning
from fallline.lab import comparison, load
from fallline.lab.contract.preflight import count_evaluations
from fallline.lab.exercises import EXERCISES, get_exercise
from fallline.lab.run.reproduce import reproduce
from fallline.lab.specify import specify
from fallline.lab.tasks import Digits
from support.terminals import without_progress

TINY = {"steps": 40, "trials": 2, "seeds": 2, "jobs": 0}
TINY_WORDS = ["--trials", "2", "--seeds", "2", "--steps", "40", "-j", "0"]


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    return fl.compare("digits", ["momentum", "sam(momentum)"], out=tmp_path_factory.mktemp("sam"), **TINY)


def test_every_finished_trial_is_called_back(tmp_path):
    seen = []
    study = fl.compare("digits", ["adam"], out=tmp_path, callbacks=[lambda *both: seen.append(both)], **TINY)
    assert [(trial.id, outcome) for trial, outcome in seen] == [(t.id, study.outcome(t)) for t in study.trials]


def test_a_command_may_use_all_cores_of_this_machine_but_not_of_a_cluster(tmp_path):
    options = {"trials": 2, "seeds": 2, "loop": {"command": "python train.py --seed {seed}"}, "examined": True}
    spec = specify("", ["adamw"], ["cosine"], **options)
    anywhere = comparison.Workers(
        jobs=None, shard=None, ray=None, checkpoint_every=None, device="cpu", devices=(), ray_resources=""
    )
    assert comparison.share_machine(anywhere, spec)["jobs"] == 1
    for other in ({"jobs": 2}, {"ray": "auto"}, {"devices": ("cuda:0",)}):
        assert comparison.share_machine({**anywhere, **other}, spec) == {**anywhere, **other}
    assert comparison.share_machine(anywhere, specify("digits", ["adamw"], ["cosine"], examined=True))["jobs"] is None


def test_sam_is_confirmed_at_equal_gradients_and_at_equal_steps(sam):
    row = next(row for row in sam.leaderboard() if row["arm"] == "sam(momentum)")
    assert row["steps"] == 20
    longer = sam.confirmed("sam(momentum)", stage="equal-steps")
    assert len(longer) == 2 and longer != sam.confirmed("sam(momentum)")
    assert sam.confirmed("momentum", stage="equal-steps") == [None, None]  # its steps are equal already
    assert [c["passes"] for c in sam.costs()] == [1, 2]


def test_costs_have_a_timing_pass_of_their_own(sam):
    for row in sam.costs():
        median, low, high = row["step_ms"]
        assert row["timed_alone"] and 0 < low <= median <= high
        assert 0 < row["evaluation_s"] < row["seconds"]
        assert row["memory_bytes"] > row["state_bytes"] > 0
    again = load(sam.store.folder)
    assert again.costs() == sam.costs()


def test_data_that_have_changed_are_refused(tmp_path, monkeypatch):
    fl.compare("digits", ["adam"], out=tmp_path, **TINY)
    monkeypatch.setattr(Digits, "data_digest", lambda self: "other")
    with pytest.raises(StudyError, match=r"another specification \(data: hash \w{16} -> other\); .*--fork"):
        fl.compare("digits", ["adam"], out=tmp_path, **TINY)


class Leaky(Digits):
    """Validation has one image of training."""

    def load(self, split):
        images, labels = super().load(split)
        if split != "val":
            return images, labels
        image, label = super().load("train")
        return torch.cat([images, image[:1]]), torch.cat([labels, label[:1]])


def test_a_task_is_checked_before_anything_is_run(tmp_path, monkeypatch):
    class Dead(Digits):
        def loss(self, model, batch):
            return super().loss(model, batch).detach()

    monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": Dead})
    with pytest.raises(StudyError, match="loss must have a gradient, got none"):
        fl.compare("digits", ["adam"], out=tmp_path, **TINY)
    assert not (tmp_path / "trials").exists()
    monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": Leaky})
    with pytest.warns(TaskWarning, match="no example should be in two splits, got 1 "):
        fl.compare("digits", ["adam"], out=tmp_path, **TINY)
    with warnings.catch_warnings():  # not again when the study is completed
        warnings.simplefilter("error")
        fl.compare("digits", ["adam"], out=tmp_path, **TINY)


def test_evaluations_are_counted_by_items_not_by_a_clock():
    assert count_evaluations(Digits(), 400) == 20
    # 100 steps of 64 images are 6,400; a pass over 360 costs a third of as many steps' worth: 0.15 × 6400 / 120 = 8
    assert count_evaluations(Digits(), 100) == 8
    assert count_evaluations(Digits(batch_size=16), 100) == 2


def test_a_stored_trial_is_reproduced_to_the_bit_and_a_changed_one_is_told(sam):
    trial = sam.trials[-1]
    assert reproduce(sam.store.folder, trial.id[:6]).equal
    path = sam.store.folder / "trials" / trial.id / "trial.json"
    text = path.read_text()
    record = json.loads(text)
    record["outcome"]["metrics"]["test_loss"] += 1e-9
    try:
        path.write_text(json.dumps(record))
        found = reproduce(sam.store.folder, trial.id)
        assert not found.equal and any(change.startswith("test_loss was") for change in found.changes)
    finally:
        path.write_text(text)
    with pytest.raises(StudyError, match="must be the id of one trial"):
        reproduce(sam.store.folder, "")


def test_reproduce_on_the_command_line(fallline, sam):
    code, out, err = fallline("reproduce", sam.store.folder, "--trial", sam.trials[0].id)
    assert (code, err) == (0, "") and "every number is the same" in out


def test_a_dry_run_runs_nothing(fallline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fallline("compare", "digits", "--dry-run", "--optimizers", "adam,sam(sgd)", *TINY_WORDS)
    assert (code, err) == (0, "") and "trials: 12, up to 16" in out  # (3 + 2) + (3 + 2 + 2), two extensions of 1 each
    assert "with 1 worker\n" in out  # this process
    assert max(map(cell_len, out.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []


def test_status_counts_what_is_there(fallline, sam, tmp_path):
    words = ["compare", "digits", "--optimizers", "momentum,sam(momentum)", *TINY_WORDS, "--status", "--out"]
    code, out, _ = fallline(*words, sam.store.folder)
    assert code == 0 and "all trials are finished" in out and "4 of 4" in out
    code, _, err = fallline(*words, tmp_path / "none")
    said = f"fallline: out: must be the folder of a study (with a study.json), got '{tmp_path / 'none'}'; "
    assert code == 2 and err.startswith(said) and not (tmp_path / "none").exists()


def test_status_says_that_nothing_is_missing_only_when_nothing_is(fallline, sam, tmp_path):
    words = ["compare", "digits", *TINY_WORDS, "--status", "--out"]
    shutil.copytree(sam.store.folder, tmp_path / "sam")
    lost = next(trial for trial in sam.trials if (trial.stage, trial.arm) == ("confirm", "momentum"))
    shutil.rmtree(tmp_path / "sam/trials" / lost.id)
    code, out, _ = fallline(*words, tmp_path / "sam", "--optimizers", "momentum,sam(momentum)")
    assert code == 0 and "1 of 2" in out and "4 of 4" in out and "all trials are finished" not in out
    fl.compare("digits", ["sgd@lr=1e30"], out=tmp_path / "failed", **TINY)
    code, out, _ = fallline(*words, tmp_path / "failed", "--optimizers", "sgd@lr=1e30")
    assert code == 0 and "0 of 0" in out and "all trials are finished" in out


@pytest.mark.slow
def test_warmup_and_batch_size_are_varied_from_the_command_line(fallline, tmp_path):
    words = ["--vary", "batch_size=32,64", "--vary", "warmup=0,0.1", "--optimizers", "adam", *TINY_WORDS]
    code, out, err = fallline("compare", "digits", *words, "--out", tmp_path)
    assert code == 0 and not without_progress(err)
    arms = {arm.name: (arm.settings, arm.fixed) for arm in load(tmp_path).spec.arms}
    assert arms["adam, batch_size=32, warmup=0.1"] == ({"batch_size": 32}, {"warmup": 0.1})
    assert len(arms) == 4 and max(map(cell_len, out.splitlines()[:-1])) <= 80


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--vary", "warmup"], "vary: must be NAME=VALUE,VALUE… with two values or more, got 'warmup'"),
        (["--set", "batch_size"], "set: must be NAME=VALUE, got 'batch_size'"),
        (["--set", "width=3"], "its settings are batch_size, precision, got width=3"),
        (["--quick", "--thorough"], "only one can be given, got both"),
        (["--budget", "10m", "--quick"], "budget: must be given without quick, thorough, trials or seeds"),
        (["--budget", "soon"], "budget: must be a time above 0 like 90s, 10m or 1.5h, got 'soon'"),
        (["--equal", "time"], "equal: must be one of grad-evals, steps, trials, got 'time'"),
        (["--horizon", "2"], "horizon: must be in (0, 1], got horizon=2"),
        (["--horizon", "0.02"], "must be at least 20 in every run"),
        (["--trials", "0"], "compare: trials must be an int >= 1, got trials=0"),
        (
            ["--seeds", "0"],
            "seeds: must be a whole number >= 2, or a range FEWEST < MOST, got seeds=0",
        ),
        (["--searches", "0"], "searches must be an int >= 1, got searches=0"),
        (["--steps", "0"], "steps: must be at least 20 in every run"),
        (["--schedules", "none.py:shape"], "schedules: none.py must be a file, got 'none.py:shape'"),
        (["--vary", "batch_size=0,64"], "vary: batch_size must be at least 1, got batch_size=0"),
        (["--device", "cuda:x"], "device: must be cpu or cuda:N of this machine, got 'cuda:x' (Invalid device"),
        (["--dry-run", "-j", "-1"], "jobs must be an int >= 0, got jobs=-1"),
        (["--searches", "-1"], "searches must be an int >= 1, got searches=-1"),
    ],
)
def test_errors_of_use(fallline, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fallline("compare", "digits", *words)
    assert code == 2 and sentence in err and err.count("\n") == 1 and out == ""
    assert list(tmp_path.iterdir()) == []


def test_thorough_is_three_searches(fallline):
    spec = specify("digits", ["adam"], ["cosine"], trials=32, searches=3, seeds=10)
    code, out, _ = fallline("compare", "digits", "--optimizers", "adam", "--thorough", "--dry-run")
    trials = 1 + 3 * 32 + 3 * 2 + 10
    assert code == 0 and f"trials: {trials}, up to {trials + 2 * 3 * 16}" in out and spec.searches == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", EXERCISES)
def test_every_exercise_is_a_study_like_any_other(fallline, number, tmp_path):
    task = "digits"
    code, out, err = fallline("exercise", number, "--task", task, "--quick", "--steps", 40, "-j", 0, "--out", tmp_path)
    exercise = get_exercise(number)
    assert code == 0 and not without_progress(err)
    assert " ".join(out.split()).startswith(exercise.question)
    assert "spikes by seed" in out and (tmp_path / "report.html").exists()
    study = load(tmp_path)
    wanted = len(exercise.optimizers) * len(exercise.schedules) * max(1, *map(len, exercise.vary.values()), 1)
    assert len(study.arms) == wanted and study.baseline == exercise.baseline


def test_a_mistyped_task_of_an_exercise_is_one_sentence_and_no_more(fallline):
    code, out, err = fallline("exercise", "2", "--task", "bad")
    assert (code, out) == (2, "") and "got 'bad'" in err and err.count("\n") == 1


def test_a_quick_exercise_on_text_makes_fewer_steps(fallline, tmp_path, monkeypatch):
    asked = []

    def record(*_, **options):
        asked.append(options["steps"])
        raise ArgumentError("task: asked")

    monkeypatch.setattr("fallline.lab.comparison.compare", record)
    for words in (["3", "--quick"], ["1", "--task", "text", "--quick", "--steps", 50], ["3"], ["2", "--quick"]):
        assert fallline("exercise", *words)[0] == 2
    assert asked == [200, 50, None, None]


def test_there_are_three_exercises():
    assert [get_exercise(n).task for n in EXERCISES] == ["cifar10", "cifar10", "text-post"]
    with pytest.raises(ArgumentError, match="exercise: must be one of 1, 2, 3, got 4"):
        get_exercise(4)


def test_the_command_line_and_python_run_the_same_study_by_the_same_function(fallline, monkeypatch, tmp_path):
    calls = []

    def run(*arguments, fork, **told):
        calls.append((*arguments, fork))
        raise StudyError("enough")

    monkeypatch.setattr(comparison, "run_comparison", run)
    with pytest.raises(StudyError, match="enough"):
        comparison.compare("digits", ["sgd"], trials=2, seeds=2, steps=40, jobs=1, margin=0.1, out=tmp_path)
    words = ["--optimizers", "sgd", "--trials", "2", "--seeds", "2", "--steps", "40", "-j", "1", "--margin", "0.1"]
    assert fallline("compare", "digits", *words, "--out", tmp_path)[0] == 2
    assert calls[0] == calls[1]
