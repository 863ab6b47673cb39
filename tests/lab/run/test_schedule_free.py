"""The package schedulefree itself, as an arm, in range tests, races and landscapes; not a stand-in."""

import copy

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.errors import LandscapeWarning
from fallline.lab.design.arms import make_arms
from fallline.lab.design.trial import Trial
from fallline.lab.race import race
from fallline.lab.run.curvature import measure_curvature
from fallline.lab.run.eval_mode import evaluation_weights
from fallline.lab.run.loop import Checkpoint, evaluate
from fallline.lab.run.trial import run, start
from fallline.lab.tasks import Digits, get_task
from fallline.landscape import lr_range
from fallline.problems import PROBLEMS
from support.killing import interrupt_training

schedulefree = pytest.importorskip("schedulefree")
SWITCHED = ["AdamWScheduleFree", "SGDScheduleFree", "RAdamScheduleFree"]
EVERY = [*SWITCHED, "AdamWScheduleFreeClosure", "SGDScheduleFreeClosure"]


def trial(name, steps=40, **options):
    name = f"schedulefree:{name}"
    if options.pop("sam", False):
        name, options = f"sam({name})", {"rho": 0.05, **options}
    return Trial(
        "confirm",
        "digits",
        "arm",
        name,
        "constant",
        steps,
        0,
        7,
        {"lr": 2.0 if "SGD" in name else 0.02, **options},
        warmup=0.0,
    )


@pytest.mark.parametrize("name", EVERY)
def test_a_run_is_the_loop_of_its_documentation(name):
    one = trial(name)
    outcome, costs = run(one)
    training = start(one)  # model, batches and seeds of the trial; the loop is written again here
    model, optimizer, task = (
        training.model,
        getattr(schedulefree, name)(training.model.parameters(), lr=one.options["lr"]),
        Digits(),
    )
    getattr(optimizer, "train", lambda: None)()
    losses = []
    for _ in range(40):
        batch = next(training.batches)

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            losses.append(loss.item())
            return loss

        if "Closure" in name:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    getattr(optimizer, "eval", lambda: None)()
    expected = evaluate(task, model, "val") | evaluate(task, model, "test")
    assert outcome.failure is None and costs.passes == 1
    # Evaluations on the way change no bit of the training.
    assert outcome.metrics["val_loss"] == expected["val_loss"] and outcome.metrics["test_loss"] == expected["test_loss"]


@pytest.mark.parametrize("sam", [False, True])
@pytest.mark.parametrize("name", SWITCHED)
def test_evaluation_changes_no_bit_of_the_training(name, sam):
    training = start(trial(name, sam=sam))
    for k in range(12):
        training.step(k)
    before = copy.deepcopy([p.detach() for p in training.model.parameters()])
    seen = training.evaluate("val")
    after = [p.detach() for p in training.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert training.optimizer.param_groups[0]["train_mode"]
    assert seen != evaluate(training.task, training.model, "val")  # with the weights that are trained at
    with evaluation_weights(training.optimizer):
        assert seen == evaluate(training.task, training.model, "val")


@pytest.mark.parametrize("sam", [False, True])
def test_a_checkpoint_is_resumed_bit_for_bit(sam, tmp_path, monkeypatch):
    one = trial("AdamWScheduleFree", sam=sam)
    whole, _ = run(one)
    interrupt_training(monkeypatch, 18)
    with pytest.raises(KeyboardInterrupt):
        run(one, checkpoint=Checkpoint(tmp_path / "run.pt", 7))
    assert run(one, checkpoint=Checkpoint(tmp_path / "run.pt", 7))[0] == whole


def test_a_range_test_leaves_it_as_it_was():
    training = start(trial("AdamWScheduleFree"))
    for k in range(3):
        training.step(k)
    training.optimizer.eval()
    before = copy.deepcopy((training.model.state_dict(), training.optimizer.state_dict()))
    batches = [batch for _, batch in zip(range(20), training.batches, strict=False)]
    found = lr_range(training.model, training.optimizer, training.task.loss, batches, steps=100, low=1e-4)
    assert found.low < found.suggestion <= found.high
    assert repr((training.model.state_dict(), training.optimizer.state_dict())) == repr(before)
    assert not training.optimizer.param_groups[0]["train_mode"]


def test_a_race_shows_the_averaged_weights():
    (found,) = race("ravine", ["schedulefree:SGDScheduleFree"], lr=0.03, steps=50).runs
    point = torch.nn.Parameter(torch.tensor(PROBLEMS["ravine"].start, dtype=torch.float64))
    optimizer = schedulefree.SGDScheduleFree([point], lr=0.03)
    for _ in range(50):
        optimizer.train()
        optimizer.zero_grad()
        PROBLEMS["ravine"](point).backward()
        optimizer.step()
        optimizer.eval()
    assert found.points[-1] == pytest.approx(point.detach().numpy(), rel=1e-9)
    assert np.isfinite(found.values).all()


def test_a_landscape_is_that_of_the_weights_that_would_be_used():
    (arm,) = make_arms(["schedulefree:AdamWScheduleFree@lr=0.02"], ["constant"])
    with pytest.warns(LandscapeWarning, match="the stability limit is not shown"):  # that of its stability is not known
        found = measure_curvature(get_task("digits"), arm=arm, steps=20, items=64, cells=0)
    training = start(
        Trial("tune", "digits", "a", "schedulefree:AdamWScheduleFree", "constant", 20, 0, 0, {"lr": 0.02}, 0)
    )
    for k in range(20):
        training.bare_step(k)
    with evaluation_weights(training.optimizer), torch.no_grad():
        expected = training.task.loss(training.model.eval(), next(training.batches)).item()
    assert found.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_schedule_free_arms_are_a_study_and_commands_take_them(tmp_path, monkeypatch, fallline):
    monkeypatch.chdir(tmp_path)
    optimizers = ["adamw", "schedulefree:AdamWScheduleFree", "sam(schedulefree:SGDScheduleFree)"]
    study = fl.compare("digits", optimizers, ["constant"], steps=60, trials=2, seeds=2, jobs=0, out=tmp_path / "out")
    assert all(row["failed"] == 0 for row in study.leaderboard())
    code, out, err = fallline("lr-range", "digits", "--optimizer", "schedulefree:AdamWScheduleFree", "--steps", "20")
    assert code == 0 and "suggestion: lr" in out, err
    code, out, err = fallline("race", "saddle", "--optimizers", "sgd,schedulefree:SGDScheduleFree", "--lr", "0.02")
    assert code == 0, err
