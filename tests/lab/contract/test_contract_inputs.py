"""The contract on sound tasks of unusual kinds: constants in the loss, few distinct examples, texts in batches."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import default_collate

import fallline as fl
from fallline.errors import ArgumentError, StudyError
from fallline.lab.contract.contract import TRAINING, check_task, examine, find_breaches
from fallline.lab.contract.probes import Examples, chance_of_equality
from fallline.lab.tasks.base import CHECKS
from support.broken_tasks import BROKEN, LABELS, POINTS, InputsAreIgnored, Sound, ValIsDrawnAnew, ValIsPartOfTrain


def breaches(cls, **arguments):
    return [(f.check, f.severity) for f in find_breaches(fl.task(**{"steps": 40, **arguments})(cls)())]


@pytest.mark.slow
@pytest.mark.parametrize("constant", [2.0, 100.0, -100.0])
def test_a_constant_in_the_loss_is_no_fault(constant):
    class Shifted(Sound):
        def loss(self, model, batch):
            return constant + super().loss(model, batch)

    class ShiftedAndIgnored(InputsAreIgnored):
        def loss(self, model, batch):
            return constant + super().loss(model, batch)

    assert breaches(Shifted) == []
    assert breaches(ShiftedAndIgnored) == [("overfit", "error")]


class Tokens:
    """Rows of tokens of which there are few, split at random: the splits share most of them."""

    distinct, leak = 30, False

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        numbers = torch.randint(self.distinct, (600,), generator=generator)
        tokens = torch.stack([numbers // 6 % 6, numbers % 6, numbers // 36], 1)
        self.splits = {"train": tokens[:400], "val": tokens[400:500], "test": tokens[500:]}
        if self.leak:
            self.splits["val"] = self.splits["train"][:100]

    def model(self):
        return nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(24, 36))

    def batches(self, split, generator):
        rows = self.splits[split]
        while split == "train":
            yield from rows[torch.randperm(len(rows), generator=generator)].split(25)
        yield rows

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch), batch[:, 0] * 6 + batch[:, 1])


class MoreTokens(Tokens):
    distinct = 900


class LeakingTokens(MoreTokens):
    distinct, leak = 1080, True


@pytest.mark.parametrize("cls", [Tokens, MoreTokens])
def test_splits_of_discrete_data_may_share_examples_by_chance(cls):
    assert "overlap" not in dict(breaches(cls))


def test_the_chance_of_equal_examples_is_the_share_of_equal_pairs_plus_two_standard_errors():
    halves = Examples()
    halves.update({1: 50, 2: 50})  # 2 · 50 · 49 / 2 of 100 · 99 / 2 pairs are equal
    assert chance_of_equality([halves]) == pytest.approx((2450 + 2 * 2450**0.5) / 4950)
    assert chance_of_equality([halves, halves]) == pytest.approx((4900 + 2 * 4900**0.5) / 9900)


def test_a_leak_is_found_in_discrete_data_that_chance_does_not_explain():
    assert dict(breaches(LeakingTokens))["overlap"] == "error"


class Texts(Sound):
    """Batches as `default_collate` makes them of dicts that begin with a text, and have numbers."""

    def batches(self, split, generator):
        numbers = torch.arange(96)[getattr(self, split)]
        while split == "train":
            for chosen in torch.randperm(64, generator=generator).split(16):
                yield self.collate(numbers[chosen])
        yield self.collate(numbers)

    def collate(self, numbers):
        rows = [{"text": f"row {n}", "n": n, "x": POINTS[n], "label": LABELS[n]} for n in numbers.tolist()]
        return default_collate(rows)

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch["x"]), batch["label"])

    def evaluate(self, model, batch):
        return {}


class Sparse(Sound):
    def batches(self, split, generator):
        for points, labels in super().batches(split, generator):
            yield points.to_sparse(), labels

    def loss(self, model, batch):
        return super().loss(model, (batch[0].to_dense(), batch[1]))

    def evaluate(self, model, batch):
        return {}


@pytest.mark.parametrize("cls", [Texts, Sparse])
def test_texts_numbers_and_sparse_tensors_may_be_in_batches(cls):
    assert breaches(cls) == []


def test_equal_labels_with_different_texts_are_different_examples():
    class LabelsAndTexts(Texts):
        def collate(self, numbers):
            found = super().collate(numbers)
            return {"label": found["label"], "text": found["text"]}

        def model(self):
            return nn.Linear(1, 2)

        def loss(self, model, batch):
            numbers = torch.tensor([[float(text.split()[1])] for text in batch["text"]])
            return nn.functional.cross_entropy(model(numbers / 96), batch["label"])

    assert "overlap" not in dict(breaches(LabelsAndTexts))


def test_noise_from_the_global_generators_is_seeded_and_no_fault():
    class Noisy(Sound):
        def loss(self, model, batch):
            noise = model.training * (np.random.rand() + random.random() + torch.rand(()).item())
            return super().loss(model, batch) * (1 + 1e-3 * noise)

    class CountsWithinATrial(Sound):
        calls = 0

        def loss(self, model, batch):
            self.calls += model.training
            return super().loss(model, batch) * (1 + 0.1 / (1 + self.calls))

    assert breaches(Noisy) == [] == breaches(CountsWithinATrial)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_is_read_once(split):
    taken = []

    class Counted(Sound):
        def batches(self, name, generator):
            batches = super().batches(name, generator)
            if name != split:
                yield from batches
                return
            taken.append(0)
            for points, labels in batches:
                for number in range(16):
                    taken[-1] += 1
                    yield points[number : number + 1], labels[number : number + 1]

    assert breaches(Counted) == []
    assert taken == ([16, 4] if split == "val" else [16])  # evaluation is tried twice on the first four batches


def test_items_of_validation_are_counted_on_the_way():
    assert examine(fl.task(steps=40)(Sound)()).val_items == 16
    assert examine(fl.task(steps=40)(Sound)(), TRAINING).val_items is None


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_every_check_can_be_skipped_by_its_name(check):
    cls = next(cls for cls, (name, _) in BROKEN.items() if name == check and cls.__name__ != "ModelRaises")
    found = find_breaches(fl.task(steps=40, metric="val_accuracy", mode="max", skip_checks=(check,))(cls)())
    assert check not in [finding.check for finding in found]


def test_one_check_is_skipped_and_no_other():
    both = type("Both", (ValIsPartOfTrain, ValIsDrawnAnew), {})
    assert [name for name, _ in breaches(ValIsPartOfTrain)] == ["overlap"]
    assert (
        breaches(ValIsPartOfTrain, skip_checks=("overlap",)) == [] == breaches(ValIsPartOfTrain, skip_checks="overlap")
    )
    assert [name for name, _ in breaches(both, skip_checks=("overlap",))] == ["deterministic"]


def test_unknown_checks_are_refused():
    with pytest.raises(
        ArgumentError, match=r"skip_checks must name checks among model, .*, got 'overlaps'; did you mean"
    ):
        fl.task(steps=40, skip_checks=("overlaps",))
    assert fl.task(steps=40, skip_checks=["overfit", "model"])(Sound).skip_checks == ("model", "overfit")


def test_an_error_names_its_check():
    with pytest.raises(StudyError, match=r"\(check 'overlap'\)$"):
        check_task(fl.task(steps=40)(ValIsPartOfTrain)())
