"""Pure schedules are exact functions of the step and immutable values, and a plot draws them."""

import copy
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallline import schedules as fs
from fallline.plotting import plot_schedules


def test_warmup_cosine_is_the_documented_sequence():
    schedule = fs.warmup_cosine(3, 10)
    values = [schedule(k) for k in range(30)]
    assert values[:3] == [1 / 3, 2 / 3, 1.0]
    assert [round(v, 3) for v in values[3:9]] == [0.950, 0.812, 0.611, 0.389, 0.188, 0.050]
    assert values[9:] == [0.0] * 21


def test_warmup_only_ramps_then_rests_at_min_lr():
    assert [fs.warmup_cosine(4, 4, 0.2)(k) for k in range(6)] == [0.25, 0.5, 0.75, 1.0, 0.2, 0.2]


def test_no_warmup_starts_after_the_peak():
    assert fs.warmup_cosine(0, 10)(0) == fs.cosine(10)(1)


@pytest.mark.parametrize(
    ("fraction", "total", "steps"), [(0.1, 1000, 100), (0.07, 100, 7), (0.0, 5, 0), (0.29, 100, 29)]
)
def test_warmup_may_be_a_fraction(fraction, total, steps):
    schedule = fs.warmup_cosine(fraction, total)
    assert schedule == fs.warmup_cosine(steps, total)
    assert isinstance(schedule.warmup_steps, int)


@given(data=st.data(), total=st.integers(1, 400), base=st.floats(1e-7, 10), part=st.floats(0, 1))
def test_values_stay_between_min_lr_and_base_and_fall_after_warmup(data, total, base, part):
    warmup = data.draw(st.integers(0, total))
    min_lr = part * base
    for schedule, start in [
        (fs.warmup_cosine(warmup, total, min_lr), max(warmup - 1, 0)),
        (fs.cosine(total, min_lr), 0),
        (fs.step_decay(max(warmup, 1), part), 0),
    ]:
        floor = 0.0 if isinstance(schedule, fs.step_decay) else min_lr
        values = [schedule(k, base) for k in range(total + 5)]
        fall = values[start:]
        assert all(0 < early < late for early, late in pairwise(values[: start + 1]))
        assert all(floor <= value <= base for value in fall)
        assert all(early >= late for early, late in pairwise(fall))


@pytest.mark.parametrize("pure", [fs.constant(), fs.step_decay(milestones=[3]), fs.cosine(10), fs.warmup_cosine(3, 10)])
def test_pure_schedules_are_immutable_values(pure):
    twin = eval(repr(pure), {name: getattr(fs, name) for name in fs.__all__})
    for other in (twin, pickle.loads(pickle.dumps(pure)), copy.deepcopy(pure)):
        assert other == pure
        assert hash(other) == hash(pure)
    with pytest.raises(AttributeError):
        pure.min_lr = 0.5


def test_repr_shows_the_parameters():
    assert repr(fs.warmup_cosine(3, 10, min_lr=1)) == "warmup_cosine(warmup_steps=3, total_steps=10, min_lr=1.0)"


def test_plot_draws_every_step_and_the_corners():
    chart = fs.warmup_cosine(3, 10).plot(steps=12, base=0.5)
    rows = chart.to_dict()["data"]["values"]
    assert [row["lr"] for row in rows] == [fs.warmup_cosine(3, 10)(k, 0.5) for k in range(12)]
    long = fs.warmup_cosine(777, 100_000).plot().to_dict()["data"]["values"]
    assert len(long) < 1100 and 1.0 in {row["lr"] for row in long}, "thinned, but not the peak"
    assert long[-1] == {**long[-1], "step": 99_999, "lr": fs.warmup_cosine(777, 100_000)(99_999)}


def test_a_plot_ends_where_the_schedule_ends():
    shorter, longer, endless = fs.cosine(100), fs.warmup(10).then(fs.linear(240)), fs.step_decay(30)
    for schedule, end in ((shorter, 100), (longer, 250), (endless, endless.horizon)):
        chart = schedule.plot().to_dict()
        assert max(row["step"] for row in chart["data"]["values"]) == end - 1
        assert chart["encoding"]["x"]["scale"] == {"domain": [0, end], "nice": False}
    both = plot_schedules({"shorter": shorter, "longer": longer, "endless": endless}).to_dict()
    last = {row["schedule"]: row["step"] for row in both["data"]["values"]}
    assert last == {"shorter": 99, "longer": 249, "endless": 249}
    assert both["encoding"]["x"]["scale"]["domain"] == [0, 250]


@pytest.mark.parametrize(("schedule", "steps"), [(fs.inverse_sqrt(10), 234), (fs.constant(), 120)], ids=repr)
def test_a_plot_without_an_end_shows_six_times_the_last_corner_or_120_steps(schedule, steps):
    assert schedule.length is None and max(schedule.corners) in (steps // 6, 0)
    assert [row["step"] for row in schedule.plot().to_dict()["data"]["values"]] == list(range(steps))
