"""One training run: deterministic, common to all arms, honest about failure."""

import inspect
import math

import pytest
import torch

import fallline as fl
from fallline.lab.design.arms import make_arms
from fallline.lab.design.optimizers import keywords
from fallline.lab.design.schedules import SCHEDULES, learning_rates
from fallline.lab.design.spaces import SPACES, derived
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.isolation import derive
from fallline.lab.run.loop import evaluate
from fallline.lab.run.trial import run
from fallline.lab.search.trials import tune
from fallline.lab.tasks import Digits
from fallline.optimizers import OPTIMIZERS

TORCH = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def trial(arm="adam", stage="tune", steps=40, schedule="cosine", seed=7, **options):
    space = SPACES[arm]
    values = space.options({**space.defaults, **options})
    return Trial(stage, "digits", arm, space.optimizer, schedule, steps, 0, seed, values)


def test_a_trial_is_the_same_twice_to_the_bit():
    assert run(trial())[0] == run(trial())[0]
    assert run(trial())[0].curve != run(trial(seed=8))[0].curve


def test_initialisation_and_data_order_are_common_to_all_arms(monkeypatch):
    seen = []

    class Spy(Digits):
        def loss(self, model, batch):
            if model.training:
                seen[-1].append(batch[1].tolist())
            if not seen[-1][1:]:
                seen[-1].insert(0, [p.sum().item() for p in model.parameters()])
            return super().loss(model, batch)

    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Spy(**settings))
    for arm in SPACES:
        seen.append([])
        run(trial(arm))
    assert len(seen[0]) > 40
    assert all(record == seen[0] for record in seen)


@pytest.mark.parametrize("arm", [arm for arm, space in SPACES.items() if space.optimizer in TORCH])
def test_torch_optim_gives_the_same_losses(arm):
    spec = Spec("digits", 100, make_arms([arm], ["cosine"]), trials=8, seeds=2)
    tuned = tune(spec, {})[0][4]  # an ordinary point of the search
    ours, _ = run(tuned)
    theirs, _ = run(tuned, lambda name, params, model, **options: TORCH[name](params, **options))
    for mine, other in zip(ours.curve, theirs.curve, strict=True):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], abs=1e-4)
        assert mine["val_loss"] == pytest.approx(other["val_loss"], abs=1e-4)


def test_the_test_split_is_not_read_while_tuning(monkeypatch):
    splits = []
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self, split: splits.append(split) or load(self, split))
    tuned, _ = run(trial())
    assert set(splits) == {"train", "val"}
    confirmed, _ = run(trial(stage="confirm"))
    assert "test" in splits
    assert "test_loss" in confirmed.metrics and "test_loss" not in tuned.metrics


def test_an_infinite_loss_is_nonfinite_and_ends_the_run():
    outcome, _ = run(trial("sgd", lr=1e30))
    assert outcome.failure["state"] == "nonfinite"
    assert 0 < outcome.failure["step"] < 40
    assert "loss became" in outcome.failure["cause"]


def test_a_finite_divergence_is_blown_up():
    outcome, _ = run(trial("sgd", lr=300.0, steps=100))
    assert outcome.failure["state"] == "blown-up" and outcome.failure["step"] < 50
    assert "over 3 × its start 2.3" in outcome.failure["cause"]


def test_a_divergence_that_comes_back_to_the_start_and_has_learned_nothing_is_blown_up():
    outcome, _ = run(trial("sgd", lr=30.0, steps=100))  # 4e10 after 7 steps, then ln 10 to the end
    assert outcome.failure["state"] == "blown-up" and outcome.failure["step"] == 100
    assert "is no better than ignoring the input" in outcome.failure["cause"]
    assert "the training loss had risen to 4e+10 from 2.3" in outcome.failure["cause"]


def test_standing_still_is_not_learned():
    outcome, _ = run(trial("sgd", lr=0.0, stage="confirm"))
    assert outcome.failure["state"] == "not-learned"
    assert "test_loss" not in outcome.metrics


