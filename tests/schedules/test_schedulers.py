"""Schedulers keep an optimizer on its schedule: every group, float or tensor learning rates, groups added late."""

import dataclasses
import gc
import inspect
import pickle
import re
from pathlib import Path

import pytest
import torch

import names
from fallline import schedules as fs
from fallline.errors import ArgumentTypeError
from support.schedulers import BUILDERS, EVERY_SCHEDULE, close, lrs, parameter, sgd, train


def test_every_scheduler_is_held_to_what_follows():
    classes = {name for name in fs.__all__ if name[0].isupper() and issubclass(getattr(fs, name), fs.Scheduler)}
    assert classes - BUILDERS.keys() == {"Scheduler"}  # which Then stands for


def test_every_pure_schedule_has_a_scheduler_of_its_name():
    pure = {name for name in fs.__all__ if name[0].islower()} - {"parse", "one_cycle_momentum"}
    spelled = {name.replace("_", "").lower() for name in fs.__all__ if name[0].isupper()}
    assert {name.replace("_", "") for name in pure} == spelled - {"schedule", "scheduler", "then"}


DERIVED = [name for name in fs.__all__ if hasattr(getattr(fs, name).__init__, "__signature__")]


@pytest.mark.parametrize("name", DERIVED)
def test_a_schedulers_arguments_are_those_of_its_schedule(name):
    scheduler = getattr(fs, name)
    (pure,) = [one for one in fs.__all__ if one.replace("_", "") == name.lower()]
    kinds = [getattr(fs, one) for one in (pure, f"{pure}_momentum") if one in fs.__all__]
    fields = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    signature = inspect.signature(scheduler)
    first, *middle, last = signature.parameters
    assert (first, last) == ("optimizer", "last_epoch")
    assert [name for name in middle if name != "cycle_momentum"] == list(fields)
    for name, default in fields.items():
        its = signature.parameters[name].default
        assert its == (inspect.Parameter.empty if default is dataclasses.MISSING else default)
    documented = re.findall(r"^    (\w+): ", scheduler.__doc__.split("Args:")[1].split("Raises:")[0], re.MULTILINE)
    assert documented == list(signature.parameters)


def test_a_call_that_does_not_fit_is_refused_by_the_name_of_the_class():
    with pytest.raises(
        ArgumentTypeError, match=r"^Cosine: arguments must be \(optimizer, total_steps, .*'total_steps'"
    ):
        fs.Cosine(sgd())


def test_a_scheduler_can_be_subclassed_and_pickled():
    class Short(fs.Cosine):
        def __init__(self, optimizer):
            super().__init__(optimizer, total_steps=2)

    assert Short(sgd(1.0)).schedules == {"lr": [fs.cosine(2)]}
    copied = pickle.loads(pickle.dumps(fs.Cosine(sgd(1.0), 2)))
    assert type(copied) is fs.Cosine and copied.schedules == {"lr": [fs.cosine(2)]}


def test_the_stub_for_type_checkers_is_not_stale():
    assert Path(fs.__file__).with_suffix(".pyi").read_text(encoding="utf-8") == names.schedules()


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


def test_groups_that_share_a_tensor_lr_have_schedules_of_their_own():
    rate = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.SGD([{"params": [parameter()]} for _ in range(3)], lr=rate)
    scheduler = fs.Linear(optimizer, 4, min_lr=[0.5, 0.1, 0.1])
    assert train(optimizer, scheduler, 4)[1:] == [
        [0.5, 0.3, 0.3],
        [0.5, close(0.2, rel=1e-15), close(0.2, rel=1e-15)],
        [0.5, 0.1, 0.1],
    ]
    assert optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize("initial", [[0.1, 0.5], [0.5, 0.1], [0.5, 0.5]], ids=["second", "first", "both"])
def test_the_base_of_a_group_is_its_own_though_the_tensor_is_shared(initial):
    rate = torch.tensor(0.1, dtype=torch.float64)
    groups = [{"params": [parameter()]} for _ in initial]
    for group, base in zip(groups, initial, strict=True):
        if base != 0.1:
            group["initial_lr"] = base
    if initial == [0.5, 0.1]:  # otherwise it counts as added later, and its own base is not known
        groups[1]["initial_lr"] = 0.1
    optimizer = torch.optim.SGD(groups, lr=rate)
    scheduler = fs.Cosine(optimizer, 10)
    assert scheduler.base_lrs == initial
    assert train(optimizer, scheduler, 3) == [[close(fs.cosine(10)(k, base)) for base in initial] for k in range(3)]


def test_a_scheduler_leaves_no_hook_behind():
    optimizer = sgd(1.0)
    scheduler = fs.Cosine(optimizer, 10)
    assert len(optimizer._optimizer_step_post_hooks) == 1
    del scheduler
    gc.collect()
    assert not optimizer._optimizer_step_post_hooks
