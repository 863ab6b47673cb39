"""What the parts of a step take, on a clock that the task itself moves on: exact, and blind to the machine."""

from itertools import groupby
from types import SimpleNamespace

import pytest
import torch

from fallline.lab.design.trial import Trial
from fallline.lab.run.timing import ROUNDS, time_arms
from fallline.lab.run.trial import run, start
from fallline.lab.tasks import Digits

BATCH, FORWARD, UPDATE, EVALUATION = 1e-3, 1e-2, 2e-3, 0.5  # seconds


class Plan:
    """A clock, and what has been done by it."""

    def __init__(self):
        self.now, self.arms, self.training = 0.0, [], []

    def take(self, seconds):
        self.now += seconds


@pytest.fixture
def plan(monkeypatch):
    plan = Plan()

    class Timed(Digits):
        def batches(self, split, generator):
            for batch in super().batches(split, generator):
                plan.take(BATCH if split == "train" else 0)
                yield batch

        def loss(self, model, batch):
            plan.training.append(model)
            plan.take(FORWARD)
            return super().loss(model, batch)

        def evaluate(self, model, batch):
            plan.take(EVALUATION)
            return super().evaluate(model, batch)

    class Momentum(torch.optim.SGD):
        def step(self, closure=None):
            plan.take(UPDATE)
            return super().step(closure)

    clock = SimpleNamespace(perf_counter=lambda: plan.now)
    for module in ("loop", "timing", "trial"):
        monkeypatch.setattr(f"fallline.lab.run.{module}.time", clock)
    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Timed(**settings))
    monkeypatch.setattr(
        "fallline.lab.design.optimizers.create_optimizer", lambda name, params, **o: Momentum(params, **o)
    )
    return plan


def trial(optimizer="sgd", **options):
    return Trial("tune", "digits", optimizer, optimizer, "cosine", 40, 0, 7, {"lr": 0.1, "momentum": 0.9, **options})


def test_a_step_is_its_batch_its_passes_and_its_update_and_sam_pays_for_both_passes(plan):
    timings = time_arms({"sgd": trial(), "sam": trial("sam(sgd)", rho=0.05)}, seconds=0.2)
    for arm, passes in (("sgd", 1), ("sam", 2)):
        found = timings[arm]
        assert found.step_ms == pytest.approx([1e3 * (BATCH + passes * FORWARD + UPDATE)] * 3)
        assert found.optimizer_ms == pytest.approx([1e3 * UPDATE] * 3)
        assert (found.data_ms, found.evaluation_s) == pytest.approx((1e3 * BATCH, EVALUATION))
        assert found.passes == passes
        # What a study of such trials will take.
        assert found.seconds(trial()) == pytest.approx(40e-3 * found.step_ms[0] + 20 * EVALUATION)


def test_arms_are_timed_in_turn(plan):
    time_arms({"a": trial(), "b": trial()}, seconds=0.2)
    in_turn = [model for model, _ in groupby(map(id, plan.training))]
    assert len(in_turn) >= 2 * (1 + ROUNDS) and len(set(in_turn)) == 2  # the first steps, then every round


def test_first_steps_are_not_timed_and_quartiles_are(plan, monkeypatch):
    """Steps take 100, 100, 1, 2 … 6, 50 ms: of the last seven the median is 4, the quartiles are 2.5 and 5.5, rounded.

    Their mean is 10.
    """
    lengths = iter([100, 100, *range(1, 7), 50])
    forward = start(trial()).task.loss

    def loss(self, model, batch):
        plan.take(1e-3 * next(lengths, 0) - FORWARD)
        return forward(model, batch)

    monkeypatch.setattr(type(start(trial()).task), "loss", loss, raising=True)
    first, second, third = sorted((x - 1e3 * (BATCH + UPDATE)) for x in time_arms({"a": trial()}, 1e-9)["a"].step_ms)
    assert (first, second, third) == pytest.approx((3, 4, 5), abs=1.01) and second == pytest.approx(4)
    assert first > 1.5 and third < 6.5  # no minimum, no maximum


def test_a_trial_counts_its_evaluations_and_all_of_its_time(plan):
    outcome, costs = run(trial())
    assert len(outcome.curve) == 20 and costs.evaluation_s == pytest.approx(20 * EVALUATION)
    assert costs.seconds == pytest.approx(20 * EVALUATION + 40 * (BATCH + FORWARD + UPDATE) + BATCH)  # one to load
    assert (costs.data_ms, costs.optimizer_ms) == pytest.approx((1e3 * BATCH, 1e3 * UPDATE))
