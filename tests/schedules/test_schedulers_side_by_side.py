"""Two schedulers on one optimizer multiply as PyTorch's chainable ones do, or are refused."""

import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

import fallline as fl
from fallline import schedules as fs
from fallline.errors import StateError
from support.schedulers import close, lrs, saved, sgd, train

OURS = {  # and torch's of the same form
    "StepDecay": (lambda opt: fs.StepDecay(opt, 3, 0.5), lambda opt: StepLR(opt, 3, 0.5)),
    "milestones": (
        lambda opt: fs.StepDecay(opt, milestones=[2, 5], gamma=0.5),
        lambda opt: MultiStepLR(opt, [2, 5], 0.5),
    ),
    "growing": (lambda opt: fs.StepDecay(opt, 3, 2.0), lambda opt: StepLR(opt, 3, 2.0)),
    "Cosine": (lambda opt: fs.Cosine(opt, 20), lambda opt: CosineAnnealingLR(opt, 20)),
    "Constant": (lambda opt: fs.Constant(opt), lambda opt: ConstantLR(opt, 1.0)),
}
EVERY_PAIR = pytest.mark.parametrize(("ours", "theirs"), OURS.values(), ids=OURS)
BESIDE = {
    "ExponentialLR": lambda opt: ExponentialLR(opt, 0.9),
    "LinearLR": lambda opt: LinearLR(opt, 0.25, 1.0, 4),
    "StepLR": lambda opt: StepLR(opt, 2, 0.5),
    "ConstantLR": lambda opt: ConstantLR(opt, 0.5, 3),
}
EVERY_OTHER = pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)


class Both:
    def __init__(self, *schedulers):
        self.schedulers = schedulers

    def step(self):
        for scheduler in self.schedulers:
            scheduler.step()


def tensor(lr):
    return torch.tensor(lr, dtype=torch.float64)


@EVERY_PAIR
@EVERY_OTHER
@pytest.mark.parametrize("lr", [float, tensor], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("swap", [False, True], ids=["ours steps first", "ours steps second"])
def test_a_scheduler_of_torch_beside_ours_multiplies(ours, theirs, beside, lr, swap):
    def run(make):
        optimizer = sgd(lr(1.0), lr(0.1))
        pair = [make(optimizer), beside(optimizer)]
        return train(optimizer, Both(*(reversed(pair) if swap else pair)), 12)

    assert run(ours) == [close(row, rel=1e-12) for row in run(theirs)]


@EVERY_PAIR
@pytest.mark.parametrize("beside", [BESIDE["ExponentialLR"], BESIDE["StepLR"]], ids=["ExponentialLR", "StepLR"])
def test_one_of_torch_that_was_constructed_first_multiplies(ours, theirs, beside):
    def run(make):
        optimizer = sgd(1.0)
        pair = [beside(optimizer), make(optimizer)]
        return train(optimizer, Both(*pair), 12)

    assert run(ours) == [close(row, rel=1e-12) for row in run(theirs)]


@EVERY_PAIR
@EVERY_OTHER
def test_ours_is_a_part_of_a_chained_scheduler(ours, theirs, beside):
    def run(make):
        optimizer = sgd(1.0)
        return train(optimizer, ChainedScheduler([make(optimizer), beside(optimizer)]), 12)

    assert run(ours) == [close(row, rel=1e-12) for row in run(theirs)]


def test_a_plateau_beside_ours_keeps_its_reductions():
    optimizer = sgd(1.0)
    cosine, plateau = fs.Cosine(optimizer, 20), ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for k in range(6):
        assert lrs(optimizer) == close([fs.cosine(20)(k) * 0.5 ** max(k - 1, 0)], rel=1e-12)
        optimizer.step()
        cosine.step()
        plateau.step(1.0)


def test_a_learning_rate_set_by_hand_is_kept_as_under_step_lr():
    def run(make):
        optimizer = sgd(1.0)
        scheduler = make(optimizer)
        used = train(optimizer, scheduler, 2)
        optimizer.param_groups[0]["lr"] *= 0.1
        return used + train(optimizer, scheduler, 8)

    expected = run(lambda opt: StepLR(opt, 3, 0.5))
    assert run(lambda opt: fs.StepDecay(opt, 3, 0.5)) == [close(row, rel=1e-12) for row in expected]


def test_a_jump_to_a_step_puts_the_learning_rate_back_on_the_schedule():
    optimizer = sgd(1.0)
    scheduler = fs.Cosine(optimizer, 10)
    optimizer.param_groups[0]["lr"] = 9.0
    scheduler.step(scheduler.last_epoch)
    assert lrs(optimizer) == [1.0]


def test_a_rate_set_to_0_for_a_while_comes_back():
    optimizer = sgd(1.0)
    scheduler = fs.Constant(optimizer)
    for rate in (0.0, 1.0):
        optimizer.param_groups[0]["lr"] = rate
        assert train(optimizer, scheduler, 3)[2] == [rate]


@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
def test_factors_survive_a_checkpoint(order):
    def build(optimizer):
        return fs.Cosine(optimizer, 20), ExponentialLR(optimizer, 0.9)

    whole = sgd(1.0)
    expected = train(whole, Both(*build(whole)), 12)
    optimizer = sgd(1.0)
    cosine, exponential = build(optimizer)
    train(optimizer, Both(cosine, exponential), 5)
    state, other = saved(optimizer, cosine), exponential.state_dict()
    fresh = sgd(0.7)
    cosine, exponential = build(fresh)
    parts = [(fresh, state["optimizer"]), (cosine, state["scheduler"]), (exponential, other)]
    for part, loaded in parts if order == "optimizer first" else (parts[1], parts[2], parts[0]):
        part.load_state_dict(loaded)
    assert train(fresh, Both(exponential, cosine), 7) == [close(row, rel=1e-12) for row in expected[5:]]


def test_weight_decay_is_scaled_beside_a_schedule_as_the_rate_is():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0, weight_decay=0.5)
    scheduler = fl.Scheduler(optimizer, {"weight_decay": fs.linear(10), "momentum": fs.linear(10)})
    optimizer.param_groups[0]["weight_decay"] *= 0.1
    scheduler.step()
    assert optimizer.param_groups[0]["weight_decay"] == close(fs.linear(10)(1, 0.5) * 0.1)


