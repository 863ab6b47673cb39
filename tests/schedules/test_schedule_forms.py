"""Every schedule equals a closed form written here, over three times its length."""

import math

import pytest

from fallline import schedules as fs
from support.schedulers import close, saved, sgd, train


def after_warmup(k, warmup, total, floor, base, shape):
    """The formulas of docs/semantics.md, Schedules, that count s = k + 1, with a shape of the part that is done."""
    s = k + 1
    if s < warmup:
        return base * s / warmup
    if s >= total:
        return floor if s > warmup else base
    return floor + (base - floor) * shape((s - warmup) / (total - warmup))


def plateau(k, warmup, stable, decay, floor, base, shape):
    s = k + 1
    if s < warmup:
        return base * s / warmup
    if s <= warmup + stable:
        return base
    return floor + (base - floor) * shape(min((s - warmup - stable) / decay, 1))


def cycle(k, total, top, start_part=0.3, div=25, final=1e4):
    start, turn = top / div, start_part * total - 1
    end = start / final
    if k <= turn:
        return top + (start - top) * (1 + math.cos(math.pi * k / turn)) / 2
    part = min((k - turn) / (total - 1 - turn), 1)
    return end + (top - end) * (1 + math.cos(math.pi * part)) / 2


def restarts(k, period, mult, floor, base, warmup=0, gamma=1):
    if k + 1 < warmup:
        return base * (k + 1) / warmup
    first, c = max(warmup - 1, 0), 0
    while k >= first + period * mult**c:
        first, c = first + period * mult**c, c + 1
    part = (k - first) / (period * mult**c)
    return floor + (base * gamma**c - floor) * (1 + math.cos(math.pi * part)) / 2


HALF = lambda x: (1 + math.cos(math.pi * x)) / 2  # noqa: E731
FORMS = {
    "linear": (fs.linear(12, 0.01), 12, lambda k, b: after_warmup(k, 0, 12, 0.01, b, lambda x: 1 - x)),
    "linear after warm-up": (
        fs.linear(12, 0.01, 5),
        12,
        lambda k, b: after_warmup(k, 5, 12, 0.01, b, lambda x: 1 - x),
    ),
    "linear, only warm-up": (fs.linear(12, 0.01, 12), 12, lambda k, b: b * (k + 1) / 12 if k < 12 else 0.01),
    "polynomial": (
        fs.polynomial(12, 3, 0.01),
        12,
        lambda k, b: after_warmup(k, 0, 12, 0.01, b, lambda x: (1 - x) ** 3),
    ),
    "polynomial after warm-up": (
        fs.polynomial(12, 0.5, 0.0, 4),
        12,
        lambda k, b: after_warmup(k, 4, 12, 0.0, b, lambda x: (1 - x) ** 0.5),
    ),
    "inverse_sqrt": (fs.inverse_sqrt(5), 12, lambda k, b: b * min((k + 1) / 5, math.sqrt(5 / (k + 1)))),
    "wsd linear": (
        fs.warmup_stable_decay(3, 5, 4, 0.01),
        12,
        lambda k, b: plateau(k, 3, 5, 4, 0.01, b, lambda x: 1 - x),
    ),
    "wsd cosine": (
        fs.warmup_stable_decay(3, 5, 4, 0.01, "cosine"),
        12,
        lambda k, b: plateau(k, 3, 5, 4, 0.01, b, HALF),
    ),
    "wsd 1-sqrt": (
        fs.warmup_stable_decay(0, 5, 7, 0.0, "1-sqrt"),
        12,
        lambda k, b: plateau(k, 0, 5, 7, 0.0, b, lambda x: 1 - math.sqrt(x)),
    ),
    "one_cycle": (fs.one_cycle(20), 20, lambda k, b: cycle(k, 20, b)),
    "one_cycle to a given peak": (fs.one_cycle(15, 0.7, 0.45, 4, 10), 15, lambda k, b: cycle(k, 15, 0.7, 0.45, 4, 10)),
    "cosine_restarts": (fs.cosine_restarts(4, 1, 0.01), 12, lambda k, b: restarts(k, 4, 1, 0.01, b)),
    "cosine_restarts, longer and lower": (
        fs.cosine_restarts(3, 2, 0.01, 4, 0.5),
        24,
        lambda k, b: restarts(k, 3, 2, 0.01, b, 4, 0.5),
    ),
    "warmup": (fs.warmup(6), 6, lambda k, b: b * min((k + 1) / 6, 1)),
    "constant for a while": (fs.constant(steps=6), 6, lambda k, b: b),
    "composed": (
        fs.warmup(3).then(fs.constant(steps=5)).then(fs.linear(4, 0.01)),
        12,
        lambda k, b: plateau(k, 3, 5, 4, 0.01, b, lambda x: 1 - x),
    ),
}
EVERY_FORM = pytest.mark.parametrize(("pure", "length", "form"), FORMS.values(), ids=FORMS)


