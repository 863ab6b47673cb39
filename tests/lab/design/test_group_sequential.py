"""Looks at a study: levels, what decides a comparison, and that a study stops where it says."""

import math
from dataclasses import replace

import numpy as np
import pytest

from fallline.errors import ArgumentError
from fallline.lab.analysis.statistics import compare, holm
from fallline.lab.analysis.variance import FixedTestSet
from fallline.lab.analysis.verdicts import Verdict, compare_all
from fallline.lab.design.arms import make_arms
from fallline.lab.design.group_sequential import looks_of, nominal_level, parse_seeds
from fallline.lab.design.outcome import Costs, Outcome
from fallline.lab.design.spec import Spec
from fallline.lab.stages import count_seeds, read_results
from fallline.lab.storage.store import Store

LOOKS = (4, 8, 12, 16)


@pytest.mark.parametrize(
    "text", ["", "x", "1", "4..", "..16", "16..4", "4..4", "1..8", "4-16", "4..16..20", "4.5", "-4..16"]
)
def test_seeds_that_cannot_be_used_are_one_sentence(text):
    with pytest.raises(ArgumentError, match=r"^seeds: must be .* got .*; pass 5 or"):
        parse_seeds(text)


@pytest.mark.parametrize("seeds", [(4, 16, 20), (4,), [4, 16], (4.0, 16), (True, 16), 8.0, None, "4..16"])
def test_seeds_of_a_specification_are_a_number_or_two(seeds):
    with pytest.raises(ArgumentError, match=r"^seeds: must be"):
        Spec("digits", 40, make_arms(["adam"], ["cosine"]), seeds=seeds)


def test_a_specification_with_looks_survives_json():
    spec = Spec("digits", 40, make_arms(["adam"], ["cosine"]), seeds=(4, 16))
    assert Spec.from_json(spec.to_json()) == spec and spec.looks == LOOKS
    assert looks_of((2, 3)) == (2, 3) and looks_of((5, 14)) == (5, 9, 13, 14)


def test_levels_without_a_calibration_are_shared_equally():
    assert nominal_level(0.05 / 4, 8, LOOKS) == 0.05 / 16
    assert nominal_level(0.05, 3, (3, 7)) == 0.025


def test_a_corrected_p_is_significant_exactly_where_a_look_rejects():
    """Holm over three comparisons after 8 seeds: the levels .05/3, .025 and .05 have bounds .0044, .0068, .0141."""
    below, above = 1 - 1e-6, 1 + 1e-6
    assert max(holm([0.0044 * below, 0.0068 * below, 0.0141 * below], LOOKS, 8)) < 0.05
    assert min(holm([0.0044 * above] * 3, LOOKS, 8)) > 0.05
    first, second, third = holm([0.0044 * below, 0.0068 * above, 0.0141 * below], LOOKS, 8)
    assert first < 0.05 < second <= third


def test_the_interval_of_a_look_is_at_its_nominal_level():
    draw = np.random.default_rng(0)
    arm, base = draw.normal(1, 0.1, (2, 8))
    at_look, fixed = (compare(arm, base, log_ratio=False, looks=looks) for looks in (LOOKS, ()))
    alone = compare(arm, base, log_ratio=False, confidence=1 - 0.0141)
    assert (at_look.low, at_look.high) == pytest.approx((alone.low, alone.high)) and at_look.p == fixed.p
    assert at_look.high - at_look.low > fixed.high - fixed.low


def simulate(draw, effect, items=60):
    """A study that is looked at; returns its verdict and seeds. Arms share nothing, so that the null holds exactly."""
    level = 1 + 0.2 * draw.standard_normal(items)
    arm = effect + 0.1 * draw.standard_normal((16, 1)) + level + 0.1 * draw.standard_normal((16, items))
    base = 0.1 * draw.standard_normal((16, 1)) + level + 0.1 * draw.standard_normal((16, items))
    for n in LOOKS:
        values = {"base": base[:n].mean(1).tolist(), "arm": arm[:n].mean(1).tolist()}
        result = compare_all(
            values,
            "base",
            log_ratio=False,
            design=lambda a, b, n=n: FixedTestSet(list(arm[:n]), list(base[:n])),
            looks=LOOKS,
        )["arm"]
        if result.is_decided():
            break
    return result.verdict, n


