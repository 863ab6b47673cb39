"""One schedule after another, floors of each group, and warm-up as a part of the whole."""

import pytest

import fallline as fl
from fallline import schedules as fs
from fallline.errors import ArgumentError, ArgumentTypeError
from support.schedulers import close, lrs, parameter, sgd, train


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
