"""Every schedule equals a closed form written here, over three times its length; compositions, floors and momentum."""

import math

import pytest
import torch

import fallline as fl
from fallline import schedules as fs
from fallline.errors import ArgumentError, ArgumentTypeError, FalllineError, StateError
from test_schedules import lrs, parameter, sgd, through_a_file, train

close = pytest.approx  # the same formula in another order of operations; a few roundings apart


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
        saved = through_a_file({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
        fresh = sgd(0.7, 0.7)
        follower = fs.Scheduler(fresh, pure)
        follower.load_state_dict(saved["scheduler"])
        fresh.load_state_dict(saved["optimizer"])
        assert train(fresh, follower, 2) == [[pure(n, 0.1), pure(n, 0.02)] for n in (k, k + 1)]


@EVERY_FORM
def test_corners_are_steps_of_the_schedule(pure, length, form):
    assert pure.corners[0] == 0 and list(pure.corners) == sorted(set(pure.corners)) and pure.corners[-1] < pure.horizon


@EVERY_FORM
def test_text_and_back(pure, length, form):
    known = {name: getattr(fs, name) for name in fs.__all__ if name[0].islower()}
    assert fs.parse(repr(pure), known) == pure


WRAPPED = {
    "Warmup": (lambda opt: fl.Warmup(opt, 5), fs.warmup(5)),
    "Linear": (lambda opt: fl.Linear(opt, 9, 0.001, 2), fs.linear(9, 0.001, 2)),
    "Polynomial": (lambda opt: fl.Polynomial(opt, 9, 2, 0.001, 2), fs.polynomial(9, 2, 0.001, 2)),
    "InverseSqrt": (lambda opt: fl.InverseSqrt(opt, 4), fs.inverse_sqrt(4)),
    "WarmupStableDecay": (
        lambda opt: fl.WarmupStableDecay(opt, 2, 3, 4, 0.001, "1-sqrt"),
        fs.warmup_stable_decay(2, 3, 4, 0.001, "1-sqrt"),
    ),
    "OneCycle": (lambda opt: fl.OneCycle(opt, 9, cycle_momentum=False), fs.one_cycle(9)),
    "CosineRestarts": (
        lambda opt: fl.CosineRestarts(opt, 3, 2, 0.001, 2, 0.5),
        fs.cosine_restarts(3, 2, 0.001, 2, 0.5),
    ),
}


@pytest.mark.parametrize(("build", "pure"), WRAPPED.values(), ids=WRAPPED)
def test_every_scheduler_runs_its_pure_schedule(build, pure):
    optimizer = sgd(0.1, 0.02)
    assert train(optimizer, build(optimizer), 20) == [[pure(k, 0.1), pure(k, 0.02)] for k in range(20)]


def test_every_pure_schedule_has_a_scheduler_of_its_name():
    pure = {name for name in fs.__all__ if name[0].islower()} - {"parse", "one_cycle_momentum"}
    spelled = {name.replace("_", "").lower() for name in fs.__all__ if name[0].isupper()}
    assert {name.replace("_", "") for name in pure} == spelled - {"schedule", "scheduler", "then"}


# ---------------------------------------------------------------- against PyTorch's own


def test_one_cycle_is_torchs_for_learning_rate_and_momentum():
    for total in (7, 10, 31):
        theirs = torch.optim.AdamW([parameter()], lr=0.5)
        ours = torch.optim.AdamW([parameter()], lr=0.5)
        expected = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.3, total_steps=total, pct_start=0.4)
        scheduler = fl.OneCycle(ours, total, 0.3, pct_start=0.4)
        for k in range(total):
            for key in ("lr", "betas"):
                assert ours.param_groups[0][key] == close(theirs.param_groups[0][key], rel=1e-12, abs=1e-16)
            for optimizer, sched in ((theirs, expected), (ours, scheduler)):
                optimizer.step()
                if k < total - 1 or sched is scheduler:
                    sched.step()
        assert ours.param_groups[0]["betas"] == (0.95, 0.999)
        assert lrs(ours) == [0.3 / 25 / 1e4], "it stays, where torch's raises"


@pytest.mark.parametrize("mult", [1, 2, 3])
def test_cosine_restarts_is_torchs(mult):
    optimizer = sgd(0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd(0.1), 4, mult, eta_min=0.01)
    expected = train(theirs.optimizer, theirs, 40)
    assert train(optimizer, fl.CosineRestarts(optimizer, 4, mult, 0.01), 40) == [close(r, rel=1e-12) for r in expected]


def test_polynomial_is_torchs_one_step_later():
    theirs = torch.optim.lr_scheduler.PolynomialLR(sgd(0.1), 9, power=2)
    expected = train(theirs.optimizer, theirs, 12)
    optimizer = sgd(0.1)
    ours = train(optimizer, fl.Polynomial(optimizer, 9, 2), 11)
    assert ours == [close(row, rel=1e-10, abs=1e-17) for row in expected[1:]]


# ---------------------------------------------------------------- composition


@pytest.mark.parametrize(("warmup", "total"), [(1, 5), (3, 10), (100, 1000)])
def test_a_warmup_then_a_cosine_is_warmup_cosine(warmup, total):
    composed, whole = fs.warmup(warmup).then(fs.cosine(total - warmup)), fs.warmup_cosine(warmup, total)
    assert [composed(k, 0.3) for k in range(2 * total)] == close([whole(k, 0.3) for k in range(2 * total)], rel=1e-12)
    assert composed.length == total - 1, "its end, min_lr, is the step after"


def test_a_warmup_then_a_line_is_linear_with_warmup():
    composed, whole = fs.warmup(3).then(fs.linear(7)), fs.linear(10, warmup_steps=3)
    assert [composed(k) for k in range(30)] == close([whole(k) for k in range(30)], rel=1e-12)


def test_composition_associates():
    a, b, c = fs.warmup(3), fs.constant(steps=4), fs.linear(5)
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert [left(k) for k in range(40)] == [right(k) for k in range(40)] and left.length == right.length == 12


def test_what_has_no_end_cannot_come_first():
    with pytest.raises(ArgumentError, match=r"then: first must have an end, got constant\(\); "):
        fs.constant().then(fs.cosine(9))
    with pytest.raises(ArgumentTypeError, match=r"then: second must be a Schedule, got second=3; "):
        fs.warmup(2).then(3)


# ---------------------------------------------------------------- floors and fractions


@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: fs.cosine(9, **kw),
        lambda **kw: fs.warmup_cosine(2, 9, **kw),
        lambda **kw: fs.linear(9, **kw),
        lambda **kw: fs.polynomial(9, 2, **kw),
        lambda **kw: fs.warmup_stable_decay(2, 3, 4, **kw),
        lambda **kw: fs.cosine_restarts(9, **kw),
    ],
)
def test_a_relative_floor_is_that_part_of_each_base(make):
    for base in (1.0, 0.1):
        pairs = [(make(min_lr_ratio=0.1)(k, base), make(min_lr=0.1 * base)(k, base)) for k in range(30)]
        assert all(a == close(b, rel=1e-14) for a, b in pairs)
    with pytest.raises(ArgumentError, match=r"only one of min_lr and min_lr_ratio may be given, got min_lr=0\.1, "):
        make(min_lr=0.1, min_lr_ratio=0.1)