@EVERY_FORM
@pytest.mark.parametrize("base", [1.0, 0.1])
def test_the_sequence_is_its_closed_form(pure, length, form, base):
    steps = range(3 * length)
    values = [pure(k, base) for k in steps]
    assert values == close([form(k, base) for k in steps], rel=1e-12, abs=1e-15)
    if pure.length is not None:
        assert pure.length == length and len(set(values[length:])) == 1, "it stays at its end"


@pytest.mark.parametrize("warmup", [0, 1, 4, 11, 12])
@pytest.mark.parametrize(("min_lr", "base"), [(0.0, 1.0), (0.03, 0.1), (1e-5, 3e-4)])
def test_warmup_cosine_is_its_closed_form(warmup, min_lr, base):
    schedule = fs.warmup_cosine(warmup, 12, min_lr)
    values = [schedule(k, base) for k in range(36)]
    assert values == close([after_warmup(k, warmup, 12, min_lr, base, HALF) for k in range(36)], rel=1e-12, abs=1e-18)
    if warmup:
        assert values[warmup - 1] == base, "the peak is exact"
    assert set(values[12:]) == {min_lr}, "the end is exact, and kept"


@pytest.mark.parametrize(("min_lr", "base"), [(0.0, 1.0), (0.03, 0.1)])
def test_cosine_is_its_closed_form(min_lr, base):
    expected = [min_lr + (base - min_lr) * HALF(min(k, 9) / 9) for k in range(27)]
    values = [fs.cosine(9, min_lr)(k, base) for k in range(27)]
    assert values == close(expected, rel=1e-12, abs=1e-17)
    assert values[0] == base
    assert set(values[9:]) == {min_lr}


def test_step_decay_is_its_closed_form():
    assert [fs.step_decay(4, 0.3)(k, 0.2) for k in range(36)] == [0.2 * 0.3 ** (k // 4) for k in range(36)]


def test_milestones_decay_from_that_step_on():
    values = [fs.step_decay(gamma=0.5, milestones=[2, 3, 7])(k, 0.2) for k in range(21)]
    assert values == [0.2] * 2 + [0.1] + [0.05] * 4 + [0.025] * 14


def test_constant_is_constant():
    assert [fs.constant()(k, 0.2) for k in range(30)] == [0.2] * 30


@EVERY_FORM
def test_interrupted_and_resumed_anywhere_it_is_the_same(pure, length, form):
    whole = sgd(0.1, 0.02)
    expected = train(whole, fs.Scheduler(whole, pure), 3 * length)
    assert expected == [[pure(k, 0.1), pure(k, 0.02)] for k in range(3 * length)]
    for k in range(3 * length):
        optimizer = sgd(0.1, 0.02)
        scheduler = fs.Scheduler(optimizer, pure)
        train(optimizer, scheduler, k)
        state = saved(optimizer, scheduler)
        fresh = sgd(0.7, 0.7)
        follower = fs.Scheduler(fresh, pure)
        follower.load_state_dict(state["scheduler"])
        fresh.load_state_dict(state["optimizer"])
        assert train(fresh, follower, 2) == [[pure(n, 0.1), pure(n, 0.02)] for n in (k, k + 1)]


@EVERY_FORM
def test_corners_are_steps_of_the_schedule(pure, length, form):
    assert pure.corners[0] == 0 and list(pure.corners) == sorted(set(pure.corners))
    assert pure.corners[-1] <= pure.horizon, "a plot shows every corner; the last may be the end"


@EVERY_FORM
def test_text_and_back(pure, length, form):
    known = {name: getattr(fs, name) for name in fs.__all__ if name[0].islower()}
    assert fs.parse(repr(pure), known) == pure
