"""What no schedule can be made of is refused, by name, and changes nothing."""

import math

import pytest
import torch

from fallline import schedules as fs
from fallline.errors import ArgumentError, ArgumentTypeError, FalllineError
from support.schedulers import parameter, sgd

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
    (lambda: fs.step_decay(2, -0.1), r"step_decay: gamma must be .*, got gamma=-0\.1; "),
    (lambda: fs.step_decay(2, math.nan), "step_decay: gamma must be .*, got gamma=nan; "),
    (lambda: fs.step_decay(milestones=[]), r"step_decay: milestones must be .*, got milestones=\[\]; "),
    (lambda: fs.step_decay(milestones=[3, 3]), r"step_decay: milestones must be .*, got milestones=\[3, 3\]; "),
    (lambda: fs.step_decay(milestones=[0, 3]), r"step_decay: milestones\[0\] must be .*, got milestones\[0\]=0; "),
    (lambda: fs.Constant(sgd(), last_epoch=-2), "Constant: last_epoch must be .*, got last_epoch=-2; "),
    (lambda: fs.Constant(sgd(), last_epoch=4), "Constant: every group must hold initial_lr .*, got last_epoch=4; "),
    (lambda: fs.Constant(sgd()).step(-1), "Constant: epoch must be .*, got epoch=-1; "),
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
    (lambda: fs.OneCycle(torch.optim.Rprop([parameter()]), 9), "OneCycle: schedule must be for .*, got 'momentum'; "),
    (lambda: fs.Scheduler(sgd(), {"eps": fs.cosine(9)}), "Scheduler: schedule must be for .*, got 'eps'; "),
    (lambda: fs.Scheduler(sgd(), {}), "Scheduler: schedule must not be empty, "),
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
        "cosine: keyword arguments must be one of total_steps, min_lr, min_lr_ratio, got eta_min=0; ",
    ),
    (
        lambda: fs.Cosine(sgd(), T_max=9),
        "Cosine: keyword arguments must be one of optimizer, .*, got T_max=9; ",
    ),
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


@pytest.mark.parametrize(
    "text", ["3", "cosine", "cosine(10, 1 + x)", "cosine(__import__('os'))", "open('x')", "cosine(("]
)
def test_text_that_is_no_schedule_is_refused(text):
    with pytest.raises(ArgumentError, match=r"^schedule: must be "):
        fs.parse(text, {"cosine": fs.cosine})
