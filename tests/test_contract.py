"""The contract checks: each kind of broken task is caught by its check alone, and sound tasks pass."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import StudyError
from fallline.lab import contract, probing
from fallline.lab.contract import check_task, find_breaches
from fallline.lab.tasks import get_task

POINTS = torch.randn(96, 4, generator=torch.Generator().manual_seed(96))
LABELS = (POINTS[:, 0] > 0).long()


class Sound:
    """What every task below breaks in one point."""

    train, val, test = slice(0, 64), slice(64, 80), slice(80, 96)

    def model(self):
        return nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 2))

    def batches(self, split, generator):
        points, labels = POINTS[getattr(self, split)], LABELS[getattr(self, split)]
        while split == "train":
            for chosen in torch.randperm(64, generator=generator).split(16):
                yield points[chosen], labels[chosen]
        yield points, labels

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def evaluate(self, model, batch):
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).double().mean().item()}


def breaches(cls, **arguments):
    return find_breaches(fl.task(**{"steps": 40, **arguments})(cls)())


class ModelIsNoModule(Sound):
    def model(self):
        return lambda points: points


class ModelIsFrozen(Sound):
    def model(self):
        return super().model().requires_grad_(False)


class ModelIsKept(Sound):
    def __init__(self):
        self.kept = super().model()

    def model(self):
        return self.kept


class ModelStartsFromNumpy(Sound):
    def model(self):
        model = super().model()
        nn.init.constant_(model[3].bias, np.random.rand() + random.random())
        return model


class ModelRaises(Sound):
    def model(self):
        return nn.Linear(4)


class BatchesIgnoreTheGenerator(Sound):
    def batches(self, split, generator):
        return super().batches(split, torch.default_generator)


class AugmentationIgnoresTheGenerator(Sound):
    def batches(self, split, generator):
        for points, labels in super().batches(split, generator):
            yield (points + 0.01 * torch.randn(points.shape) if split == "train" else points), labels


class TrainEnds(Sound):
    def batches(self, split, generator):
        for number, batch in enumerate(super().batches(split, generator)):
            if number == 7:
                return
            yield batch


class TrainIsEmpty(Sound):
    def batches(self, split, generator):
        return super().batches(split, generator) if split != "train" else iter(())


class ValNeverEnds(Sound):
    def batches(self, split, generator):
        yield from super().batches(split, generator) if split == "train" else ()
        while True:
            yield from zip(*(t[getattr(self, split)].split(5) for t in (POINTS, LABELS)), strict=True)


class EndlessTest(Sound):
    def batches(self, split, generator):
        while split == "test":
            yield torch.randn(1, 4, generator=generator), torch.zeros(1)
        yield from super().batches(split, generator)


class EmptyTest(Sound):
    test = slice(0, 0)

    def batches(self, split, generator):
        return super().batches(split, generator) if split != "test" else iter(())


class SizeIsATensor(Sound):
    def size(self, batch):
        return torch.tensor(16)


class ValIsPartOfTrain(Sound):
    val = slice(0, 32)


class ValIsTest(Sound):
    test = Sound.val


class GroupsOfAnotherModel(Sound):
    def param_groups(self, model):
        return list(self.model().parameters())


class GroupsAreNone(Sound):
    def param_groups(self, model):
        model.parameters()


class LossPerExample(Sound):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(*[model(batch[0]), batch[1]], reduction="none")


class LossIsANumber(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch).item()


class LossIsNaN(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch) * torch.nan


class LossIsDetached(Sound):
    def loss(self, model, batch):
        return super().loss(model, batch).detach()


class LossOfTheWrongShape(Sound):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1][:7])


class EvaluateReturnsTensors(Sound):
    def evaluate(self, model, batch):
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).double().mean()}


class EvaluateReturnsNothing(Sound):
    def evaluate(self, model, batch):
        pass


class EvaluateHasOtherKeys(Sound):
    def evaluate(self, model, batch):
        return {"acc": 0.5}


class DropoutInEvaluation(Sound):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(nn.functional.dropout(model(batch[0])), batch[1])


class ValIsDrawnAnew(Sound):
    def batches(self, split, generator):
        for points, labels in super().batches(split, generator):
            yield (points + torch.randn(points.shape) if split == "val" else points), labels


class InputsAreIgnored(Sound):
    def loss(self, model, batch):
        return super().loss(model, (torch.zeros_like(batch[0]), batch[1] * 0 + torch.arange(len(batch[1])) % 2))


class NoBetterThanTrivial(Sound):
    def trivial_loss(self):
        return 1e-9


BROKEN = {
    ModelIsNoModule: ("model", "model must return a torch.nn.Module, got function; return the network itself"),
    ModelIsFrozen: ("model", "must have parameters that require gradients, got none; unfreeze"),
    ModelIsKept: ("model", "must return a new model on every call, got the same twice; build it inside the method"),
    ModelStartsFromNumpy: ("model", "the same values for the same seed, got others in 3.bias; initialise from torch's"),
    ModelRaises: ("model", "(test_contract.py, line "),
    BatchesIgnoreTheGenerator: (
        "batches",
        "must be the same for the same generator, got others in a second pass; draw",
    ),
    AugmentationIgnoresTheGenerator: ("batches", "draw from `generator` alone: torch.randperm"),
    TrainEnds: ("batches", "got an end after 7 of the 40 batches that 40 steps need; put while True: around"),
    TrainIsEmpty: ("batches", 'batches("train", …) must go on without end, got no batch'),
    ValNeverEnds: ("splits", 'batches("val", …) must end after one pass, got the first batch again as number 5; go'),
    EndlessTest: ("splits", 'batches("test", …) must end after one pass, got over 100 batches'),
    EmptyTest: ("splits", 'batches("test", …) must give at least one batch, got none; split off'),
    SizeIsATensor: ("size", "must return a whole number of items, at least 1, got tensor(16); return len"),
    ValIsPartOfTrain: ("overlap", "in two splits, got 32 of the 32 examples of val also in train; split once"),
    ValIsTest: ("overlap", "got 16 of the 16 examples of test also in val"),
    GroupsOfAnotherModel: (
        "param_groups",
        "must give parameters of the model, got others; use the model that is passed",
    ),
    GroupsAreNone: ("param_groups", "param_groups: SGD: params must be an iterable of tensors"),
    LossPerExample: ("loss", "must return a tensor with one number, got shape (16,); take the mean"),
    LossIsANumber: ("loss", "must return a tensor with one number, got float"),
    LossIsNaN: ("loss", "must be finite at the start, got nan; look for log(0)"),
    LossIsDetached: ("loss", "must have a gradient, got none; compute it from the model's output without detach"),
    LossOfTheWrongShape: (
        "loss",
        "Expected input batch_size (16) to match target batch_size (7). (test_contract.py, line",
    ),
    EvaluateReturnsTensors: ("evaluate", "got {'accuracy': tensor(0.2500, dtype=torch.float64)}; call .item()"),
    EvaluateReturnsNothing: ("evaluate", "must return a dict of numbers, got NoneType"),
    EvaluateHasOtherKeys: ("evaluate", "must return 'accuracy', by which configurations are selected, got acc; add it"),
    DropoutInEvaluation: ("deterministic", "must give the same numbers twice, got ("),
    ValIsDrawnAnew: ("deterministic", "and draw nothing in val"),
    InputsAreIgnored: ("overfit", "must be learned by heart in 200 steps of Adam, got a loss from 0."),
    NoBetterThanTrivial: ("overfit", "no better than ignoring the input (1e-09); see that the model is given"),
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_task_is_caught_by_its_check_alone(cls, monkeypatch):
    monkeypatch.setattr(contract, "ENDLESS", 100)
    check, message = BROKEN[cls]
    found = breaches(cls, metric="val_accuracy", mode="max")
    assert [(f.check, f.severity) for f in found] == [(check, "error")]
    assert message in found[0].message


def test_every_check_has_a_task_that_breaks_it():
    listed = contract.Finding.__doc__.split("check: ")[1].split(".")[0].replace(" or ", ", ").split(", ")
    assert {check for check, _ in BROKEN.values()} == set(listed)


def test_a_sound_task_has_no_findings():
    assert breaches(Sound, metric="val_accuracy", mode="max") == []
    assert breaches(Sound, precision="bfloat16", accumulate=3) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "digits-cnn"])
def test_built_in_tasks_have_no_findings(name):
    assert find_breaches(get_task(name)) == []


def test_all_errors_are_named_at_once():
    class Broken(ValIsPartOfTrain):
        def loss(self, model, batch):
            return super().loss(model, batch) * torch.nan

    with pytest.raises(StudyError) as error:
        check_task(fl.task(steps=40)(Broken)())
    lines = str(error.value).splitlines()
    assert lines[0] == "task Broken: " and lines[1].startswith("  1. no example") and lines[2].startswith("  2. loss")


def test_one_error_is_one_sentence():
    with pytest.raises(StudyError, match=r"^task LossIsNaN: loss must be finite at the start, got nan; look [^\n]*$"):
        check_task(fl.task(steps=40)(LossIsNaN)())


class NotShuffled(Sound):
    def batches(self, split, generator):
        return super().batches(split, torch.Generator().manual_seed(0))


class OneExampleTwice(Sound):
    val = slice(63, 80)


class SquashedOutputs(Sound):
    def loss(self, model, batch):
        return nn.functional.cross_entropy(0.7 * torch.softmax(model(batch[0]), 1), batch[1])


@pytest.mark.parametrize(
    ("cls", "check", "message"),
    [
        (NotShuffled, "batches", "in another order for another seed of the generator, got the same; shuffle by"),
        (OneExampleTwice, "overlap", "got 1 of the 17 examples of val also in train; remove what the data hold twice"),
        (SquashedOutputs, "overfit", "look for a softmax before cross_entropy"),
    ],
)
def test_what_may_be_meant_is_a_warning(cls, check, message):
    found = breaches(cls)
    assert [(f.check, f.severity) for f in found] == [(check, "warning")]
    assert message in found[0].message
    assert check_task(fl.task(steps=40)(cls)()) == found


def test_a_split_too_slow_to_be_read_is_a_warning(monkeypatch):
    monkeypatch.setattr(contract, "SECONDS", 0.0)
    found = breaches(Sound)
    assert [(f.check, f.severity) for f in found] == [("splits", "warning")]
    assert 'batches("test", …) should be read in 0 s, got 1 batches by then and no end' in found[0].message


def test_what_time_runs_out_for_is_not_held_against_a_task(monkeypatch):
    monkeypatch.setattr(probing, "OVERFIT_SECONDS", 0.0)
    assert breaches(InputsAreIgnored) == []


def test_a_large_training_set_of_which_little_is_seen_still_shows_a_leak(monkeypatch):
    monkeypatch.setattr(probing, "EXAMPLES", 8)  # so that one batch of 16 is all that is seen, a quarter of val
    monkeypatch.setattr(contract, "SHARED", 0.3)
    monkeypatch.setattr(contract, "SHARED_BADLY", 0.9)

    class Leak(Sound):
        val = Sound.train

    assert [(f.check, f.severity) for f in breaches(Leak)] == [("overlap", "error")]


def test_the_checks_leave_random_numbers_and_threads_as_they_were():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    threads = torch.get_num_threads()
    breaches(ModelStartsFromNumpy)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.get_num_threads() == threads


def test_batches_may_be_dicts_objects_and_arrays():
    class Pair:
        def __init__(self, points):
            self.points, self.text = points, "text"

    a, b = ({"x": Pair(torch.zeros(3)), "y": [np.ones(2), 1, None]} for _ in range(2))
    assert probing.content(a) == probing.content(b)
    b["x"].points[1] = 1.0
    assert probing.content(a) != probing.content(b)
    for one, other in ((torch.zeros(2), torch.zeros(2, 1)), (torch.zeros(4), torch.zeros(4, dtype=torch.int32))):
        assert probing.content(one) != probing.content(other)
    sparse = torch.eye(3).to_sparse()
    assert probing.content([sparse]) == probing.content([torch.eye(3)])
    assert probing.content(torch.tensor(torch.nan, dtype=torch.bfloat16)) == probing.content(
        torch.tensor(torch.nan, dtype=torch.bfloat16)
    )


def test_the_page_lists_the_checks_and_its_example_keeps_to_them():
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(rows) == {check for check, _ in BROKEN.values()}
    for number in (
        f"{probing.OVERFIT_STEPS} steps of Adam",
        f"{probing.SECONDS:g} s do not",
        f"most {contract.FEW} that",
    ):
        assert number in page
    space = {"__name__": "page"}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], space)
    assert find_breaches(space["Mine"]()) == []
    quoted = re.search(r"```\n(task Mine: .*?)\n```", page, re.DOTALL)[1].replace("\n", " ")
    with pytest.raises(StudyError) as error:
        check_task(fl.task(steps=40)(type("Mine", (BatchesIgnoreTheGenerator,), {}))())
    assert str(error.value) == quoted