PAIRS = {
    "lr": (lambda opt: fs.Warmup(opt, 4), lambda opt: fs.Cosine(opt, 9), "Warmup: lr must .* got Cosine; chain"),
    "weight decay": (
        lambda opt: fl.Scheduler(opt, {"weight_decay": fs.cosine(9)}),
        lambda opt: fl.Scheduler(opt, {"lr": fs.cosine(9), "weight_decay": fs.linear(9)}),
        "Scheduler: weight_decay must .* got Scheduler; chain",
    ),
    "momentum": (
        lambda opt: fs.OneCycle(opt, 9),
        lambda opt: fl.Scheduler(opt, {"momentum": fs.linear(9)}),
        "momentum",
    ),
}


@pytest.mark.parametrize(("first", "second", "message"), PAIRS.values(), ids=PAIRS)
def test_two_of_ours_for_one_value_are_refused_when_both_are_used(first, second, message):
    optimizer = sgd(0.5, momentum=0.9, weight_decay=0.1)
    one, _two = first(optimizer), second(optimizer)
    optimizer.step()
    with pytest.raises(StateError, match=message) as caught:
        one.step()
    assert ".then()" in str(caught.value) and "Scheduler" in str(caught.value)


def test_a_new_scheduler_may_replace_an_old_one():
    optimizer = sgd(1.0)
    scheduler = fs.Warmup(optimizer, 4)
    train(optimizer, scheduler, 2)
    scheduler = fs.Cosine(optimizer, 10)  # the old one existed until now
    assert train(optimizer, scheduler, 3) == [[fs.cosine(10)(k)] for k in range(3)]


def test_a_scheduler_that_was_dropped_does_not_count_as_another():
    optimizer = sgd(1.0)
    scheduler = fs.Cosine(optimizer, 10)
    fs.Cosine(optimizer, 5)
    scheduler.step()
    assert lrs(optimizer) == close([fs.cosine(10)(1)])


@pytest.mark.parametrize("warmup", [BESIDE["LinearLR"], lambda opt: LambdaLR(opt, lambda k: (k + 1) / 4)])
def test_one_of_torch_whose_first_rate_ours_has_replaced_is_refused(warmup):
    optimizer = sgd(1.0)
    first, second = warmup(optimizer), fs.Cosine(optimizer, 10)
    optimizer.step()
    first.step()
    with pytest.raises(StateError, match=r"Cosine: lr must .*constructed before this one.*\.then\(\).*SequentialLR"):
        second.step()


def test_parts_of_a_sequential_lr_are_no_two_schedulers_after_loading_either():
    def build(optimizer):
        parts = [fs.Warmup(optimizer, 3), fs.StepDecay(optimizer, 2, 0.5), fs.Linear(optimizer, 4)]
        return SequentialLR(optimizer, parts, milestones=[3, 7])

    whole = sgd(1.0)
    expected = train(whole, build(whole), 11)
    for k in range(11):
        optimizer = sgd(1.0)
        scheduler = build(optimizer)
        train(optimizer, scheduler, k)
        state = saved(optimizer, scheduler)
        fresh = sgd(1.0)
        scheduler = build(fresh)
        fresh.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        assert train(fresh, scheduler, 11 - k) == expected[k:]
