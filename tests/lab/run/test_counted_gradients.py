"""Optimizers that call their closure several times a step are charged for every evaluation, and stop in time."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.optimizers import get_space
from fallline.lab.design.trial import Trial
from fallline.lab.race import race
from fallline.lab.run.loop import Checkpoint, evaluate
from fallline.lab.run.trial import run, start
from fallline.lab.search.trials import tune
from fallline.lab.specify import specify
from fallline.lab.tasks import Digits
from support.killing import interrupt_training

LBFGS = "torch.optim:LBFGS"


def trial(steps=120, counts=True, optimizer=LBFGS, **options):
    options = {"lr": 0.3, **options}
    task = {"settings": {"batch_size": 1000}, "counts_gradients": counts}  # large batches, which it needs
    return Trial("tune", "digits", "arm", optimizer, "cosine", steps, 0, 7, options, **task)


class Counted(Digits):
    calls = 0

    def loss(self, model, batch):
        type(self).calls += model.training
        return super().loss(model, batch)


@pytest.fixture
def counted(monkeypatch):
    Counted.calls = 0
    monkeypatch.setattr("fallline.lab.tasks.TASKS", {"digits": Counted})
    return Counted


@pytest.mark.parametrize("options", [{}, {"max_iter": 3}, {"line_search_fn": "strong_wolfe"}])
def test_lbfgs_makes_as_many_evaluations_as_it_has(counted, options):
    training = start(trial(**options))
    assert training.run() is None
    longest = training._most_gradients
    assert counted.calls == training.gradients == training.clock.passes
    assert 120 - longest < training.gradients <= 120
    assert training.gradients > len(training.losses)  # with several to a step
    assert training.curve[-1]["step"] == training.gradients
    last = evaluate(training.task, training.model, "val")
    assert training.curve[-1]["val_loss"] == last["val_loss"]


def test_the_schedule_follows_the_evaluations():
    training, used = start(trial(max_iter=3)), []
    step = training.bare_step

    def noted(k):
        used.append(k)
        step(k)
        assert training.optimizer.param_groups[0]["lr"] == 0.3 * training.factors[k]

    training.bare_step = noted
    training.run()
    assert used[0] == 0 and max(b - a for a, b in itertools.pairwise(used)) == training._most_gradients


def test_an_optimizer_with_one_evaluation_a_step_runs_as_without_counting():
    both = [run(trial(40, counts, "schedulefree:SGDScheduleFreeClosure", lr=1.0))[0] for counts in (True, False)]
    assert both[0] == both[1]


def test_a_counted_run_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    one = trial(max_iter=4, lr=0.1)
    whole, _ = run(one)
    steps = interrupt_training(monkeypatch, 17)
    checkpoint = Checkpoint(tmp_path / "run.pt", 10)
    with pytest.raises(KeyboardInterrupt):
        run(one, checkpoint=checkpoint)
    assert run(one, checkpoint=checkpoint)[0] == whole
    assert steps[17] > 30  # it did not begin again


@pytest.mark.parametrize(("equal", "counts"), [("grad-evals", True), ("steps", False), ("trials", False)])
def test_evaluations_are_counted_where_they_are_to_be_equal(equal, counts):
    spec = specify("digits", ["adam", LBFGS], ["cosine"], steps=40, trials=2, seeds=2, equal=equal, examined=True)
    trials, _ = tune(spec, {})
    assert {t.counts_gradients for t in trials if t.optimizer == LBFGS} == {counts}
    assert {t.counts_gradients for t in trials if t.optimizer == "adam"} == {False}
    assert {t.steps for t in trials} == {40}


def test_sam_around_it_is_refused_in_a_sentence():
    with pytest.raises(
        ArgumentError, match=r"sam must wrap an optimizer that steps without a closure, got 'sam\(torch"
    ):
        make_arms([f"sam({LBFGS})"], ["cosine"])
    assert get_space(LBFGS).measured and not get_space("torch.optim:Adam").measured


@pytest.mark.slow
def test_lbfgs_and_muon_are_arms_of_a_study(tmp_path, monkeypatch, fallline):
    page = (Path(__file__).parents[3] / "docs" / "lab.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(  class MuonWithAdamW.*?)```", page, re.DOTALL)
    code = "import torch\n" + re.sub(r"^  ", "", code, flags=re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(code)
    lbfgs = f"{LBFGS}@lr=0.05..0.3"
    optimizers = ["adam", lbfgs, "mine.py:MuonWithAdamW"]
    study = fl.compare(
        "digits", optimizers, steps=60, trials=2, seeds=2, jobs=0, checkpoint_every=20, out=tmp_path / "o"
    )
    rows = {row["arm"]: row for row in study.leaderboard()}
    assert [rows[arm]["failed"] for arm in optimizers] == [0, 0, 0]
    assert rows["mine.py:MuonWithAdamW"]["test_accuracy"] > 0.7 < rows[lbfgs]["test_accuracy"]
    costs = {row["arm"]: row for row in study.costs()}
    assert costs[lbfgs]["passes"] > 2 and costs["adam"]["passes"] == 1
    assert study.report(tmp_path / "report.html").exists()
    # With the default rate of 1, rounding decides whether 10 steps reach NaN.
    for command, optimizer in (("lr-range", LBFGS), ("landscape", f"{LBFGS}@lr=0.01")):
        code, _, err = fallline(command, "digits", "--optimizer", optimizer, "--steps", "10")
        assert code == 0, err


def test_lbfgs_races(fallline):
    (found,) = race("ravine", [LBFGS], lr=0.5, steps=20).runs
    assert math.isfinite(found.values[-1]) and found.values[-1] < 1e-6


def test_muon_needs_matrices():
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([torch.nn.Parameter(torch.zeros(2))])