def test_each_group_may_have_its_floor():
    optimizer = sgd(0.1, 0.1)
    scheduler = fl.Cosine(optimizer, 4, min_lr=[0.01, 0.02])
    train(optimizer, scheduler, 6)
    assert lrs(optimizer) == [0.01, 0.02]
    optimizer.add_param_group({"params": [parameter()], "lr": 0.5})
    scheduler.step(4)
    assert lrs(optimizer) == [0.01, 0.02, 0.02], "a later group has the last one's"
    with pytest.raises(ArgumentError, match="for each of the 2 groups, got 3; "):
        fl.Linear(sgd(0.1, 0.1), 4, min_lr=[0.1, 0.2, 0.3])


def test_a_fraction_of_all_steps_warms_up():
    assert fs.linear(200, warmup_steps=0.05) == fs.linear(200, warmup_steps=10)
    assert fs.warmup_stable_decay(0.1, 60, 30) == fs.warmup_stable_decay(10, 60, 30)
    assert fs.warmup_stable_decay(0.0, 60, 30).length == 90


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


# ---------------------------------------------------------------- weight decay and momentum


@pytest.mark.parametrize("make", [torch.optim.AdamW, fl.AdamW], ids=["torch's", "ours"])
def test_weight_decay_and_momentum_follow_schedules(make):
    params = [parameter(), parameter()]
    groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}]
    optimizer = make(groups, lr=1e-3)
    rising, falling = fs.cosine(8, min_lr_ratio=10.0), fs.linear(8, 0.5)
    scheduler = fl.Scheduler(optimizer, {"weight_decay": rising, "momentum": falling})
    for k in range(12):
        assert [g["weight_decay"] for g in optimizer.param_groups] == [rising(k, 0.1), 0.0]
        assert [g["betas"] for g in optimizer.param_groups] == [(falling(k, 0.9), 0.999)] * 2
        assert lrs(optimizer) == scheduler.get_lr() == scheduler.get_last_lr() == [1e-3, 1e-3]
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()
    saved = through_a_file({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
    for first in ("optimizer", "scheduler"):
        fresh = make([{"params": [parameter()]}, {"params": [parameter()]}], lr=1e-3)
        follower = fl.Scheduler(fresh, {"weight_decay": rising, "momentum": falling})
        parts = {"optimizer": fresh, "scheduler": follower}
        for name in (first, *(n for n in parts if n != first)):
            parts[name].load_state_dict(saved[name])
        follower.step(3)
        assert [g["weight_decay"] for g in fresh.param_groups] == [rising(3, 0.1), 0.0]


def test_ours_steps_as_torchs_while_everything_is_scheduled():
    def run(make):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
        optimizer = make([weight], lr=0.1, momentum=0.5, weight_decay=0.1)
        scheduler = fl.Scheduler(
            optimizer, {"lr": fs.warmup_cosine(3, 12), "weight_decay": fs.cosine(12), "momentum": fs.linear(12, 0.9)}
        )
        for _ in range(15):
            weight.grad = torch.sin(weight.detach())
            optimizer.step()
            scheduler.step()
        return weight.detach()

    assert torch.allclose(run(fl.SGD), run(torch.optim.SGD), rtol=1e-12, atol=0)


def test_two_schedulers_share_an_optimizer():
    optimizer = torch.optim.SGD([parameter()], lr=1.0, weight_decay=0.5)
    rate, decay = fl.Cosine(optimizer, 4), fl.Scheduler(optimizer, {"weight_decay": fs.linear(4)})
    for k in range(6):
        assert (lrs(optimizer), optimizer.param_groups[0]["weight_decay"]) == ([fs.cosine(4)(k)], fs.linear(4)(k, 0.5))
        optimizer.step()
        rate.step()
        decay.step()


def test_a_state_of_other_values_is_refused():
    optimizer = sgd()
    state = fl.Scheduler(optimizer, {"weight_decay": fs.cosine(9)}).state_dict()
    with pytest.raises(StateError, match=r"Cosine: bases must be those of lr, got weight_decay; "):
        fl.Cosine(optimizer, 9).load_state_dict(state)


# ---------------------------------------------------------------- pictures


def test_plot_draws_every_step_and_the_corners():
    chart = fs.warmup_cosine(3, 10).plot(steps=12, base=0.5)
    rows = chart.to_dict()["data"]["values"]
    assert [row["lr"] for row in rows] == [fs.warmup_cosine(3, 10)(k, 0.5) for k in range(12)]
    long = fs.warmup_cosine(777, 100_000).plot().to_dict()["data"]["values"]
    assert len(long) < 1100 and 1.0 in {row["lr"] for row in long}, "thinned, but not the peak"


@pytest.mark.parametrize(
    "text", ["3", "cosine", "cosine(10, 1 + x)", "cosine(__import__('os'))", "open('x')", "cosine(("]
)
def test_text_that_is_no_schedule_is_refused(text):
    with pytest.raises(ArgumentError, match=r"^schedule: must be "):
        fs.parse(text, {"cosine": fs.cosine})
