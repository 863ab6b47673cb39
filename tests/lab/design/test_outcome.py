"""What a run that came to its end is called: by the metric that decides, and by no other that is not a number."""

import math

import pytest

from fallline.lab.design.trial import Trial
from fallline.lab.run.trial import run
from fallline.lab.tasks import Digits


def trial(optimizer="adamw", steps=40, stage="tune", **options):
    return Trial(stage, "digits", "arm", optimizer, "cosine", steps, 0, 7, {"lr": 1e-2, **options})


class Accuracy(Digits):
    metric, mode = "val_accuracy", "max"


def as_digits(monkeypatch, task):
    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: task(**settings))


class NoAccuracy(Digits):
    """Its accuracy is NaN on some splits."""

    splits = ("val", "test")

    def batches(self, split, generator):
        self.split = split
        yield from super().batches(split, generator)

    def evaluate(self, model, batch):
        found = super().evaluate(model, batch)
        return {**found, "accuracy": math.nan} if self.split in self.splits else found


def test_a_further_metric_that_is_nan_is_no_failure(monkeypatch):
    as_digits(monkeypatch, NoAccuracy)
    outcome, _ = run(trial(stage="confirm"))
    assert outcome.failure is None
    assert math.isnan(outcome.metrics["val_accuracy"]) and math.isnan(outcome.metrics["test_accuracy"])


@pytest.mark.parametrize(("splits", "bad"), [(("val", "test"), "val_accuracy"), (("test",), "test_accuracy")])
def test_the_deciding_metric_must_not_be_nan(splits, bad, monkeypatch):
    class Odd(NoAccuracy, Accuracy):
        pass

    Odd.splits = splits
    as_digits(monkeypatch, Odd)
    outcome, _ = run(trial(stage="confirm"))
    assert outcome.failure == {"state": "nonfinite", "step": 40, "cause": f"{bad} is nan"}


def test_the_loss_must_not_be_nan_even_if_another_metric_decides(monkeypatch):
    class Odd(Accuracy):
        def loss(self, model, batch):
            return super().loss(model, batch) * (1 if model.training else math.nan)

        def evaluate(self, model, batch):
            return {"accuracy": super().evaluate(model, batch)["accuracy"]}

    as_digits(monkeypatch, Odd)
    assert run(trial())[0].failure == {"state": "nonfinite", "step": 40, "cause": "val_loss is nan"}


@pytest.mark.parametrize("task", [Accuracy, Digits])
def test_a_run_is_judged_by_the_metric_that_decides(task, monkeypatch):
    class Overconfident(task):
        def evaluate(self, model, batch):
            found = super().evaluate(model, batch)
            return {**found, "loss": found["loss"] + 5.0}  # as for a model that is certain of its mistakes

    as_digits(monkeypatch, Overconfident)
    outcome, _ = run(trial())
    assert outcome.metrics["val_loss"] > 5 and outcome.metrics["val_accuracy"] > 0.8
    assert (outcome.failure is None) == (task is Accuracy)


def test_a_deciding_metric_that_is_as_before_training_is_not_learned(monkeypatch):
    class Lucky(Accuracy):
        def evaluate(self, model, batch):
            return {"accuracy": 0.4}

    as_digits(monkeypatch, Lucky)
    outcome, _ = run(trial())
    assert outcome.metrics["val_loss"] < 1  # below the trivial loss, which does not decide here
    cause = "validation accuracy 0.4 is no better than before training (0.4)"
    assert outcome.failure == {"state": "not-learned", "step": 40, "cause": cause}


def test_a_deciding_metric_that_is_nan_before_training_can_only_improve(monkeypatch):
    class Late(Accuracy):
        def evaluate(self, model, batch):
            found = super().evaluate(model, batch)
            return {"accuracy": found["accuracy"] if found["accuracy"] > 0.5 else math.nan}

    as_digits(monkeypatch, Late)
    assert run(trial())[0].failure is None


def test_a_run_that_learned_the_training_set_only_has_not_learned(monkeypatch):
    class Unrelated(Digits):
        def batches(self, split, generator):
            for images, labels in super().batches(split, generator):
                yield images, labels if split == "train" else labels.roll(1)

    as_digits(monkeypatch, Unrelated)
    outcome, _ = run(trial())
    assert outcome.metrics["train_loss"] < 1 and outcome.failure["state"] == "not-learned"


def test_without_a_trivial_loss_the_start_is_what_must_be_beaten(monkeypatch):
    class Silent(Digits):
        def trivial_loss(self):
            return None

    as_digits(monkeypatch, Silent)
    still, _ = run(trial("sgd", lr=0.0))
    assert still.failure["state"] == "not-learned"
    learned, _ = run(trial("sgd", lr=0.1))
    assert learned.failure is None
