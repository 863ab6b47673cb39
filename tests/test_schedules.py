"""Schedules are exact functions of the step, and their schedulers keep an optimizer on them whatever happens."""

import copy
import doctest
import gc
import importlib
import io
import math
import pickle
import pkgutil
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline import schedules as fs
from fallline.errors import ArgumentError, ArgumentTypeError, FalllineError, StateError

# The same formula in another order of operations; a few roundings apart.
close = pytest.approx


def parameter():
    return torch.nn.Parameter(torch.ones(2))


def sgd(*lrs, **options):
    """Return an SGD with one group per learning rate (0.1 by default)."""
    return torch.optim.SGD([{"params": [parameter()], "lr": lr} for lr in lrs or (0.1,)], **options)


def lrs(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


def train(optimizer, scheduler, steps):
    """Return the learning rates that each of `steps` updates used."""
    used = []
    for _ in range(steps):
        used.append(lrs(optimizer))
        optimizer.step()
        scheduler.step()
    return used


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


BUILDERS = {
    "Constant": (lambda opt, **kw: fs.Constant(opt, **kw), fs.constant()),
    "StepDecay": (lambda opt, **kw: fs.StepDecay(opt, 2, 0.3, **kw), fs.step_decay(2, 0.3)),
    "milestones": (lambda opt, **kw: fs.StepDecay(opt, milestones=[1, 5], **kw), fs.step_decay(milestones=[1, 5])),
    "Cosine": (lambda opt, **kw: fs.Cosine(opt, 7, 0.01, **kw), fs.cosine(7, 0.01)),
    "WarmupCosine": (lambda opt, **kw: fs.WarmupCosine(opt, 3, 10, 0.01, **kw), fs.warmup_cosine(3, 10, 0.01)),
    "Linear": (lambda opt, **kw: fs.Linear(opt, 9, 0.01, 2, **kw), fs.linear(9, 0.01, 2)),
    "Polynomial": (lambda opt, **kw: fs.Polynomial(opt, 9, 2.0, 0.01, 2, **kw), fs.polynomial(9, 2.0, 0.01, 2)),
    "InverseSqrt": (lambda opt, **kw: fs.InverseSqrt(opt, 3, **kw), fs.inverse_sqrt(3)),
    "WarmupStableDecay": (
        lambda opt, **kw: fs.WarmupStableDecay(opt, 2, 3, 4, 0.01, **kw),
        fs.warmup_stable_decay(2, 3, 4, 0.01),
    ),
    "OneCycle": (lambda opt, **kw: fs.OneCycle(opt, 12, cycle_momentum=False, **kw), fs.one_cycle(12)),
    "CosineRestarts": (lambda opt, **kw: fs.CosineRestarts(opt, 4, 2, 0.01, **kw), fs.cosine_restarts(4, 2, 0.01)),
    "Warmup": (lambda opt, **kw: fs.Warmup(opt, 3, **kw), fs.warmup(3)),
    "Then": (
        lambda opt, **kw: fs.Scheduler(opt, fs.warmup(3).then(fs.cosine(6)), **kw),
        fs.warmup(3).then(fs.cosine(6)),
    ),
}


def test_every_scheduler_is_held_to_what_follows():
    classes = {name for name in fs.__all__ if name[0].isupper() and issubclass(getattr(fs, name), fs.Scheduler)}
    assert classes - BUILDERS.keys() == {"Scheduler"}  # which Then stands for


EVERY_SCHEDULE = pytest.mark.parametrize(("build", "pure"), BUILDERS.values(), ids=BUILDERS)


# ---------------------------------------------------------------- the pure schedules


def test_warmup_cosine_is_the_documented_sequence():
    schedule = fs.warmup_cosine(3, 10)
    values = [schedule(k) for k in range(30)]
    assert values[:3] == [1 / 3, 2 / 3, 1.0]
    assert [round(v, 3) for v in values[3:9]] == [0.950, 0.812, 0.611, 0.389, 0.188, 0.050]
    assert values[9:] == [0.0] * 21


def closed_form(k, warmup, total, min_lr, base):
    s = k + 1
    if s < warmup:
        return base * s / warmup
    if s > total:
        return min_lr
    if warmup == total:
        return base
    return min_lr + (base - min_lr) * (1 + math.cos(math.pi * (s - warmup) / (total - warmup))) / 2


@pytest.mark.parametrize("warmup", [0, 1, 4, 11, 12])
@pytest.mark.parametrize(("min_lr", "base"), [(0.0, 1.0), (0.03, 0.1), (1e-5, 3e-4)])
def test_warmup_cosine_is_its_closed_form(warmup, min_lr, base):
    schedule = fs.warmup_cosine(warmup, 12, min_lr)
    values = [schedule(k, base) for k in range(36)]
    assert values == close([closed_form(k, warmup, 12, min_lr, base) for k in range(36)], rel=1e-12, abs=1e-18)
    if warmup:
        assert values[warmup - 1] == base, "the peak is exact"
    assert set(values[12:]) == {min_lr}, "the end is exact, and kept"


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


@pytest.mark.parametrize(("min_lr", "base"), [(0.0, 1.0), (0.03, 0.1)])
def test_cosine_is_its_closed_form(min_lr, base):
    expected = [min_lr + (base - min_lr) * (1 + math.cos(math.pi * min(k, 9) / 9)) / 2 for k in range(27)]
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


@given(data=st.data(), total=st.integers(1, 400), base=st.floats(1e-7, 10), part=st.floats(0, 1))
@settings(deadline=None)
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


BAD_VALUES = [
    (lambda: fs.cosine(0), "cosine: total_steps must be .*, got total_steps=0; "),
    (lambda: fs.cosine(10, -1.0), r"cosine: min_lr must be .*, got min_lr=-1\.0; "),
    (lambda: fs.cosine(10, math.nan), "cosine: min_lr must be .*, got min_lr=nan; "),
    (lambda: fs.cosine(10, math.inf), "cosine: min_lr must be .*, got min_lr=inf; "),
    (lambda: fs.cosine(10)(-1), "cosine: k must be .*, got k=-1; "),
    (lambda: fs.warmup_cosine(-1, 10), "warmup_cosine: warmup_steps must be .*, got warmup_steps=-1; "),
    (lambda: fs.warmup_cosine(11, 10), "warmup_cosine: warmup_steps must be <= total_steps=10, got warmup_steps=11; "),
    (lambda: fs.warmup_cosine(1.0, 10), r"warmup_cosine: warmup_steps must be .*, got warmup_steps=1\.0; "),
    (lambda: fs.warmup_cosine(-0.1, 10), r"warmup_cosine: warmup_steps must be .*, got warmup_steps=-0\.1; "),
    (lambda: fs.warmup_cosine(math.nan, 10), "warmup_cosine: warmup_steps must be .*, got warmup_steps=nan; "),
    (lambda: fs.warmup_cosine(0, 0), "warmup_cosine: total_steps must be .*, got total_steps=0; "),
    (lambda: fs.warmup_cosine(0, 9, -1), "warmup_cosine: min_lr must be .*, got min_lr=-1; "),
    (lambda: fs.step_decay(), "step_decay: exactly one .*, got step_size=None, milestones=None; "),
    (lambda: fs.step_decay(2, 0.1, [3]), r"step_decay: exactly one .*, got step_size=2, milestones=\[3\]; "),
    (lambda: fs.step_decay(0), "step_decay: step_size must be .*, got step_size=0; "),
    (lambda: fs.step_decay(2, 1.5), r"step_decay: gamma must be .*, got gamma=1\.5; "),
    (lambda: fs.step_decay(2, math.nan), "step_decay: gamma must be .*, got gamma=nan; "),
    (lambda: fs.step_decay(milestones=[]), r"step_decay: milestones must be .*, got milestones=\[\]; "),
    (lambda: fs.step_decay(milestones=[3, 3]), r"step_decay: milestones must be .*, got milestones=\[3, 3\]; "),
    (lambda: fs.step_decay(milestones=[0, 3]), r"step_decay: milestones\[0\] must be .*, got milestones\[0\]=0; "),
    (lambda: fs.Constant(sgd(), last_epoch=-2), "Constant: last_epoch must be .*, got last_epoch=-2; "),
    (lambda: fs.Constant(sgd(), last_epoch=4), "Constant: every group must hold initial_lr .*, got last_epoch=4; "),
    (lambda: fs.Constant(sgd()).step(-1), "Constant: epoch must be .*, got epoch=-1; "),
]
BAD_TYPES = [
    (lambda: fs.cosine(10.0), r"cosine: total_steps must be .*, got total_steps=10\.0; "),
    (lambda: fs.cosine(True), "cosine: total_steps must be .*, got total_steps=True; "),
    (lambda: fs.cosine(10, "0"), "cosine: min_lr must be .*, got min_lr='0'; "),
    (lambda: fs.cosine(10, False), "cosine: min_lr must be .*, got min_lr=False; "),
    (lambda: fs.cosine(10)(1.0), r"cosine: k must be .*, got k=1\.0; "),
    (lambda: fs.warmup_cosine(True, 10), "warmup_cosine: warmup_steps must be .*, got warmup_steps=True; "),
    (lambda: fs.warmup_cosine("3", 10), "warmup_cosine: warmup_steps must be .*, got warmup_steps='3'; "),
    (lambda: fs.step_decay(2.0), r"step_decay: step_size must be .*, got step_size=2\.0; "),
    (lambda: fs.step_decay(milestones=30), "step_decay: milestones must be .*, got milestones=30; "),
    (lambda: fs.step_decay(milestones=[1.5]), r"step_decay: milestones\[0\] must be .*, got milestones\[0\]=1\.5; "),
    (
        lambda: fs.cosine(10, eta_min=0),
        "cosine: keywords must be among total_steps, min_lr, min_lr_ratio, got eta_min=0; ",
    ),
    (lambda: fs.Cosine(sgd(), T_max=9), "Cosine: keywords must be among optimizer, total_steps, .*, got T_max=9; "),
    (lambda: fs.Constant(parameter()), "Constant: optimizer must be .*, got optimizer=.*; "),
    (lambda: fs.Scheduler(sgd(), math.cos), "Scheduler: schedule must be .*, got schedule=.*; "),
    (lambda: fs.Constant(sgd()).step(0.25), r"Constant: epoch must be .*, got epoch=0\.25; "),
]


@pytest.mark.parametrize(
    ("call", "message", "kind"),
    [(*row, ArgumentError) for row in BAD_VALUES] + [(*row, ArgumentTypeError) for row in BAD_TYPES],
    ids=lambda value: value.replace("\\", "") if isinstance(value, str) else "",
)
def test_bad_arguments_are_named(call, message, kind):
    with pytest.raises(kind, match=f"(?s)^{message}.+"):
        call()


def test_a_refused_schedule_leaves_the_optimizer_alone():
    optimizer = sgd()
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(FalllineError):
        fs.WarmupCosine(optimizer, 11, 10)
    assert optimizer.param_groups == before
    assert not optimizer._optimizer_step_post_hooks


# ---------------------------------------------------------------- the schedulers over an optimizer


@EVERY_SCHEDULE
def test_scheduler_runs_the_pure_schedule_in_every_group(build, pure):
    optimizer = sgd(0.1, 0.02)
    scheduler = build(optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    for k in range(30):
        expected = [pure(k, 0.1), pure(k, 0.02)]
        assert (scheduler.last_epoch, scheduler._step_count, scheduler.base_lrs) == (k, k + 1, [0.1, 0.02])
        assert lrs(optimizer) == scheduler.get_last_lr() == scheduler.get_lr() == expected
        optimizer.step()
        scheduler.step()


def test_ratios_of_the_groups_are_kept():
    optimizer = sgd(0.1, 0.05, 0.0)
    for a, b, c in train(optimizer, fs.WarmupCosine(optimizer, 3, 10), 9):
        assert (a / b, c) == (close(2, rel=1e-15), 0)


@pytest.mark.parametrize("base", [0.1, 3e-4])
def test_step_decay_is_torchs_step_lr(base):
    for options, theirs in [
        ({"step_size": 3, "gamma": 0.1}, torch.optim.lr_scheduler.StepLR(sgd(base), 3, 0.1)),
        ({"milestones": [2, 5], "gamma": 0.1}, torch.optim.lr_scheduler.MultiStepLR(sgd(base), [2, 5], 0.1)),
    ]:
        optimizer = sgd(base)
        expected = train(theirs.optimizer, theirs, 12)  # torch multiplies up, which drifts by roundings
        assert train(optimizer, fs.StepDecay(optimizer, **options), 12) == [close(row, rel=1e-14) for row in expected]


def test_cosine_is_torchs_until_its_end():
    optimizer = sgd(0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd(0.1), 8, eta_min=0.01)
    for used in train(optimizer, fs.Cosine(optimizer, 8, 0.01), 9):
        assert used == close(theirs._get_closed_form_lr(), rel=1e-15)
        theirs.optimizer.step()
        theirs.step()
    assert theirs._get_closed_form_lr()[0] > lrs(optimizer)[0] == 0.01, "where torch rises again"


def test_one_step_an_epoch_of_many_updates():
    optimizer = sgd(1.0)
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    for epoch in range(4):
        for _ in range(3):
            assert lrs(optimizer) == [0.5**epoch]
            optimizer.step()
        scheduler.step()


def test_step_with_a_number_goes_there():
    optimizer = sgd(1.0)
    scheduler = fs.Cosine(optimizer, 10)
    for k in (7, 3, 25):
        scheduler.step(k)
        assert (scheduler.last_epoch, lrs(optimizer)) == (k, [fs.cosine(10)(k)])


@EVERY_SCHEDULE
def test_last_epoch_starts_in_mid_run(build, pure):
    optimizer = sgd(0.3)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    scheduler = build(optimizer, last_epoch=4)
    assert (scheduler.last_epoch, lrs(optimizer)) == (5, [pure(5, 0.1)])


def test_a_call_puts_the_learning_rate_back_on_the_schedule():
    optimizer = sgd(1.0)
    scheduler = fs.Cosine(optimizer, 10)
    optimizer.param_groups[0]["lr"] = 9.0
    scheduler.step()
    assert (scheduler.last_epoch, lrs(optimizer)) == (0, [1.0])


def test_any_pure_schedule_makes_a_scheduler():
    optimizer = sgd(0.1)
    pure = fs.warmup_cosine(2, 5)
    assert train(optimizer, fs.Scheduler(optimizer, pure), 8) == [[pure(k, 0.1)] for k in range(8)]


@EVERY_SCHEDULE
def test_tensor_lr_is_filled_in_place(build, pure):
    own, other = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64)
    optimizer = sgd(own, other)
    scheduler = build(optimizer)
    for k, used in enumerate(train(optimizer, scheduler, 15)):
        assert used == [pure(k, base) for base in (0.1, 0.02)]
    assert optimizer.param_groups[0]["lr"] is own
    assert optimizer.param_groups[1]["lr"] is other
    state = scheduler.state_dict()
    own.fill_(5.0)
    assert scheduler.base_lrs == [0.1, 0.02], "nothing aliases the tensor"
    scheduler.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] is own
    assert own == pure(15, 0.1)


