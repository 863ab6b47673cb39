"""Run-time checks: each mistake is found when a training makes it, and not when it does not."""

import contextlib
import math
import random

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentTypeError
from fallline.linting.running import RUN_CHECKS
from fallline.loss_curves import spikes
from support.wrapped import Lightning, Prepared


def run(optimizer_of, steps=40, *, zero=True, micro=1, set_to_none=True, clip=None, scaler=None, unscale=True):
    """Train a regression by a loop with or without its mistakes; return what the watch finds."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = optimizer_of(model.parameters())
    with fl.watch(optimizer, scaler) as watch:
        for _ in range(steps):
            if zero:
                optimizer.zero_grad(set_to_none=set_to_none)
            for _ in range(micro):
                x = torch.randn(16, 4)
                loss = (model(x) - x[:, :3]).square().mean() / micro
                (scaler.scale(loss) if scaler else loss).backward()
            if scaler and unscale:
                scaler.unscale_(optimizer)
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            watch.loss(loss)
    return [finding.id for finding in watch.findings()]


MAKERS = {
    "torch": lambda params: torch.optim.SGD(params, lr=0.01),
    "ours": lambda params: fl.AdamW(params, lr=1e-3),
}
EVERY_MAKER = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


RIGHT = [{}, {"micro": 3}, {"set_to_none": False}, {"clip": 0.1}, {"micro": 2, "clip": 0.1}]


@EVERY_MAKER
@pytest.mark.parametrize("options", RIGHT)
def test_a_right_loop_gets_no_finding(make, options):
    assert run(make, **options) == []


@EVERY_MAKER
@pytest.mark.parametrize("micro", [1, 3])
def test_gradients_left_over_are_found(make, micro):
    assert "gradients-not-zeroed" in run(make, zero=False, micro=micro)


def scaler():
    return torch.amp.GradScaler("cpu", init_scale=2.0**16)


@EVERY_MAKER
def test_under_a_scaler_right_loops_get_no_finding(make):
    assert run(make, scaler=scaler()) == []
    assert run(make, scaler=scaler(), clip=0.1) == []
    assert run(make, scaler=scaler(), unscale=False) == []


@EVERY_MAKER
@pytest.mark.parametrize("clip", [1.0, 0.1])
def test_clipping_before_unscale_is_found(make, clip):
    assert run(make, scaler=scaler(), clip=clip, unscale=False) == ["clipped-before-unscale"]


def test_clipping_on_most_steps_is_found():
    assert run(lambda params: fl.SGD(params, lr=1e-3, clip_grad_norm=1e-3)) == ["clipped-often"]
    assert run(lambda params: fl.SGD(params, lr=1e-3, clip_grad_norm=1e3)) == []


def test_sam_is_no_mistake():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(5))
    optimizer = fl.SAM(fl.SGD([weight], lr=0.01))
    with fl.watch(optimizer) as watch:
        for _ in range(10):

            def closure():
                optimizer.zero_grad()
                loss = (weight * torch.randn(5)).sum()
                loss.backward()
                return loss

            optimizer.step(closure)
    assert watch.record.steps == 10 and watch.findings() == []


CLOSURES = {
    "torch": lambda params: torch.optim.SGD(params, lr=0.01),
    "ours": lambda params: fl.AdamW(params, lr=1e-3),
    "torch's LBFGS": lambda params: torch.optim.LBFGS(params, lr=1e-3, max_iter=3),
    "accelerate's": lambda params: Prepared(torch.optim.SGD(params, lr=0.01)),
    "Lightning's": lambda params: Lightning(torch.optim.SGD(params, lr=0.01)),
    "SAM": lambda params: fl.SAM(fl.SGD(params, lr=0.01)),
}


@pytest.mark.parametrize("make", CLOSURES.values(), ids=CLOSURES)
@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("by_name", [True, False], ids=["closure=", "positional"])
def test_gradients_of_closures_are_seen(make, zero, by_name):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = make(model.parameters())
    inner = getattr(optimizer, "_optimizer", optimizer)
    with fl.watch(optimizer) as watch:
        for _ in range(10):
            x = torch.randn(16, 4)

            def closure(x=x):
                if zero:
                    inner.zero_grad()
                loss = (model(x) - x[:, :3]).square().mean()
                loss.backward()
                return loss

            inner.step(closure=closure) if by_name else inner.step(closure)
    assert watch.record.checked == 10
    assert [finding.id for finding in watch.findings()] == ([] if zero else ["gradients-not-zeroed"])


def test_the_scaler_of_a_prepared_optimizer_is_known():
    found = run(lambda params: torch.optim.SGD(params, lr=0.01), scaler=scaler(), clip=0.1, unscale=False)
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = Prepared(torch.optim.SGD(model.parameters(), lr=0.01), scaler=scaler())
    with fl.watch(optimizer) as watch:
        for _ in range(10):
            optimizer.zero_grad()
            optimizer.scaler.scale(model(torch.randn(16, 4)).square().mean()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    assert [finding.id for finding in watch.findings()] == found == ["clipped-before-unscale"]


def test_spikes_are_counted_and_noise_is_not():
    rng = random.Random(0)
    noisy = [3 * math.exp(-k / 200) + 1 + 0.05 * rng.gauss(0, 1) for k in range(1000)]
    assert spikes(noisy) == []
    noisy[30], noisy[700] = 8.0, math.nan
    assert spikes(noisy) == [30, 700]


@pytest.mark.parametrize(("first", "fix"), [(30, "warm up for longer"), (800, "use a lower learning rate")])
def test_a_spike_in_the_first_hundreds_of_steps_asks_for_warm_up(first, fix):
    weight = torch.nn.Parameter(torch.ones(1))
    watch = fl.watch(torch.optim.SGD([weight]))
    for k in range(1000):
        watch.loss(torch.tensor(9.0) if k == first else 2.0)
    (finding,) = watch.findings()
    assert finding.id == "loss-spikes" and finding.fix.startswith(fix)
    assert f"spikes 1 time, first at step {first}, where it is 9" in finding.message


def test_watching_changes_no_bit_and_leaves_no_hook():
    def trained(watched):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(5))
        optimizer = fl.AdamW([weight])
        with fl.watch(optimizer) if watched else contextlib.nullcontext():
            for _ in range(5):
                optimizer.zero_grad()
                (weight * torch.randn(5)).sum().backward()
                optimizer.step()
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
        assert not weight._backward_hooks
        return weight

    assert torch.equal(trained(True), trained(False))


def test_every_run_check_says_when_it_is_wrong():
    assert set(RUN_CHECKS) == {"loss-spikes", "clipped-often", "gradients-not-zeroed", "clipped-before-unscale"}
    assert all(check.source and check.false_positives and check.function.__doc__ for check in RUN_CHECKS.values())


def test_what_is_no_optimizer_is_named():
    with pytest.raises(ArgumentTypeError, match=r"watch: optimizer must be a torch\.optim\.Optimizer"):
        fl.watch(torch.nn.Linear(2, 2))