def test_schedules_share_length_warm_up_and_end():
    curves = {name: learning_rates(name, 100) for name in ("constant", "step", "cosine")}
    ramp = [0.2, 0.4, 0.6, 0.8, 1.0]
    for curve in curves.values():
        assert len(curve) == 100
        assert curve[:5] == pytest.approx(ramp)
    assert curves["constant"][5:] == [1.0] * 95
    drops = [k for k in range(6, 100) if curves["step"][k] < curves["step"][k - 1]]
    assert drops == [30, 60, 90] and curves["step"][-1] == pytest.approx(1e-3)
    assert curves["cosine"][-1] == 0.0
    assert curves["cosine"] == [fl.schedules.warmup_cosine(5, 100)(k) for k in range(100)]


def test_every_schedule_warms_up_alike_and_falls_as_it_says_to_the_last_step():
    curves = {name: learning_rates(name, 100) for name in SCHEDULES}
    assert all(curve[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) for curve in curves.values())
    s = range(6, 101)  # the step, counted from 1; 5 warm up
    assert curves["linear"][5:] == pytest.approx([1 - (i - 5) / 95 for i in s])
    assert curves["wsd"][5:] == pytest.approx([1 - max(0, i - 80) / 20 for i in s])
    assert curves["inverse_sqrt"][5:] == pytest.approx([math.sqrt(5 / i) for i in s])
    assert all(len(curve) == 100 for curve in curves.values())
    assert curves["cosine"][-1] == curves["linear"][-1] == curves["wsd"][-1] == 0.0 < curves["wsd"][-2]


def test_evaluation_leaves_training_as_it_was():
    task = Digits()
    model = task.model().train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    metrics = evaluate(task, model, "val")
    assert torch.equal(torch.get_rng_state(), before) and model.training
    assert all(p.grad is None for p in model.parameters())
    assert set(metrics) == {"val_loss", "val_accuracy"}


def test_evaluation_is_in_eval_mode_without_dropout_and_changes_no_running_mean():
    torch.manual_seed(3)
    norm = torch.nn.BatchNorm1d(64, momentum=0.5)
    model = torch.nn.Sequential(torch.nn.Flatten(), norm, torch.nn.Dropout(0.5), torch.nn.Linear(64, 10)).train()
    found = evaluate(Digits(), model, "val")
    assert model.training and norm.num_batches_tracked == 0 and torch.equal(norm.running_mean, torch.zeros(64))
    images, labels = Digits().load("val")
    with torch.no_grad():  # at the start the running means are 0 and the variances 1: normalising changes little
        logits = model[3](images.flatten(1) / math.sqrt(1 + norm.eps))
    assert found["val_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert found["val_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_split_is_fixed_and_disjoint():
    parts = {split: Digits().load(split)[0].flatten(1) for split in ("train", "val", "test")}
    assert {split: len(images) for split, images in parts.items()} == {"train": 1077, "val": 360, "test": 360}
    rows = [tuple(row.tolist()) for images in parts.values() for row in images]
    assert len(set(rows)) == len(rows)
    assert Digits().load("val")[1][:8].tolist() == [6, 1, 4, 4, 2, 7, 7, 9]  # the split is part of the task
    assert abs(Digits().trivial_loss() - math.log(10)) < 0.02


def test_streams_of_different_names_are_independent():
    assert len({derive(0, "init"), derive(0, "data"), derive(1, "init"), derive(0, "init", 1)}) == 4


def test_every_optimizer_is_an_arm_by_its_name():
    assert OPTIMIZERS.keys() <= SPACES.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_derived_space_starts_at_the_defaults_and_makes_optimizers(name):
    space = derived(name, keywords(name), keywords(name).get("weight_decay_mode") != "l2")
    assert space.defaults["lr"] == inspect.signature(OPTIMIZERS[name]).parameters["lr"].default
    for unit in (0.0, 1.0):
        values = {d.name: d.value(unit) for d in space.dimensions}
        OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(2))], **space.options({**space.defaults, **values}))