@EVERY_SCHEDULE
def test_groups_added_later_follow(build, pure):
    optimizer = sgd(0.1)
    scheduler = build(optimizer)
    train(optimizer, scheduler, 4)
    optimizer.add_param_group({"params": [parameter()], "lr": 0.5})
    bases = [0.1, 0.5]
    assert scheduler.state_dict()["bases"] == {"lr": bases}
    optimizer.step()
    scheduler.step()
    assert train(optimizer, scheduler, 8) == [[pure(k, base) for base in bases] for k in range(5, 13)]
    assert scheduler.base_lrs == bases


def test_a_late_group_given_the_rate_of_now_takes_it_for_its_base():
    optimizer = sgd(0.1)
    scheduler = fs.Cosine(optimizer, 10)
    train(optimizer, scheduler, 4)
    now = optimizer.param_groups[0]["lr"]
    optimizer.add_param_group({"params": [parameter()], "lr": now})
    optimizer.step()
    scheduler.step()
    assert lrs(optimizer) == [fs.cosine(10)(5, base) for base in (0.1, now)]


def test_a_late_group_sharing_a_tensor_lr_gets_its_base_not_what_was_filled_in():
    optimizer = torch.optim.SGD([parameter()], lr=torch.tensor(0.5))
    scheduler = fs.WarmupCosine(optimizer, 4, 10)
    optimizer.add_param_group({"params": [parameter()]})
    assert optimizer.param_groups[1]["lr"] is optimizer.param_groups[0]["lr"]
    assert train(optimizer, scheduler, 4) == [[0.125] * 2, [0.25] * 2, [0.375] * 2, [0.5] * 2]


