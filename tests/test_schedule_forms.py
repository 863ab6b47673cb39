"""Every schedule equals a closed form written here, over three times its length."""

import math

import pytest
import torch

import fallline as fl
from fallline import schedules as fs
from fallline.errors import FalllineError
from schedulers import close, parameter, saved, sgd, train


def after_warmup(k, warmup, total, floor, base, shape):
    """The formulas of SEMANTICS.md that count s = k + 1, with a shape of the part that is done."""
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
    assert pure.corners[0] == 0 and list(pure.corners) == sorted(set(pure.corners)) and pure.corners[-1] < pure.horizon


@EVERY_FORM
def test_text_and_back(pure, length, form):
    known = {name: getattr(fs, name) for name in fs.__all__ if name[0].islower()}
    assert fs.parse(repr(pure), known) == pure


BAD = [
    (lambda: fs.linear(0), "linear: total_steps must be .*, got total_steps=0; "),
    (lambda: fs.linear(5, warmup_steps=6), "linear: warmup_steps must be <= total_steps=5, got warmup_steps=6; "),
    (lambda: fs.polynomial(5, 0), "polynomial: power must be .* > 0, got power=0; "),
    (lambda: fs.inverse_sqrt(0), "inverse_sqrt: warmup_steps must be .*, got warmup_steps=0; "),
    (lambda: fs.warmup_stable_decay(1, 1, 0), "warmup_stable_decay: decay_steps must be .*, got decay_steps=0; "),
    (
        lambda: fs.warmup_stable_decay(1.5, 1, 1),
        r"warmup_stable_decay: warmup_steps must be .*, got warmup_steps=1\.5; ",
    ),
    (
        lambda: fs.warmup_stable_decay(1, 1, 1, shape="sqrt"),
        "warmup_stable_decay: shape must be .*, got shape='sqrt'; ",
    ),
    (lambda: fs.one_cycle(9, 0.0), r"one_cycle: max_lr must be .*, got max_lr=0\.0; "),
    (lambda: fs.one_cycle(9, pct_start=1.5), r"one_cycle: pct_start must be .*, got pct_start=1\.5; "),
    (lambda: fs.one_cycle_momentum(9, 1.5), r"one_cycle_momentum: base_momentum must be .*, got base_momentum=1\.5; "),
    (lambda: fs.cosine_restarts(4, 0), "cosine_restarts: mult must be .*, got mult=0; "),
    (lambda: fs.warmup(0), "warmup: warmup_steps must be .*, got warmup_steps=0; "),
    (lambda: fl.OneCycle(torch.optim.Rprop([parameter()]), 9), "OneCycle: schedule must be for .*, got 'momentum'; "),
    (lambda: fl.Scheduler(sgd(), {"eps": fs.cosine(9)}), "Scheduler: schedule must be for .*, got 'eps'; "),
    (lambda: fl.Scheduler(sgd(), {}), "Scheduler: schedule must schedule something, "),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(FalllineError, match=f"(?s)^{message}"):
        call()
