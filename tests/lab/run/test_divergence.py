"""When a run counts as failed: the limits themselves, losses below 0, and error rates on runs whose truth is known."""

import dataclasses
import json
import math

import numpy as np
import pytest

from fallline.lab.run.divergence import Watch, window_of


def failure(losses, warmup=0, window=None):
    """Return the failure of a run with these training losses, or None."""
    watch = Watch(warmup, window or window_of(len(losses)))
    found = (watch.step(step, loss) for step, loss in enumerate(losses))
    return next((one for one in found if one is not None), None)


def levels(*parts):
    """Return losses that stay at a level each for some steps."""
    return [float(value) for value, steps in parts for _ in range(steps)]


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_nonfinite_at_its_step(loss):
    watch = Watch(warmup=10, window=20)
    assert watch.step(0, 2.0) is None and watch.step(1, 1e30) is None
    assert watch.step(2, loss) == {"state": "nonfinite", "step": 2, "cause": f"training loss became {loss}"}


def test_above_three_times_its_start_counts_from_the_end_of_warm_up_on():
    assert failure(levels((2.0, 10), (50.0, 60), (5.9, 40)), warmup=70) is None
    found = failure(levels((2.0, 10), (6.1, 100)), warmup=70)
    assert found["state"] == "blown-up" and found["step"] == 80  # half a window of 20 after warm-up
    assert found["cause"] == "training loss 6.1 after warm-up is over 3 × its start 2"
    assert failure(levels((2.0, 10), (5.9, 100))) is None


def test_above_ten_times_its_minimum_counts_when_it_stays_there():
    fallen = [(2.0, 10), (0.1, 60)]
    found = failure(levels(*fallen, (1.1, 30)))
    assert found["cause"] == "training loss 1.1 stayed over 10 × its minimum 0.1" and 80 <= found["step"] <= 90
    assert failure(levels(*fallen, (0.99, 30))) is None


@pytest.mark.parametrize("height", [1e1, 1e4, 1e30])
@pytest.mark.parametrize("steps", [50, 400, 2000])
def test_a_spike_that_recovers_is_no_failure(steps, height):
    spike = steps // 14  # shorter than half a window
    noise = 1 + 0.1 * np.random.default_rng(0).standard_normal(steps)
    losses = np.linspace(2.0, 0.1, steps) * noise
    losses[steps // 2 : steps // 2 + spike] = height
    losses[3 * steps // 4 :: 20] = height  # single ones that come back
    assert failure(losses.tolist(), warmup=steps // 20) is None


@pytest.mark.parametrize(
    "parts",
    [
        [(3.2, 10), (1.5, 10), (0.0, 10), (-0.8, 10), (-0.6, 10), (-0.85, 10)],  # the likelihood of a density
        [(-1.0, 10), (-0.5, 10), (-1.2, 10), (-2.0, 20), (0.5, 30)],
        [(1.0, 20), (0.0, 20), (0.1, 40)],  # a hinge loss that has been 0
    ],
)
def test_a_loss_that_goes_below_0_has_not_blown_up(parts):
    assert failure(levels(*parts), window=20) is None


def test_a_loss_that_goes_below_0_may_blow_up():
    cause = failure(levels((1.0, 20), (-1.0, 20), (7.1, 30)), window=20)["cause"]
    assert cause == "training loss 7.1 after warm-up is over 3 × its decrease above its start 1"  # 1 + 3 × 2
    cause = failure(levels((1.0, 20), (-1.0, 20), (19.5, 30)), window=20, warmup=99)["cause"]
    assert cause == "training loss 19.5 stayed over 10 × its decrease above its minimum -1"  # -1 + 10 × 2
    assert failure(levels((-1.0, 20), (2.1, 30)), window=20)["state"] == "blown-up"  # it never fell: -1 + 3 × |-1|


def test_a_saved_watch_continues_as_if_it_had_not_been_saved():
    losses = levels((2.0, 10), (0.2, 40), (6.1, 50))
    expected = failure(losses)
    for saved_at in range(1, expected["step"]):
        watch = Watch(0, window_of(len(losses)))
        for step, loss in enumerate(losses[:saved_at]):
            assert watch.step(step, loss) is None
        watch = Watch(**json.loads(json.dumps(dataclasses.asdict(watch))))
        found = (watch.step(step, loss) for step, loss in enumerate(losses[saved_at:], saved_at))
        assert next(one for one in found if one is not None) == expected


# Runs whose truth is known: losses of a batch are means of squares of independent values, times a scale.

RUNS = {50: 2000, 400: 500, 2000: 150}  # for each batch size and fall


def noise(kind, batch, steps, runs, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "normal":
        return rng.chisquare(batch, (runs, steps)) / batch
    return (rng.standard_t(3, (runs, steps, batch)) ** 2).mean(2)


def failed(losses):
    """Return the share of runs that are called failures."""
    steps = losses.shape[1]
    return float(np.mean([failure(run, warmup=round(0.05 * steps)) is not None for run in losses.tolist()]))


@pytest.mark.slow
@pytest.mark.parametrize("steps", RUNS)
@pytest.mark.parametrize("kind, batch", [("normal", 1), ("normal", 2), ("normal", 4), ("normal", 8), ("t3", 32)])
def test_at_most_one_percent_of_healthy_runs_fail(kind, batch, steps):
    time = np.linspace(0, 1, steps)
    for number, scale in enumerate((np.ones(steps), np.exp(-5 * time), np.exp(-np.minimum(50 * time, 7)))):
        assert failed(scale * noise(kind, batch, steps, RUNS[steps], number)) <= 0.01


DIVERGENCE = {
    "a plateau at 5 times the start after warm-up": lambda time: np.where(time >= 0.05, 5.0, 1.0),
    "a plateau at 30 times the start from step 3 on": lambda time: np.where(np.arange(len(time)) >= 3, 30.0, 1.0),
    "exponential growth": lambda time: np.exp(20 * np.maximum(0, time - 0.3)),
    "a slow drift": lambda time: 1 + 5 * time,
    "a fall, then a plateau at 20 times the start": lambda time: np.where(time > 0.5, 20.0, np.exp(-4 * time)),
}


@pytest.mark.slow
@pytest.mark.parametrize("truth", DIVERGENCE)
def test_runs_that_diverge_are_recognised(truth):
    for steps, least in ((50, 0.5), (400, 0.95), (2000, 0.95)):
        scale = DIVERGENCE[truth](np.linspace(0, 1, steps))
        assert failed(scale * noise("normal", 32, steps, 100)) >= least


@pytest.mark.slow
def test_divergence_is_recognised_soon():
    for steps in (50, 400, 2000):
        grows = np.exp(20 * np.maximum(0, np.linspace(0, 1, steps) - 0.3))
        found = [failure(run, steps // 20) for run in (grows * noise("normal", 32, steps, 50)).tolist()]
        late = [one["step"] / steps - 0.3 for one in found]
        # e-fold every 0.05 of the run: 3 × after 0.06, and a window, 0.15 of a long run and 0.4 of 50 steps
        assert max(late) <= (0.6 if steps == 50 else 0.25)
