"""The contract checks: each kind of broken task is caught by its check alone, and sound tasks pass."""

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import StudyError
from fallline.lab.contract import checks, contract, probes
from fallline.lab.contract.contract import check_task, find_breaches
from fallline.lab.tasks import get_task
from support.broken_tasks import (
    BROKEN,
    BatchesIgnoreTheGenerator,
    InputsAreIgnored,
    LossIsNaN,
    ModelStartsFromNoSeed,
    Sound,
    ValIsPartOfTrain,
)


def breaches(cls, **arguments):
    return find_breaches(fl.task(**{"steps": 40, **arguments})(cls)())


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_task_is_caught_by_its_check_alone(cls, monkeypatch):
    monkeypatch.setattr(checks, "ENDLESS", 100)
    check, message = BROKEN[cls]
    found = breaches(cls, metric="val_accuracy", mode="max", resplit="resplit=True" in (cls.__doc__ or ""))
    assert [(f.check, f.severity) for f in found] == [(check, "error")]
    assert message in found[0].message


def test_every_check_has_a_task_that_breaks_it():
    listed = contract.Finding.__doc__.split("check: ")[1].split(".")[0].replace(" or", ",").split(",")
    assert {check for check, _ in BROKEN.values()} == {name.strip() for name in listed} - {""}


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
        (NotShuffled, "batches", "in a different order for another seed of the generator, got the same order; shuffle"),
        (OneExampleTwice, "overlap", "got 1 of the 17 examples of val also in train; remove duplicates from the data"),
        (SquashedOutputs, "overfit", "look for a softmax before cross_entropy"),
    ],
)
def test_what_may_be_meant_is_a_warning(monkeypatch, cls, check, message):
    monkeypatch.setattr(probes, "OVERFIT_SECONDS", math.inf)  # a busy machine would end at another loss
    found = breaches(cls)
    assert [(f.check, f.severity) for f in found] == [(check, "warning")]
    assert message in found[0].message
    assert check_task(fl.task(steps=40)(cls)()) == found


def test_a_split_too_slow_to_be_read_is_a_warning(monkeypatch):
    monkeypatch.setattr(checks, "SECONDS", 0.0)
    found = breaches(Sound)
    assert [(f.check, f.severity) for f in found] == [("splits", "warning")]
    assert 'batches("test", …) should end within 0 s, got 1 batches and no end in this time' in found[0].message


def test_what_time_runs_out_for_is_not_held_against_a_task(monkeypatch):
    monkeypatch.setattr(probes, "OVERFIT_SECONDS", 0.0)
    assert breaches(InputsAreIgnored) == []


def test_a_large_training_set_of_which_little_is_seen_still_shows_a_leak(monkeypatch):
    monkeypatch.setattr(probes, "EXAMPLES", 8)  # so that one batch of 16 is all that is seen, a quarter of val
    monkeypatch.setattr(checks, "SHARED", 0.3)
    monkeypatch.setattr(checks, "SHARED_BADLY", 0.9)

    class Leak(Sound):
        val = Sound.train

    assert [(f.check, f.severity) for f in breaches(Leak)] == [("overlap", "error")]


def test_the_checks_leave_random_numbers_and_threads_as_they_were():
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    threads = torch.get_num_threads()
    breaches(ModelStartsFromNoSeed)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert torch.get_num_threads() == threads


def test_batches_may_be_dicts_objects_and_arrays():
    class Pair:
        def __init__(self, points):
            self.points, self.text = points, "text"

    a, b = ({"x": Pair(torch.zeros(3)), "y": [np.ones(2), 1, None]} for _ in range(2))
    assert probes.content(a) == probes.content(b)
    b["x"].points[1] = 1.0
    assert probes.content(a) != probes.content(b)
    for one, other in ((torch.zeros(2), torch.zeros(2, 1)), (torch.zeros(4), torch.zeros(4, dtype=torch.int32))):
        assert probes.content(one) != probes.content(other)
    sparse = torch.eye(3).to_sparse()
    assert probes.content([sparse]) == probes.content([torch.eye(3)])
    assert probes.content(torch.tensor(torch.nan, dtype=torch.bfloat16)) == probes.content(
        torch.tensor(torch.nan, dtype=torch.bfloat16)
    )


def test_the_page_lists_the_checks_and_its_example_keeps_to_them():
    page = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(rows) == {check for check, _ in BROKEN.values()}
    for number in (
        f"{probes.OVERFIT_STEPS} steps of Adam",
        f"{probes.SECONDS:g} s do not",
        f"most {checks.FEW} that",
    ):
        assert number in page
    space = {"__name__": "page"}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], space)
    assert find_breaches(space["Mine"]()) == []
    quoted = re.search(r"```\n(task Mine: .*?)\n```", page, re.DOTALL)[1].replace("\n", " ")
    with pytest.raises(StudyError) as error:
        check_task(fl.task(steps=40)(type("Mine", (BatchesIgnoreTheGenerator,), {}))())
    assert str(error.value) == quoted