def test_looking_four_times_keeps_the_level():
    draw = np.random.default_rng(1)
    found = [simulate(draw, 0.0)[0] for _ in range(500)]
    assert sum(v in (Verdict.BETTER, Verdict.WORSE) for v in found) / 500 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)


def test_a_large_effect_stops_early():
    draw = np.random.default_rng(2)
    spread = math.sqrt(2 * (0.1**2 + 0.1**2 / 60))
    found = [simulate(draw, 1.5 * spread) for _ in range(300)]
    assert np.mean([verdict is Verdict.WORSE for verdict, _ in found]) >= 0.8
    assert np.mean([seeds for _, seeds in found]) <= 0.65 * 16


def test_a_margin_keeps_an_equivalent_arm_open_until_it_is_shown():
    """Examples limit the interval; where the limit lies inside the margin, further seeds may show equivalence."""
    draw = np.random.default_rng(3)
    level = 1 + 0.2 * draw.standard_normal(60)
    arm, base = (level + 0.05 * draw.standard_normal(60) + 0.3 * draw.standard_normal((4, 1)) for _ in range(2))
    arm += base.mean() - arm.mean()
    values = {"base": base.mean(1).tolist(), "arm": arm.mean(1).tolist()}
    result = compare_all(
        values,
        "base",
        log_ratio=False,
        design=lambda a, b: FixedTestSet(list(arm), list(base)),
        looks=LOOKS,
        margin=0.1,
    )["arm"]
    assert result.verdict is Verdict.NOT_DISTINGUISHABLE
    assert result.is_decided() and not result.is_decided(margin=0.1)


def stored_study(folder, seeds=(4, 16)):
    """The folder of a study with tuned arms, and what it holds."""
    spec = Spec("digits", 40, make_arms(["momentum", "adam"], ["cosine"]), trials=2, seeds=seeds)
    store = Store(folder)
    return store, replace(read_results(store, spec), searches={arm.name: search(spec, arm) for arm in spec.arms})


def search(spec, arm):
    from fallline.lab.search.trials import tune

    found = tune(spec, {})[1][arm.name]
    return type(found)(**{**found.__dict__, "best": 0})


def save(store, trial, loss):
    outcome = Outcome(None, {"train_loss": 1.0, "val_loss": loss, "test_loss": loss, "spikes": 0}, [])
    store.save(trial, outcome, Costs(1.0, 1.0, 1.0, 0))


@pytest.mark.parametrize(("difference", "expected"), [(0.8, 4), (0.3, 8), (0.0, 16)])
def test_a_study_asks_for_no_more_seeds_than_decide_it(tmp_path, difference, expected):
    store, study = stored_study(tmp_path)
    noise = np.random.default_rng(4).normal(0, 0.1, 16)
    noise -= noise.mean()
    asked = []
    for _ in range(5):
        study = count_seeds(study, store)
        missing = [t for t in study.confirmations if store.outcome(t) is None]
        if not missing:
            break
        asked.append(study.seeds)
        for trial in missing:
            index = [t.id for t in study.confirmation_trials(trial.arm)].index(trial.id)
            save(store, trial, math.exp(noise[index] - difference) if trial.arm == "adam" else 1.0)
    assert study.seeds == expected == asked[-1] and asked == list(LOOKS[: len(asked)])
    said = study.explain_stopping()
    assert (f"stopped after {expected} of at most 16 seeds" in said) == (expected < 16)
    assert expected < 16 or said == "All 16 seeds were used, and these comparisons stayed undecided: adam."
    store, again = stored_study(tmp_path)
    assert count_seeds(again, store).seeds == expected  # it follows from the folder alone


def test_a_failed_seed_decides_a_comparison_at_once(tmp_path):
    store, study = stored_study(tmp_path)
    for trial in count_seeds(study, store).confirmations:
        save(store, trial, 1.0 + 0.1 * (trial.seed % 7))
    study = count_seeds(study, store)
    failed = study.confirmation_trials("adam")[1]
    lost = Outcome({"state": "nonfinite", "step": 3, "cause": "invented"}, {"spikes": 0}, [])
    study = replace(study, outcomes={**study.outcomes, failed.id: lost})
    assert study.is_decided() and study.comparisons["adam"].verdict is Verdict.FAILED
