"""The range test finds what is known, counts updates, keeps group ratios, and leaves no trace, failed or not."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape import lr_range
from support.landscapes import Point, batches, net, squares, train

CURVATURES = torch.tensor([4.0, 1.0, 0.2], dtype=torch.float64)
START = torch.tensor([0.7, -1.0, 2.0], dtype=torch.float64)


def bowl(model, batch):
    return (CURVATURES * model.w**2).sum() / 2


def descent(rates):
    """By hand: gradient descent multiplies every coordinate by 1 − lr·h, update by update."""
    factors = np.cumprod(1 - np.outer(rates, CURVATURES.numpy()), axis=0)
    with np.errstate(over="ignore"):
        return (CURVATURES.numpy() * (START.numpy() * factors) ** 2).sum(1) / 2


def test_the_curve_is_that_of_gradient_descent_by_hand():
    """Each rate has the loss after its own update; the loss before it would be off by one."""
    found = lr_range(model := Point(*START.tolist()), torch.optim.SGD(model.parameters()), bowl, torch.ones(1))
    assert found.losses == pytest.approx(descent(found.lrs), rel=1e-10)
    assert found.start == pytest.approx(float((CURVATURES * START**2).sum() / 2), rel=1e-15)
    assert found.diverged and found.lrs[-1] < 10
    assert found.losses[-4] <= 4 * found.start < found.losses[-3]  # the median of five, threefold above the start


def test_the_suggestion_is_where_the_exact_curve_is_steepest():
    found = lr_range(model := Point(*START.tolist()), torch.optim.SGD(model.parameters()), bowl, torch.ones(1))
    rates = np.geomspace(1e-7, 10, 100)
    exact = descent(rates)
    lowest = exact.argmin()
    steepest = rates[: lowest + 1][np.gradient(exact, np.log(rates))[: lowest + 1].argmin()]
    assert found.suggestion == pytest.approx(steepest, rel=0.21)  # to a step of the grid, a factor of 1.2
    assert found.high == pytest.approx(rates[lowest], rel=0.45)  # to two: the rise beyond is steep
    assert found.low < found.suggestion < found.high


def test_the_range_ends_below_the_limit_of_stability_whatever_the_curvature():
    """Scaling the curvature scales the rates, and nothing else."""
    ratios = []
    for h in (0.01, 1.0, 100.0):
        noise = torch.randn(101, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        model = Point(10.0)

        def loss_fn(model, batch, h=h):
            return h * (model.w - batch).square().sum() / 2

        optimizer = torch.optim.SGD(model.parameters())
        found = lr_range(model, optimizer, loss_fn, list(noise), low=1e-6 / h, high=10 / h)
        limit = 2 / h
        assert 0.05 * limit < found.high < limit
        ratios.append(found.suggestion / limit)
    assert ratios == pytest.approx([ratios[0]] * 3, rel=1e-6)


def test_groups_keep_the_ratios_of_their_rates():
    model, seen = net(), []
    groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[4].parameters(), "lr": 0.03}]
    optimizer = fl.AdamW(groups)
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append([g["lr"] for g in opt.param_groups]))
    found = lr_range(model, optimizer, squares, batches(8), low=1e-4, high=1e-2, steps=10)
    assert found.ratios == pytest.approx((1.0, 0.1))
    assert [pair[0] for pair in seen[:-1]] == pytest.approx(found.lrs.tolist())
    assert [a / b for a, b in seen] == pytest.approx([10.0] * 11)
    assert [g["lr"] for g in optimizer.param_groups] == [0.3, 0.03]


def test_a_tensor_rate_stays_the_tensor_that_it_was():
    model = net()
    rate = torch.tensor(0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    lr_range(model, optimizer, squares, batches(8), steps=10)
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == torch.tensor(0.3).item()


def test_decay_that_does_not_hang_on_the_rate_stays_as_it_is():
    """The rate before any schedule moves along, as it would in an optimizer built with that rate."""
    found = []
    for built in (1e-1, 1e-5):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = fl.SGD(model.parameters(), lr=built, weight_decay=0.01, weight_decay_mode="independent")
        found.append(lr_range(model, optimizer, squares, batches(8), low=1e-6, high=1e-3, steps=20).losses)
    assert np.array_equal(*found)
    assert optimizer.param_groups[0]["base_lr"] == 1e-5


def test_accumulated_batches_are_one_batch():
    """Weighted by their items; the rate rises by updates."""
    data = batches(6, 2)
    whole = [tuple(map(torch.cat, zip(*data, strict=True)))]

    def run(data, accumulate):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        data = [(x.double(), y.double()) for x, y in data]
        optimizer = fl.SGD(model.parameters(), lr=0.1)
        return lr_range(model, optimizer, squares, data, high=1, steps=20, accumulate=accumulate)

    one, two = run(whole, 1), run(data, 2)
    assert two.losses == pytest.approx(one.losses, rel=1e-12)
    assert (one.batches, two.batches) == (21, 42) and len(two.lrs) == 20


def test_the_users_own_loop_is_counted_by_its_updates():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    seen, calls = [], itertools.count(1)
    optimizer.register_step_pre_hook(lambda opt, *_: seen.append(opt.param_groups[0]["lr"]))

    def step(batch):
        loss = squares(model, batch)
        (loss / 3).backward()
        if next(calls) % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        return loss

    before = copy.deepcopy(schedule.state_dict())
    found = lr_range(model, optimizer, None, batches(4, 4), steps=10, high=0.1, step=step, keep=[schedule])
    assert found.batches == 33 and seen[:-1] == pytest.approx(found.lrs.tolist())
    assert schedule.state_dict() == before and optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("make", [fl.SGD, torch.optim.SGD, torch.optim.AdamW], ids=["fl", "torch", "torch-adamw"])
def test_a_step_that_the_scaler_skips_does_not_raise_the_rate(make):
    model = net()
    optimizer = make(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=1000)
    kept, seen = copy.deepcopy(scaler.state_dict()), []
    optimizer.register_step_post_hook(
        lambda opt, *_: seen.append((opt.param_groups[0]["lr"], bool(getattr(opt, "found_inf", 0))))
    )
    found = lr_range(model, optimizer, squares, batches(8), steps=10, high=1e-2, scaler=scaler)
    assert [rate for rate, skipped in seen if not skipped][:10] == pytest.approx(found.lrs.tolist())
    assert found.batches > 11 and len(found.lrs) == 10  # some were skipped
    assert scaler.state_dict() == kept


def test_a_scaler_changes_nothing_but_the_scale():
    def run(scaler):
        model = net()
        return lr_range(model, fl.AdamW(model.parameters()), squares, batches(8), steps=15, scaler=scaler).losses

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert run(scaler) == pytest.approx(run(None), rel=1e-5)  # float32, scaled by a power of two


def test_an_iterator_that_ends_gives_what_there_was():
    model = net()
    optimizer = fl.SGD(model.parameters(), lr=0.1)
    assert len(lr_range(model, optimizer, squares, iter(batches(*[4] * 7)), high=1.0).lrs) == 6
    with pytest.raises(ArgumentError, match="data must last for two updates, got an end after 1 batches"):
        lr_range(model, optimizer, squares, iter(batches(4)))


def test_progress_says_first_what_it_costs_and_counts_updates():
    model, seen = net(), []
    optimizer = fl.SGD(model.parameters(), momentum=0.9)
    train(model, optimizer, batches(4))
    lr_range(model, optimizer, squares, batches(4), high=0.1, steps=10, progress=seen.append)
    assert [(step.done, step.total) for step in seen] == [(k, 10) for k in range(11)]
    assert seen[0].seconds is None and seen[1].seconds > 0 and seen[-1].seconds == 0
    params = sum(p.numel() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert seen[0].bytes == 3 * 4 * params + buffers  # with gradients and momentum
    assert str(seen[0]).startswith("0 of at most 10 updates, ") and ", about " in str(seen[1])


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"low": 0}, ArgumentError, "low must be a finite number > 0, got low=0"),
        ({"high": float("inf")}, ArgumentError, "high must be a finite number > 0, got high=inf"),
        ({"low": 1.0, "high": 0.1}, ArgumentError, "low must be < high"),
        ({"steps": 3}, ArgumentError, "steps must be an int >= 10, got steps=3"),
        ({"accumulate": 0}, ArgumentError, "accumulate must be an int >= 1"),
        ({"step": lambda b: 1.0}, ArgumentTypeError, "one of loss_fn and step must be given, got both"),
        ({"loss_fn": None}, ArgumentTypeError, "one of loss_fn and step must be given, got both or none"),
        (
            {"loss_fn": None, "step": lambda b: None},
            ArgumentTypeError,
            "step must return the loss of its batch, got None",
        ),
        ({"loss_fn": None, "step": lambda b: 1.0}, ArgumentError, "step must call optimizer.step"),
        ({"loss_fn": lambda m, b: m(b[0])}, LossError, "the loss must be one real number"),
        ({"loss_fn": lambda m, b: squares(m, b).detach()}, LossError, "lr_range: loss must depend on the parameters"),
        (
            {"loss_fn": lambda m, b: squares(m, b) * torch.nan},
            LossError,
            "loss must be finite, got nan for batch 0; every parameter is finite, so check that batch",
        ),
        ({"loss_fn": "mse"}, ArgumentTypeError, "loss_fn must be a function of model and batch, got 'mse'"),
        ({"data": batches(4, 0)}, ArgumentError, "every batch must have a row, got an empty one"),
        ({"model": 1}, ArgumentTypeError, "model must be a torch.nn.Module"),
        ({"optimizer": 1}, ArgumentTypeError, "optimizer must be a torch.optim.Optimizer"),
        ({"data": []}, LossError, "data must have a batch"),
        (
            {"optimizer": fl.SGD(net().parameters())},
            ArgumentError,
            "optimizer must train the model, got one without any",
        ),
        ({"weight": 3}, ArgumentTypeError, "weight must be a function of a batch, got 3"),
        ({"keep": [3]}, ArgumentTypeError, "keep must be a list of objects with a state dict, got a int in it"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_sentence(arguments, error, sentence):
    model = net()
    with pytest.raises(error, match=sentence):
        lr_range(
            **{
                "model": model,
                "optimizer": fl.SGD(model.parameters()),
                "loss_fn": squares,
                "data": batches(4),
                **arguments,
            }
        )


def rootless(model, batch):
    """Its gradient is 0/0 at the start, and its value is not."""
    return squares(model, batch) + (model(batch[0]) * 0).square().sum().sqrt()


@pytest.mark.parametrize("by_step", [False, True])
@pytest.mark.parametrize(("good", "accumulate"), [(1, 1), (40, 1), (5, 4)])
def test_a_batch_that_is_nan_at_any_rate_is_named_and_no_divergence(good, accumulate, by_step):
    data = batches(*[4] * (good + 3))
    data[good][0][1, 2] = torch.nan
    model = net()
    before = copy.deepcopy(model.state_dict())
    optimizer = fl.SGD(model.parameters(), lr=0.1)

    def step(batch):
        optimizer.zero_grad()
        loss = squares(model, batch)
        loss.backward()
        optimizer.step()
        return loss

    how = {"loss_fn": None, "step": step} if by_step else {"loss_fn": squares, "accumulate": accumulate}
    with pytest.raises(LossError, match=rf"^lr_range: loss must be finite.*, got nan for batch {good}[;,]"):
        lr_range(model, optimizer, data=data, **how)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and optimizer.param_groups[0]["lr"] == 0.1


def test_a_gradient_that_is_nan_before_any_update_is_told_and_no_divergence():
    model = net()
    with pytest.raises(LossError, match=r"the gradient must be finite before any update, got NaN or Inf for batch 0"):
        lr_range(model, fl.SGD(model.parameters(), lr=0.1), rootless, batches(4, 4))


def test_the_loss_of_an_update_weighs_the_batches_of_the_users_own_loop_by_their_rows():
    model, data = net().eval(), batches(6, 2)
    optimizer, calls = fl.SGD(model.parameters()), itertools.count(1)

    def step(batch):
        loss = squares(model.eval(), batch)
        loss.backward()
        if next(calls) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    expected = sum(len(batch[0]) * squares(model, batch).item() for batch in data) / 8
    assert lr_range(model, optimizer, None, data, steps=10, step=step).start == pytest.approx(expected, rel=1e-6)


def test_the_picture_has_the_range_and_the_suggestion():
    found = lr_range(model := Point(*START.tolist()), torch.optim.SGD(model.parameters()), bowl, torch.ones(1))
    spec = found.plot().to_dict()
    assert f"{found.suggestion:.2g}" in spec["title"]["text"] and spec["title"]["subtitle"] == found.verdict
    assert "NaN" not in found.plot().to_json()
