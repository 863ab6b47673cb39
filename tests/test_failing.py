"""When a run counts as failed: the limits themselves, and losses that go below 0."""

import math

import pytest

from fallline.lab.failing import Watch


def watched(start, means, warmup=0):
    """Return the failure of each evaluation, one a step from step 1 on."""
    watch = Watch(warmup)
    assert watch.step(0, start) is None
    return [watch.row(step, mean) for step, mean in enumerate(means, start=1)]


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_is_nonfinite_at_its_step(loss):
    watch = Watch(warmup=10)
    assert watch.step(0, 2.0) is None and watch.step(1, 1e30) is None
    assert watch.step(2, loss) == {"state": "nonfinite", "step": 2, "cause": f"training loss became {loss}"}


def test_above_three_times_its_start_counts_from_the_end_of_warm_up_on():
    assert watched(2.0, [50.0, 6.0, 5.0], warmup=2) == [None] * 3
    found = watched(2.0, [6.1, 6.1], warmup=2)
    assert found[0] is None and (found[1]["state"], found[1]["step"]) == ("blown-up", 2)
    assert found[1]["cause"] == "training loss 6.1 after warm-up is over 3 × its start 2"


def test_above_ten_times_its_minimum_counts_when_it_stays_there():
    spike = [0.1, 1.1, 1.1, 0.2, 1.1, 1.1]
    assert watched(2.0, spike) == [None] * 6
    found = watched(2.0, [*spike, 1.1])[-1]
    assert found["cause"] == "training loss 1.1 stayed over 10 × its minimum 0.1" and found["step"] == 7
    assert watched(2.0, [0.1, 0.99, 0.99, 0.99]) == [None] * 4


@pytest.mark.parametrize(
    ("start", "means"),
    [
        (3.2, [1.5, 0.0, -0.1, -0.8, -0.6, -0.85, -0.84, -0.84]),  # the likelihood of a density
        (-1.0, [-0.5, -1.2, -2.0, 0.5, 0.5, 0.5]),
        (1.0, [0.0, 0.1, 0.1, 0.1]),  # a hinge loss that has been 0
    ],
)
def test_a_loss_that_goes_below_0_has_not_blown_up(start, means):
    assert watched(start, means) == [None] * len(means)


def test_a_loss_that_goes_below_0_may_blow_up():
    cause = watched(1.0, [-1.0, 7.1])[-1]["cause"]
    assert cause == "training loss 7.1 after warm-up is by 3 × its fall above its start 1"  # 1 + 3 × 2
    cause = watched(1.0, [-1.0, 19.5, 19.5, 19.5], warmup=99)[-1]["cause"]
    assert cause == "training loss 19.5 stayed by 10 × its fall above its minimum -1"  # -1 + 10 × 2
    assert watched(-1.0, [2.1])[0]["state"] == "blown-up"  # it never fell: -1 + 3 × |-1|
