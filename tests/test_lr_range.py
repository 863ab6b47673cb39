"""The range test finds what is known, counts updates, keeps group ratios, and leaves no trace, failed or not."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError, LossError
from fallline.landscape import lr_range
from fallline.landscape.slope import local_lines, read

CURVATURES = torch.tensor([4.0, 1.0, 0.2], dtype=torch.float64)
START = torch.tensor([0.7, -1.0, 2.0], dtype=torch.float64)


class Point(nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def bowl(model, batch):
    return (CURVATURES * model.w**2).sum() / 2


def descent(rates):
    """By hand: gradient descent multiplies every coordinate by 1 − lr·h, update by update."""
    factors = np.cumprod(1 - np.outer(rates, CURVATURES.numpy()), axis=0)
    with np.errstate(over="ignore"):
        return (CURVATURES.numpy() * (START.numpy() * factors) ** 2).sum(1) / 2


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def batches(*sizes):
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, generator=g), torch.randn(n, 2, generator=g)) for n in sizes]


def test_the_curve_is_that_of_gradient_descent_by_hand():
    """Each rate has the loss after its own update; the loss before it would be off by one."""
    found = lr_range(model := Point(*START.tolist()), torch.optim.SGD(model.parameters()), bowl, torch.ones(1))
    assert found.losses == pytest.approx(descent(found.lrs), rel=1e-10)
    assert found.start == pytest.approx(float((CURVATURES * START**2).sum() / 2), rel=1e-15)
    assert found.diverged and found.lrs[-1] < 10


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


def noisy(seed, sigma=0.02):
    """A loss of which the truth is known: a step in log lr down at 1e-3, up at 1e-1."""
    rates = np.geomspace(1e-7, 10, 100)
    x = np.log10(rates)
    truth = 2.3 - 1.2 / (1 + np.exp(-6 * (x + 3))) + np.exp(6 * (x + 0.7))
    return rates, truth, truth + sigma * np.random.default_rng(seed).standard_normal(100)


def test_the_slope_is_against_log_lr():
    """Against lr itself, the noise of the lowest rates would win: its denominators are the smallest."""
    for seed in range(20):
        rates, _, losses = noisy(seed)
        naive = rates[np.gradient(losses, rates).argmin()]
        found = read(rates, losses, 2.3, True)
        assert naive < 1e-6
        assert 10**-3.4 < found.suggestion < 10**-2.6
        assert 10**-4 < found.low < 10**-3 < 10**-2.5 < found.high < 10**-1
        assert found.noise == pytest.approx(0.02, rel=0.6)


def test_a_loss_that_rises_and_falls_again_has_stopped_falling_where_it_rose():
    rates, truth, _ = noisy(0)
    lucky = np.where((rates > 0.02) & (rates < 0.2), 0.5, truth) + 0.8 * np.exp(-((np.log10(rates) + 2) ** 2) / 0.02)
    assert read(rates, lucky, 2.3, True).high < 0.01


def test_local_lines_are_numpys_weighted_fits():
    x, y = np.linspace(-7, 1, 40), np.random.default_rng(0).standard_normal(40)
    value, slope = local_lines(x, y)
    for k in range(40):
        distance = np.abs(x - x[k])
        reach = max(0.4, 1.001 * np.sort(distance)[6])
        weights = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
        expected = np.polyfit(x - x[k], y, 1, w=np.sqrt(weights))
        assert (slope[k], value[k]) == pytest.approx(tuple(expected), abs=1e-10)


@pytest.mark.parametrize(
    ("losses", "diverged", "sentence"),
    [
        (np.full(50, 1.0), False, "does not fall by more than its noise"),
        (1 + 0.1 * np.random.default_rng(0).standard_normal(50), False, "does not fall by more than its noise"),
        (np.linspace(1, 3, 50), True, "does not fall by more than its noise"),
        (np.linspace(1, 0.1, 50), False, "still at the highest, 10: pass a higher high"),
        (np.array([1e9, np.inf]), True, "within 2 updates: every rate was too high; pass a lower low"),
        (np.array([np.nan]), True, "within 1 update: every rate"),
        (np.full(50, -5.0) - np.linspace(0, 1, 50), False, "pass a higher high"),
    ],
)
def test_there_is_always_an_answer(losses, diverged, sentence):
    rates = np.geomspace(1e-5, 10, len(losses)) if len(losses) > 1 else np.array([1e-5])
    start = -5.0 if losses[0] < 0 else 1.0
    found = read(rates, losses, start, diverged)
    assert sentence in found.verdict
    assert 0 < found.low <= found.suggestion <= found.high
    assert np.isfinite(found.smooth).all() and np.isfinite(found.slope).all()


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


def test_accumulation_autocast_and_a_scaler_in_the_users_own_loop():
    """Two batches to an update, forward passes in bfloat16, a schedule; all of it as before afterwards."""
    model = net()
    optimizer = fl.AdamW(model.parameters(), lr=0.01)
    schedule = fl.WarmupCosine(optimizer, 2, 100)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=3)  # the first steps are skipped
    seen, calls = [], itertools.count(1)
    optimizer.register_step_post_hook(
        lambda opt, *_: seen.append((opt.param_groups[0]["lr"], bool(getattr(opt, "found_inf", 0))))
    )

    def step(batch):
        with torch.autocast("cpu", torch.bfloat16):
            loss = squares(model, batch)
        scaler.scale(loss / 2).backward()
        if next(calls) % 2 == 0:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            schedule.step()
        return loss

    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*batches(16)[0]), 4, generator=torch.Generator().manual_seed(0)
    )
    before = everything(model, optimizer, scaler, loader)
    kept = copy.deepcopy(schedule.state_dict())
    found = lr_range(model, optimizer, None, loader, steps=10, high=1e-2, step=step, scaler=scaler, keep=[schedule])
    assert [rate for rate, skipped in seen if not skipped][:10] == pytest.approx(found.lrs.tolist())
    assert sum(skipped for _, skipped in seen) > 0 and found.batches == 2 * len(seen)
    assert found.low <= found.suggestion <= found.high
    assert equal(before, everything(model, optimizer, scaler, loader)) and schedule.state_dict() == kept


def test_a_scaler_changes_nothing_but_the_scale():
    def run(scaler):
        model = net()
        return lr_range(model, fl.AdamW(model.parameters()), squares, batches(8), steps=15, scaler=scaler).losses

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert run(scaler) == pytest.approx(run(None), rel=1e-5)  # float32, scaled by a power of two


MAKERS = {
    "fused": lambda p: fl.AdamW(p, lr=0.01, clip_grad_norm=1.0, ema_decay=0.9),
    "reference": lambda p: fl.RMSprop(p, lr=0.01, momentum=0.9, backend="reference"),
    "torch": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "foreach": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, foreach=True),
    "sam": lambda p: fl.SAM(fl.SGD(p, lr=0.01, momentum=0.9)),
    "sam-torch": lambda p: fl.SAM(torch.optim.AdamW(p, lr=0.01)),
}


def everything(model, optimizer, scaler, loader):
    return copy.deepcopy(
        [
            model.state_dict(),
            [p.grad for p in model.parameters()],
            [m.training for m in model.modules()],
            optimizer.state_dict(),
            {k: v for k, v in vars(optimizer).items() if isinstance(v, float | None) and k != "_plan"},
            scaler.state_dict(),
            (torch.get_rng_state(), loader.generator.get_state()),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        ]
    )


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


def train(model, optimizer, data):
    losses = []
    for batch in data:

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = squares(model, batch)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses


@pytest.mark.parametrize("warm", [False, True], ids=["fresh", "in mid-training"])
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_everything_is_as_before_to_the_bit(make, error, warm):
    rows = torch.utils.data.TensorDataset(*batches(40)[0])
    loader = torch.utils.data.DataLoader(rows, 8, shuffle=True, generator=torch.Generator().manual_seed(3))
    calls = itertools.count()

    def run(test):
        model = net()
        optimizer = make(model.parameters())
        if warm:
            train(model, optimizer, batches(4, 4, 4))
        torch.manual_seed(5)
        if test:
            scaler = torch.amp.GradScaler("cpu")
            before = everything(model, optimizer, scaler, loader)
            kept = [(p, p.grad) for p in model.parameters()]

            def loss_fn(model, batch):
                np.random.rand(), random.random()
                if next(calls) == 17 and error:
                    raise error
                return squares(model, batch)

            try:
                lr_range(model, optimizer, loss_fn, loader, steps=25)
            except (RuntimeError, KeyboardInterrupt) as raised:
                assert type(raised) is error
            else:
                assert error is None
            assert equal(before, everything(model, optimizer, scaler, loader))
            assert all(p is q and p.grad is g for (p, g), q in zip(kept, model.parameters(), strict=True))
            hooks = [*optimizer._optimizer_step_post_hooks.values()]
            assert hooks == []
        return train(model, optimizer, batches(4, 4, 4)), model.state_dict()

    assert equal(run(test=True), run(test=False))  # and it goes on as if nothing had been


def test_a_restored_scaler_may_have_been_interrupted_in_mid_step():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def step(batch):
        scaler.scale(squares(model, batch)).backward()
        scaler.unscale_(optimizer)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lr_range(model, optimizer, None, batches(4), step=step, scaler=scaler)
    scaler.scale(squares(model, batches(4)[0])).backward()
    scaler.unscale_(optimizer)  # a second time would raise
    assert scaler.get_scale() == 8.0


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
        ({"loss_fn": lambda m, b: m(b[0])}, LossError, "must return one real number"),
        ({"loss_fn": lambda m, b: squares(m, b).detach()}, LossError, "lr_range: loss must depend on the parameters"),
        ({"loss_fn": lambda m, b: squares(m, b) * torch.nan}, ArgumentError, "must be finite before the first update"),
        ({"model": 1}, ArgumentTypeError, "model must be a torch.nn.Module"),
        ({"optimizer": 1}, ArgumentTypeError, "optimizer must be a torch.optim.Optimizer"),
        ({"data": []}, LossError, "data must have a batch"),
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


def test_the_picture_has_the_range_and_the_suggestion():
    found = lr_range(model := Point(*START.tolist()), torch.optim.SGD(model.parameters()), bowl, torch.ones(1))
    spec = found.plot().to_dict()
    assert f"{found.suggestion:.2g}" in spec["title"]["text"] and spec["title"]["subtitle"] == found.verdict
    assert "NaN" not in found.plot().to_json()
