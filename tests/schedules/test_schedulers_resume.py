"""Saved, loaded or copied at any step, in any order, a scheduler goes on to the bit."""

import copy
import math
import pickle

import pytest
import torch

from fallline import schedules as fs
from fallline.errors import StateError
from support.schedulers import EVERY_SCHEDULE, lrs, saved, sgd, train


@EVERY_SCHEDULE
def test_resuming_at_any_step_changes_no_bit(build, pure):
    whole = sgd(0.1, 0.02)
    expected = train(whole, build(whole), 30)
    for k in range(0, 30):
        optimizer = sgd(0.1, 0.02)
        scheduler = build(optimizer)
        train(optimizer, scheduler, k)
        state = saved(optimizer, scheduler)
        optimizer = sgd(0.1, 0.02)
        scheduler = build(optimizer)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        assert train(optimizer, scheduler, 30 - k) == expected[k:]


ORDERS = {
    "build, optimizer, scheduler": lambda build, opt, state: (
        sched := build(opt),
        opt.load_state_dict(state["optimizer"]),
        sched.load_state_dict(state["scheduler"]),
    ),
    "build, scheduler, optimizer": lambda build, opt, state: (
        sched := build(opt),
        sched.load_state_dict(state["scheduler"]),
        opt.load_state_dict(state["optimizer"]),
    ),
    "optimizer, build, scheduler": lambda build, opt, state: (
        opt.load_state_dict(state["optimizer"]),
        sched := build(opt),
        sched.load_state_dict(state["scheduler"]),
    )[1:],
    "optimizer, build at last_epoch": lambda build, opt, state: (
        opt.load_state_dict(state["optimizer"]),
        build(opt, last_epoch=state["scheduler"]["last_epoch"] - 1),
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
    state = saved(optimizer, scheduler)
    fresh = sgd(make(0.7))
    scheduler, *_ = order(build, fresh, state)
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
    state = saved(optimizer, scheduler)
    fresh = fs.Cosine(sgd(), 10)
    fresh.load_state_dict(state["scheduler"])
    fresh.step()
    assert fresh.last_epoch == 1


@pytest.mark.parametrize("stepped", [False, True])
def test_a_state_of_an_earlier_version_is_loaded(stepped):
    optimizer = sgd(0.5)
    scheduler = fs.Cosine(optimizer, 10)
    old = {"last_epoch": 4, "bases": {"lr": [0.1]}, "values": {"lr": [fs.cosine(10)(4, 0.1)]}, "stepped": stepped}
    scheduler.load_state_dict(old)
    assert train(optimizer, scheduler, 3) == [[fs.cosine(10)(k, 0.1)] for k in (4, 5, 6)]


def test_state_is_plain_numbers():
    optimizer = sgd(torch.tensor(0.5, dtype=torch.float64), 0.25)
    scheduler = fs.Cosine(optimizer, 10)
    train(optimizer, scheduler, 2)
    optimizer.step()
    state = scheduler.state_dict()
    now = [fs.cosine(10)(2, base) for base in (0.5, 0.25)]
    expected = {"last_epoch": 2, "bases": {"lr": [0.5, 0.25]}, "values": {"lr": now}, "factors": {}, "skipped": False}
    assert state == expected
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
        ({"factors": {"momentum": [0.1, 0.1]}}, "factors must be those of lr, got momentum; "),
        ({"factors": {"lr": [-1.0]}}, "got factors=-1.0; "),
        ({"T_max": 5}, "got last_epoch, bases, values, skipped, T_max; "),
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
                "skipped": False,
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
    assert len(optimizer._optimizer_step_post_hooks) == 1 and not scheduler._record.stepped
