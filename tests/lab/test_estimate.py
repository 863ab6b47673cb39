"""What a study will take, and the largest that fits."""

import pytest

from fallline.errors import ArgumentError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.outcome import Timing
from fallline.lab.design.spec import Spec
from fallline.lab.estimate import estimate, fit, fit_to_budget, parse_duration
from fallline.lab.storage.store import Store

# A step of 10 ms and an evaluation of 100 ms: 400 steps and 20 evaluations are 6 s.
TIMING = Timing((10.0, 9.0, 11.0), (1.0, 1.0, 1.0), 0.1, 0.1, 1.0, 0, 0)


def spec(trials, seeds, share=1.0, optimizers=("momentum", "adam")):
    return Spec("digits", round(400 * share), make_arms(optimizers, ["cosine"]), trials=trials, seeds=seeds)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_times_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "0m", "-5m", "10 minutes"])
def test_what_is_no_time_is_one_sentence(text):
    with pytest.raises(ArgumentError, match="budget: must be a time above 0"):
        parse_duration(text)


def test_an_estimate_counts_trials_seconds_and_extensions():
    found = estimate(spec(8, 5), {"momentum": TIMING, "adam": TIMING}, workers=2)
    finalists = 2 * 2  # the best two on two seeds more
    assert found.trials == (2 * (9 + finalists + 5), 2 * (9 + 4 + 4 + finalists + 5))
    assert found.seconds[0] == pytest.approx(4 + 36 * 6 / 2)
    assert found.seconds[1] == pytest.approx(4 + 52 * 6 / 2)


def test_sam_is_estimated_with_its_shorter_runs_and_those_at_equal_steps():
    arms = {"sam(momentum)": TIMING}
    found = estimate(spec(8, 5, optimizers=["sam(momentum)"]), arms, workers=1)
    assert found.seconds[0] == pytest.approx(4 + (9 + 4) * 4 + 5 * 4 + 5 * 6)  # 200 steps are 4 s, 400 are 6 s


@pytest.mark.parametrize(("seconds", "size"), [(3600, (32, 10, 400)), (200, (16, 8, 400)), (115, (8, 5, 400))])
def test_the_largest_study_that_fits_is_chosen(monkeypatch, seconds, size):
    monkeypatch.setattr("fallline.lab.estimate.measure", lambda *_: {"momentum": TIMING, "adam": TIMING})
    chosen = fit(spec, seconds, workers=2)
    assert (chosen.trials, chosen.seeds, chosen.steps) == size
    assert estimate(chosen, {"momentum": TIMING, "adam": TIMING}, 2).seconds[0] <= seconds


def test_too_short_a_time_says_what_is_needed(monkeypatch):
    monkeypatch.setattr("fallline.lab.estimate.measure", lambda *_: {"momentum": TIMING, "adam": TIMING})
    with pytest.raises(ArgumentError, match=r"budget: must suffice for 2 trials and 3 seeds.* got 5s"):
        fit(spec, 5, workers=2)


def test_a_study_that_has_begun_keeps_its_size_however_fast_the_machine_is_now(monkeypatch, tmp_path):
    monkeypatch.setattr("fallline.lab.estimate.measure", lambda *_: {"momentum": TIMING, "adam": TIMING})
    first, folder = fit_to_budget(spec, 115, 2, tmp_path / "study")
    Store(folder).claim(first, {}, {}, fork=False)
    faster = Timing((0.1, 0.1, 0.1), (0.1, 0.1, 0.1), 0.1, 0.001, 1.0, 0, 0)
    monkeypatch.setattr("fallline.lab.estimate.measure", lambda *_: {"momentum": faster, "adam": faster})
    assert fit_to_budget(spec, 115, 2, tmp_path / "other")[0] != first
    assert fit_to_budget(spec, 115, 2, tmp_path / "study") == (first, folder)
