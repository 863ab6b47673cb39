"""Schedule-free optimizers: the switch between the weights of training and of evaluation, and what guards it."""

import copy

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, StateError
from fallline.lab.design.arms import make_arms
from fallline.lab.design.trial import Trial
from fallline.lab.race import race
from fallline.lab.run.eval_mode import evaluation_weights
from fallline.lab.run.loop import evaluate
from fallline.lab.run.trial import run, start
from fallline.lab.tasks import Digits
from fallline.landscape import lr_range
from support.variants import BACKENDS, normal, parameter, same_bits, same_state, train

CLASSES = {"sgd": (fl.ScheduleFreeSGD, 0.05), "adamw": (fl.ScheduleFreeAdamW, 0.02)}
EVERY = pytest.mark.parametrize(("cls", "lr"), CLASSES.values(), ids=CLASSES)


def params_of(dtype=torch.float64):
    return [parameter(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate([(), (5,), (3, 4)])]


def values(opt):
    return [p.detach().clone() for group in opt.param_groups for p in group["params"]]


def near(one, other, tolerance=1e-13):
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@EVERY
def test_the_weights_of_evaluation_are_the_weighted_mean_of_z(cls, lr, backend):
    """With changing rates and a warm-up; z is read from the state after each step."""
    opt = cls(params_of(), lr=lr, backend=backend, warmup_steps=4, r=0.5)
    total, top, weights = [torch.zeros_like(v) for v in values(opt)], 0.0, 0.0
    for step in range(12):
        opt.param_groups[0]["lr"] = rate = lr * (1 if step < 6 else 0.5)
        train(opt, [step])
        top = max(top, rate * min((step + 1) / 4, 1))
        weight = (step + 1) ** 0.5 * top**2
        weights += weight
        total = [t + weight * opt.state[p]["z"] for t, p in zip(total, opt.param_groups[0]["params"], strict=True)]
    with opt.averaged():
        assert near(values(opt), [t / weights for t in total])


@EVERY
def test_averaged_restores_every_bit_and_training_continues(cls, lr):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.complex64):
        opt, twin = cls(params_of(dtype), lr=lr), cls(params_of(dtype), lr=lr)
        train(opt, range(3)), train(twin, range(3))
        with opt.averaged():
            assert not same_bits(values(opt), values(twin))
            inside = values(opt)
            with opt.averaged(), evaluation_weights(opt):
                assert same_bits(values(opt), inside)
        assert same_bits(values(opt), values(twin))
        assert same_bits(train(opt, range(3, 6)), train(twin, range(3, 6))) and same_state(opt, twin)


@EVERY
def test_an_error_in_the_block_restores_too(cls, lr):
    opt = cls(params_of(), lr=lr)
    before = train(opt, range(3))
    with pytest.raises(ZeroDivisionError), opt.averaged():
        raise ZeroDivisionError
    assert same_bits(values(opt), before)
    opt.state_dict()


@EVERY
def test_eval_is_averaged_and_train_returns_up_to_rounding(cls, lr):
    opt = cls(params_of(), lr=lr)
    opt.eval()  # before the first step, all points are the same
    opt.train()
    y = train(opt, range(4))
    with opt.averaged():
        x = values(opt)
    opt.eval()
    assert same_bits(values(opt), x)
    opt.eval()
    with opt.averaged():
        assert same_bits(values(opt), x)
    opt.train()
    assert near(values(opt), y)
    opt.train()
    assert near(values(opt), y)


@EVERY
def test_master_weights_keep_y_through_eval(cls, lr):
    opt = cls(params_of(torch.bfloat16), lr=lr, master_weights=True)
    y = train(opt, range(4))
    opt.eval()
    assert not same_bits(values(opt), y)
    opt.train()
    assert same_bits(values(opt), y)


@EVERY
def test_a_step_in_eval_mode_names_the_remedy(cls, lr):
    opt = cls(params_of(), lr=lr)
    train(opt, range(2))
    opt.eval()
    before = values(opt)
    with pytest.raises(StateError, match=f"{cls.__name__}: step.. must be called in train mode.*, got eval mode; call"):
        train(opt, [2])
    assert same_bits(values(opt), before)
    with pytest.raises(StateError, match="got eval mode"):
        fl.SAM(opt).step(lambda: sum((p * p).sum() for p in opt.param_groups[0]["params"]).backward())
    assert same_bits(values(opt), before)