# ---------------------------------------------------------------- steps that were skipped


@EVERY_SCHEDULE
@pytest.mark.parametrize("make", [torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr, fused=True)])
def test_a_step_that_gradscaler_skips_does_not_count(make, build, pure):
    weight = parameter()
    optimizer = make([weight], lr=1.0)
    scheduler = build(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    counted = 0
    for skip in (True, False, True, True, False, False):
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        if skip:
            weight.grad[0] = torch.inf
        before = weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        assert not skip or torch.equal(weight, before)
        counted += not skip
        assert (scheduler.last_epoch, lrs(optimizer)) == (counted, [pure(counted, 1.0)])


def test_an_epoch_counts_though_its_last_update_was_skipped():
    weight = parameter()
    optimizer = torch.optim.Adam([weight], fused=True)
    scheduler = fs.Cosine(optimizer, 10)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for value in (1.0, torch.inf):
        weight.grad = torch.full((2,), value)
        scaler.scale(torch.ones(()))  # the scaler makes its scale at first use
        scaler.step(optimizer)
        scaler.update()
    scheduler.step()
    assert scheduler.last_epoch == 1


def test_a_few_skipped_steps_are_no_reason_to_warn():
    optimizer = sgd()
    scheduler = fs.Cosine(optimizer, 10)
    for _ in range(10):
        train(optimizer, scheduler, 2)
        scheduler.step()
    assert scheduler.last_epoch == 20


def test_a_wrapper_counts_when_the_optimizer_inside_it_steps():
    class Wrapper(torch.optim.Optimizer):  # as SAM: two phases that bypass `step`, or `step`, which may do nothing
        def __init__(self, base):
            super().__init__(base.param_groups, base.defaults)
            self.param_groups = base.param_groups
            self.base = base

        def second_step(self):
            self.base.step()

        def step(self, closure=None):
            pass

    optimizer = Wrapper(sgd(1.0))
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    optimizer.second_step()
    scheduler.step()
    assert lrs(optimizer) == [0.5]
    optimizer.step()
    scheduler.step()
    assert lrs(optimizer) == [0.5]


@pytest.mark.parametrize("updates", [0, 1], ids=["no update", "two calls an update"])
def test_a_loop_without_updates_stands_still_and_says_so_once(updates):
    optimizer = sgd(1.0)
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    with pytest.warns(
        UserWarning, match=r"StepDecay.step\(\) did not advance in 5 .*step_decay\(step_size=1"
    ) as caught:
        for _ in range(20):
            for _ in range(updates):
                optimizer.step()
            scheduler.step()
            scheduler.step()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert (scheduler.last_epoch, lrs(optimizer)) == (20 * updates, [0.5 ** (20 * updates)])


# ---------------------------------------------------------------- saving, loading, copying


@EVERY_SCHEDULE
def test_resuming_at_any_step_changes_no_bit(build, pure):
    whole = sgd(0.1, 0.02)
    expected = train(whole, build(whole), 30)
    for k in range(0, 30):
        optimizer = sgd(0.1, 0.02)
        scheduler = build(optimizer)
        train(optimizer, scheduler, k)
        saved = through_a_file({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
        optimizer = sgd(0.1, 0.02)
        scheduler = build(optimizer)
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        assert train(optimizer, scheduler, 30 - k) == expected[k:]


ORDERS = {
    "build, optimizer, scheduler": lambda build, opt, saved: (
        sched := build(opt),
        opt.load_state_dict(saved["optimizer"]),
        sched.load_state_dict(saved["scheduler"]),
    ),
    "build, scheduler, optimizer": lambda build, opt, saved: (
        sched := build(opt),
        sched.load_state_dict(saved["scheduler"]),
        opt.load_state_dict(saved["optimizer"]),
    ),
    "optimizer, build, scheduler": lambda build, opt, saved: (
        opt.load_state_dict(saved["optimizer"]),
        sched := build(opt),
        sched.load_state_dict(saved["scheduler"]),
    )[1:],
    "optimizer, build at last_epoch": lambda build, opt, saved: (
        opt.load_state_dict(saved["optimizer"]),
        build(opt, last_epoch=saved["scheduler"]["last_epoch"] - 1),
    )[1:],
}


@EVERY_SCHEDULE
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["float lr", "tensor lr"])
def test_the_order_of_building_and_loading_does_not_matter(order, tensor, build, pure):
    make = (lambda lr: torch.tensor(lr, dtype=torch.float64)) if tensor else float
    whole = sgd(make(0.1))
    expected = train(whole, build(whole), 12)
    optimizer = sgd(make(0.1))
    scheduler = build(optimizer)
    train(optimizer, scheduler, 5)
    saved = through_a_file({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
    fresh = sgd(make(0.7))
    scheduler, *_ = order(build, fresh, saved)
    assert lrs(fresh) == expected[5] == [pure(5, 0.1)]
    assert train(fresh, scheduler, 7) == expected[5:]


def test_the_base_learning_rates_come_with_the_scheduler():
    optimizer = sgd(0.1, 0.02)
    scheduler = fs.Cosine(optimizer, 10)
    train(optimizer, scheduler, 5)
    fresh = sgd(0.7, 0.7)
    follower = fs.Cosine(fresh, 10)
    follower.load_state_dict(scheduler.state_dict())
    assert follower.get_last_lr() == lrs(fresh)
    assert train(fresh, follower, 6) == train(optimizer, scheduler, 6)


def test_saving_between_the_update_and_the_call_loses_no_step():
    optimizer = sgd()
    scheduler = fs.Cosine(optimizer, 10)
    optimizer.step()
    state = through_a_file(scheduler.state_dict())
    fresh = fs.Cosine(sgd(), 10)
    fresh.load_state_dict(state)
    fresh.step()
    fresh.step()
    assert fresh.last_epoch == 1, "the update before the save counts, once"


def test_state_is_plain_numbers():
    optimizer = sgd(torch.tensor(0.5, dtype=torch.float64), 0.25)
    scheduler = fs.Cosine(optimizer, 10)
    train(optimizer, scheduler, 2)
    optimizer.step()
    state = scheduler.state_dict()
    now = [fs.cosine(10)(2, base) for base in (0.5, 0.25)]
    assert state == {"last_epoch": 2, "bases": {"lr": [0.5, 0.25]}, "values": {"lr": now}, "stepped": True}
    assert {type(value) for value in (*state["bases"]["lr"], *state["values"]["lr"])} == {float}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"last_epoch": -2}, "got last_epoch=-2; "),
        ({"last_epoch": 1.5}, r"got last_epoch=1\.5; "),
        ({"bases": {"lr": [0.1]}}, "fit the optimizer's 2 groups, got 1 bases of lr; "),
        ({"values": {"lr": [0.1]}}, "fit the optimizer's 2 groups, got 1 values of lr; "),
        ({"values": {"lr": [0.1, True]}}, "got values=True; "),
        ({"bases": {"lr": [0.1, math.nan]}}, "got bases=nan; "),
        ({"bases": {"momentum": [0.1, 0.1]}}, "bases must be those of lr, got momentum; "),
        ({"T_max": 5}, "got last_epoch, bases, values, stepped, T_max; "),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change, message):
    optimizer = sgd(0.1, 0.02)
    scheduler = fs.Cosine(optimizer, 10)
    train(optimizer, scheduler, 3)
    before = (scheduler.state_dict(), lrs(optimizer))
    with pytest.raises(StateError, match=f"^Cosine: .*{message}.+"):
        scheduler.load_state_dict(
            {
                "last_epoch": 5,
                "bases": {"lr": [0.3, 0.3]},
                "values": {"lr": [0.1, 0.1]},
                "stepped": False,
                **change,
            }
        )
    assert (scheduler.state_dict(), lrs(optimizer)) == before


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_of_optimizer_and_scheduler_goes_on_by_itself(clone):
    optimizer = sgd(1.0)
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    train(optimizer, scheduler, 2)
    optimizer.step()
    twin, follower = clone((optimizer, scheduler))
    follower.step()
    assert train(twin, follower, 3) == [[0.125], [0.0625], [0.03125]]
    assert (scheduler.last_epoch, lrs(optimizer)) == (2, [0.25])
    scheduler.step()
    assert lrs(optimizer) == [0.125]


def test_an_optimizer_can_be_copied_without_its_scheduler():
    optimizer = sgd(1.0)
    scheduler = fs.StepDecay(optimizer, 1, 0.5)
    copy.deepcopy(optimizer).step()
    assert not scheduler.state_dict()["stepped"]


def test_a_scheduler_leaves_no_hook_behind():
    optimizer = sgd(1.0)
    scheduler = fs.Cosine(optimizer, 10)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    del scheduler
    gc.collect()
    assert not optimizer._optimizer_step_post_hooks


# ---------------------------------------------------------------- inside PyTorch's own schedulers


SEQUENCES = {
    "ours": lambda opt: [fs.WarmupCosine(opt, 4, 4), fs.Cosine(opt, 6)],
    "ours, then torch's": lambda opt: [fs.WarmupCosine(opt, 4, 4), torch.optim.lr_scheduler.CosineAnnealingLR(opt, 6)],
    "torch's, then ours": lambda opt: [torch.optim.lr_scheduler.LinearLR(opt, 0.25, 1.0, 3), fs.Cosine(opt, 6)],
}


@pytest.mark.parametrize("parts", SEQUENCES.values(), ids=SEQUENCES)
def test_sequential_lr_runs_and_resumes_ours(parts):
    def build(optimizer):
        return torch.optim.lr_scheduler.SequentialLR(optimizer, parts(optimizer), milestones=[4])

    expected = [0.125, 0.25, 0.375, 0.5] + [fs.cosine(6)(k, 0.5) for k in range(7)]
    for k in range(11):
        optimizer = sgd(0.5)
        scheduler = build(optimizer)
        used = train(optimizer, scheduler, k)
        assert scheduler.get_last_lr() == lrs(optimizer)
        saved = through_a_file({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()})
        optimizer = sgd(0.5)
        scheduler = build(optimizer)
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        used += train(optimizer, scheduler, 11 - k)
        assert [lr for (lr,) in used] == close(expected, rel=1e-12, abs=1e-15)


def test_sequential_lr_starts_ours_without_the_updates_before_its_turn():
    optimizer = sgd(1.0)
    parts = [fs.Constant(optimizer), fs.Cosine(optimizer, 6)]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])
    train(optimizer, scheduler, 3)
    scheduler.step()
    assert parts[1].last_epoch == 0


MODULES = [module.name for module in pkgutil.iter_modules(fs.__path__) if module.name not in ("plot", "values")]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module):
    result = doctest.testmod(importlib.import_module(f"fallline.schedules.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
