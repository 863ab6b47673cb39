"""Warn if validation and test disagree significantly on two arms; planted disagreements and none."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.design.arms import make_arms
from fallline.lab.design.outcome import Costs, Outcome
from fallline.lab.design.spec import Spec
from fallline.lab.search.trials import tune
from fallline.lab.stages import count_seeds, read_results
from fallline.lab.storage.store import Store


def study_of(folder, arms, shift, seeds=8, seed=0):
    """A study with invented losses: the last arm's test losses are exp(shift) times what validation makes expect."""
    spec = Spec("digits", 40, make_arms(arms, ["cosine"]), trials=2, seeds=seeds)
    store = Store(folder)
    searches = {name: replace(search, best=0) for name, search in tune(spec, {})[1].items()}
    study = replace(read_results(store, spec), searches=searches)
    draw = np.random.default_rng(seed)
    for arm in arms:
        for trial in study.confirmation_trials(arm):
            val, test = (math.exp(0.05 * draw.standard_normal()) for _ in range(2))
            test *= math.exp(shift) if arm == arms[-1] else 1.0
            outcome = Outcome(None, {"train_loss": 1.0, "val_loss": val, "test_loss": test, "spikes": 0}, [])
            store.save(trial, outcome, Costs(1.0, 1.0, 1.0, 0))
    return count_seeds(study, store)


def said(study):
    return [warning for warning in find_caveats(study) if "disagree" in warning]


def test_a_planted_disagreement_is_a_warning_that_names_the_arms_and_both_numbers(tmp_path):
    (warning,) = said(study_of(tmp_path, ["momentum", "adam"], 0.3))
    assert warning.startswith("validation and test disagree significantly on adam against momentum (")
    assert "% on validation, +3" in warning and "corrected p = " in warning


def test_every_pair_of_arms_is_compared(tmp_path):
    found = said(study_of(tmp_path, ["momentum", "adam", "adamw"], 0.3))
    assert [warning.split(" (")[0] for warning in found] == [
        "validation and test disagree significantly on adamw against momentum",
        "validation and test disagree significantly on adamw against adam",
    ]


def test_a_disagreement_with_the_baseline_has_the_signs_of_the_verdict(tmp_path):
    study = replace(study_of(tmp_path, ["momentum", "adam"], 0.3), baseline="adam")
    (warning,) = said(study)
    assert "on momentum against adam (" in warning and "% on validation, −2" in warning  # exp(-0.3) is −26 %


@pytest.mark.slow
def test_without_a_disagreement_one_study_in_a_hundred_warns(tmp_path):
    warned = sum(bool(said(study_of(tmp_path / str(i), ["momentum", "adam"], 0.0, seed=i))) for i in range(300))
    assert warned <= 300 * 0.01 + 4 * math.sqrt(300 * 0.01)