CALLS = {
    "step": lambda opt: opt.step(),
    "state_dict": lambda opt: opt.state_dict(),
    "load_state_dict": lambda opt: opt.load_state_dict({}),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("make", [fl.ScheduleFreeAdamW, lambda p: fl.SGD(p, ema_decay=0.9)], ids=["x", "ema"])
def test_inside_of_averaged_nothing_is_trained_or_saved(make, call):
    opt = make(params_of())
    train(opt, range(2))
    with opt.averaged(), pytest.raises(StateError, match=r"must be called outside of averaged.*; end the block first"):
        call(opt)


@EVERY
def test_a_checkpoint_in_either_mode_resumes(cls, lr):
    for mode in ("train", "eval"):
        opt = cls(params_of(), lr=lr)
        train(opt, range(3))
        getattr(opt, mode)()
        other = cls([torch.nn.Parameter(v) for v in values(opt)], lr=9.0)
        other.load_state_dict(copy.deepcopy(opt.state_dict()))
        assert other.param_groups[0]["train_mode"] is (mode == "train")
        opt.train(), other.train()
        assert same_bits(train(opt, range(3, 6)), train(other, range(3, 6)))


@EVERY
def test_a_group_that_is_added_takes_the_mode(cls, lr):
    opt = cls(params_of(), lr=lr)
    train(opt, range(2))
    opt.eval()
    opt.add_param_group({"params": [parameter(2, dtype=torch.float64)]})
    assert [group["train_mode"] for group in opt.param_groups] == [False, False]
    opt.train()
    train(opt, range(2, 4))


def test_averaged_uses_ema_where_it_is_asked_for_and_nothing_without_averages():
    opt = fl.ScheduleFreeSGD(params_of(), lr=0.05, ema_decay=0.5)
    with opt.averaged():
        assert same_bits(values(opt), [p.detach() for p in params_of()])
    train(opt, range(3))
    with opt.averaged():
        assert same_bits(values(opt), [opt.state[p]["ema"] for p in opt.param_groups[0]["params"]])
    plain = fl.AdamW(params_of())
    after = train(plain, range(2))
    with plain.averaged():
        assert same_bits(values(plain), after)


def test_sam_passes_averaged_on():
    for base in (fl.ScheduleFreeSGD(params_of(), lr=0.05), torch.optim.SGD(params_of(), lr=0.05)):
        opt = fl.SAM(base)

        def closure(opt=opt):
            opt.zero_grad()
            loss = sum((p - 1).square().sum() for p in opt.param_groups[0]["params"])
            loss.backward()
            return loss

        for _ in range(3):
            opt.step(closure)
        y = values(opt)
        with opt.averaged():
            assert same_bits(values(opt), y) is isinstance(base, torch.optim.SGD)
        assert same_bits(values(opt), y)
        closure()
        opt.first_step()
        with pytest.raises(StateError, match="evaluation needs a finished step"), opt.averaged():
            pass


def test_betas_of_zero_have_no_average():
    with pytest.raises(ArgumentError, match=r"betas\[0\] must be in \(0, 1\), got 0"):
        fl.ScheduleFreeAdamW(params_of(), betas=(0.0, 0.9))
    with pytest.raises(ArgumentError, match=r"momentum must be in \(0, 1\), got 1"):
        fl.ScheduleFreeSGD(params_of(), momentum=1.0)


@EVERY
def test_a_range_test_trains_y_and_restores_the_mode(cls, lr):
    model = torch.nn.Linear(3, 1)
    opt = cls(model.parameters(), lr=lr)
    for _ in range(3):
        model(normal(8, 3, seed=1)).square().mean().backward()
        opt.step(), opt.zero_grad()
    opt.eval()
    before, state = values(opt), copy.deepcopy(opt.state_dict())
    found = lr_range(model, opt, lambda m, x: m(x).square().mean(), normal(8, 3, seed=1), steps=30, high=100.0)
    assert found.diverged
    assert same_bits(values(opt), before) and opt.param_groups[0]["train_mode"] is False
    assert str(opt.state_dict()) == str(state)


def test_a_race_evaluates_the_average():
    runs = race("ravine", ["schedulefree-sgd", "sgd"], steps=30, lr=1e-3).runs
    assert not (runs[0].points == runs[1].points).all()
    assert [arm.optimizer for arm in make_arms(["schedulefree-adamw"], ["cosine"])] == ["schedulefreeadamw"]


def test_in_a_study_the_rate_is_constant_unless_schedules_are_compared():
    arms = make_arms(["schedulefree-adamw", "sam(schedulefree-sgd)", "adamw"], ["cosine"])
    assert [arm.schedule for arm in arms] == ["constant", "constant", "cosine"]
    assert [arm.schedule for arm in make_arms(["schedulefree-adamw"], ["cosine", "linear"])] == ["cosine", "linear"]


@EVERY
def test_a_trial_is_the_loop_that_evaluates_the_average(cls, lr):
    one = Trial("confirm", "digits", "arm", cls.rule.name, "constant", 30, 0, 7, {"lr": lr}, warmup=0.0)
    outcome, _ = run(one)
    training, task = start(one), Digits()
    model, opt = training.model, cls(training.model.parameters(), lr=lr)
    for _ in range(30):
        opt.zero_grad()
        task.loss(model, next(training.batches)).backward()
        opt.step()
    with opt.averaged():
        expected = evaluate(task, model, "test")
    assert outcome.metrics["test_loss"] == expected["test_loss"] != evaluate(task, model, "test")["test_loss"]
