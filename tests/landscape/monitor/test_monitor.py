"""The monitor's scalars equal what is worked out by hand, and it changes nothing."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError, LandscapeWarning
from fallline.landscape import Monitor
from fallline.landscape.monitor.noise_scale import NoiseScale
from fallline.landscape.monitor.norms import find_staleness
from support.landscapes import squares
from support.monitor_runs import batch, net


def run(model, optimizer, steps, parts=1, **options):
    rows = []
    with Monitor(model, optimizer, sinks=[rows.append], **{"every": 1, **options}) as monitor:
        for k in range(steps):
            optimizer.zero_grad()
            for part in range(parts):
                loss = squares(model, batch(parts * k + part)) / parts
                loss.backward()
            monitor.loss(loss)
            optimizer.step()
    return rows


def flat(tensors):
    return np.concatenate([t.detach().numpy().ravel() for t in tensors])


def test_norms_and_ratios_are_those_of_numpy():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = [p.detach().clone() for p in model.parameters()]
    (row,) = run(model, optimizer, 1)
    after = list(model.parameters())
    moved = [float((p.detach() - b).norm() / b.norm()) for p, b in zip(after, before, strict=True)]
    assert row["grad_norm"] == pytest.approx(np.linalg.norm(flat(p.grad for p in after)), rel=1e-12)
    change = np.linalg.norm(flat(after) - flat(before)) / np.linalg.norm(flat(before))
    assert row["update_ratio"] == pytest.approx(change, rel=1e-12)
    assert row["update_ratio_max"] == pytest.approx(max(moved), rel=1e-12)
    assert (row["step"], row["lr"]) == (1, 0.1)
    assert not {"noise_scale", "second_moment_staleness"} & row.keys()


@pytest.mark.parametrize("make", [torch.optim.Adam, fl.Adam, fl.NAdamW, fl.AdEMAMix])
def test_staleness_is_the_root_mean_of_squared_gradient_over_second_moment(make):
    model = net()
    betas, v = (0.9, 0.99) + (0.999,) * (make is fl.AdEMAMix), [0.0] * 4
    rows = run(model, make(model.parameters(), lr=1e-3, betas=betas, weight_decay=0), 1)
    assert rows[0]["second_moment_staleness"] == pytest.approx(1, abs=1e-3)  # v̂ is g² itself
    model = net()
    rows = run(model, make(model.parameters(), lr=0.0, betas=betas, weight_decay=0), 4)  # so the gradients are known
    for step, row in enumerate(rows, 1):
        grads = torch.autograd.grad(squares(model, batch(step - 1)), list(model.parameters()))
        v = [0.99 * old + 0.01 * g.numpy() ** 2 for old, g in zip(v, grads, strict=True)]
        hats = [new / (1 - 0.99**step) for new in v]
        by_hand = max(np.sqrt((g.numpy() ** 2 / h).mean()) for g, h in zip(grads, hats, strict=True))
        assert row["second_moment_staleness"] == pytest.approx(by_hand, rel=1e-4)  # float32; eps is far below


def test_the_second_moments_of_adan_have_the_third_beta():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = fl.Adan([param], lr=0.0)
    for _ in range(5):
        param.grad = torch.tensor([1.0, -2.0, 0.5])
        optimizer.step()
    assert find_staleness(optimizer, optimizer.param_groups[0], 1.0) == [pytest.approx(1, rel=1e-5)]


def test_a_gradient_that_grows_tenfold_makes_the_second_moment_stale():
    weight = nn.Linear(4, 4, bias=False).double()
    optimizer, rows = fl.AdamW(weight.parameters(), lr=1e-4), []
    with Monitor(weight, optimizer, every=1, sinks=[rows.append]):
        for k in range(101):
            optimizer.zero_grad()
            (weight(torch.ones(1, 4, dtype=torch.float64)).sum() * (10.0 if k == 100 else 1.0)).backward()
            optimizer.step()
    assert rows[99]["second_moment_staleness"] == pytest.approx(1, abs=1e-3)
    hat = (1 - 0.999**100) * 0.999 + 100 * 0.001
    assert rows[100]["second_moment_staleness"] == pytest.approx(math.sqrt(100 * (1 - 0.999**101) / hat), rel=1e-3)


def test_second_moments_below_eps_squared_are_not_stale():
    weight = nn.Linear(4, 4, bias=False).double()
    optimizer, rows = fl.AdamW(weight.parameters(), lr=1e-4, eps=1e-6), []
    with Monitor(weight, optimizer, every=1, sinks=[rows.append]):
        (weight(torch.ones(1, 4, dtype=torch.float64)).sum() * 1e-8).backward()
        optimizer.step()
    assert rows[0]["second_moment_staleness"] == pytest.approx(1e-2, rel=1e-3)  # eps bounds the step: |g|/eps


def test_rmsprops_mean_is_taken_as_it_divides():
    model = net()
    (row,) = run(model, torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.99), 1)
    assert row["second_moment_staleness"] == pytest.approx(10, rel=1e-3)  # it is not bias-corrected: g²/(0.01 g²)


def test_clipping_by_hand_and_by_the_optimizer_is_seen():
    def by_hand(limit):
        model, rows = net(), []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with Monitor(model, optimizer, every=1, sinks=[rows.append]):
            for k in range(6):
                optimizer.zero_grad()
                squares(model, batch(k)).backward()
                nn.utils.clip_grad_norm_(model.parameters(), limit)
                optimizer.step()
        return rows

    def by_itself(limit):
        model = net()
        return run(model, fl.SGD(model.parameters(), lr=0.0, clip_grad_norm=limit), 6)

    for clipped in (by_hand, by_itself):
        norms = sorted(row["grad_norm"] for row in clipped(1e9))
        rows = clipped((norms[1] + norms[2]) / 2)
        assert sorted(row["grad_norm"] for row in rows) == pytest.approx(norms)  # before clipping
        assert rows[-1]["clip_fraction"] == pytest.approx(4 / 6)
        assert clipped(1e9)[-1]["clip_fraction"] == 0 and clipped(1e-9)[-1]["clip_fraction"] == 1


@pytest.mark.parametrize("divided", [True, False])
def test_the_noise_scale_is_unbiased(divided):
    """Gradients of known mean and covariance; batches of one draw each, four to a step."""
    sigma, mean, k = 0.5, torch.tensor([1.0, -2.0], dtype=torch.float64), 4
    weight = nn.Linear(2, 1, bias=False).double()
    optimizer, rows = torch.optim.SGD(weight.parameters(), lr=0.0), []
    g = torch.Generator().manual_seed(0)
    with Monitor(weight, optimizer, every=1, sinks=[rows.append]):
        for _ in range(300):
            optimizer.zero_grad()
            for _ in range(k):
                draw = mean + sigma * torch.randn(2, generator=g, dtype=torch.float64)
                (weight(draw).sum() / (k if divided else 1)).backward()
            optimizer.step()
    truth = 2 * sigma**2 / float(mean @ mean)  # 0.1
    found = np.mean([row["noise_scale"] for row in rows[50:]])
    assert found == pytest.approx(truth, rel=0.1)  # over ten seeds 0.095 to 0.104


@pytest.mark.parametrize("k", [2, 3, 16])
def test_the_noise_scale_of_expected_lengths_is_exact(k):
    """With signal s and noise n in a batch, a batch has squared length s + n and the sum of k has k²s + kn."""
    scale = NoiseScale()
    for _ in range(3):
        scale.add(5 + 18, k**2 * 5 + k * 18, k)
    assert scale.value == pytest.approx(18 / 5, rel=1e-12)
    for _ in range(100):
        scale.add(1.0, 0.0, k)
    assert scale.value == math.inf  # all noise


def test_there_is_no_noise_scale_of_one_batch_nor_of_sams_two_passes():
    model = net()
    sam = fl.SAM(fl.SGD(model.parameters(), lr=0.1))
    rows = []
    with Monitor(model, sam, every=1, sinks=[rows.append]):
        squares(model, batch(0)).backward()
        sam.first_step(zero_grad=True)
        squares(model, batch(0)).backward()
        sam.second_step()
    assert len(rows) == 1 and "noise_scale" not in rows[0]
    assert "noise_scale" not in run(model, torch.optim.SGD(model.parameters()), 1)[0]


@pytest.mark.parametrize("make", [fl.AdamW, torch.optim.AdamW, fl.SGD, torch.optim.SGD])
@pytest.mark.parametrize("by_hand", [False, True], ids=["step", "unscale_"])
def test_a_scaler_changes_no_scalar(make, by_hand):
    def rows(scaler):
        model = net()
        optimizer, found = make(model.parameters(), lr=0.01), []
        with Monitor(model, optimizer, every=1, sinks=[found.append], scaler=scaler):
            for k in range(4):
                optimizer.zero_grad()
                scale = scaler.scale if scaler else lambda loss: loss
                for part in (0, 1):
                    scale(squares(model, batch(2 * k + part))).backward()
                if scaler and by_hand:
                    scaler.unscale_(optimizer)
                if scaler:
                    scaler.step(optimizer)
                    scaler.update()
                else:
                    optimizer.step()
        return found

    scaled = rows(torch.amp.GradScaler("cpu", init_scale=2.0**10))
    for one, other in zip(scaled, rows(None), strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert scaled[-1]["clip_fraction"] == 0


@pytest.mark.parametrize("make", [fl.SGD, torch.optim.SGD])
def test_a_skipped_step_is_no_step(make):
    model = net()
    optimizer, rows = make(model.parameters(), lr=0.01), []
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with Monitor(model, optimizer, every=1, sinks=[rows.append], scaler=scaler):
        for bad in (False, True, False):
            optimizer.zero_grad()
            scaler.scale(squares(model, batch(0)) * (math.inf if bad else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.parametrize("first", ["monitor", "steps"])
def test_gradients_that_are_gone_before_the_step_are_no_zeros(first):
    model = net()
    optimizer, rows = fl.SGD(model.parameters(), lr=0.1), []
    if first == "steps":
        fl.step_in_backward(model, optimizer)
    monitor = Monitor(model, optimizer, every=1, sinks=[rows.append])
    if first == "monitor":
        fl.step_in_backward(model, optimizer)
    with pytest.warns(LandscapeWarning, match="all had been freed, so norms and ratios are omitted") as said:
        for k in range(3):
            squares(model, batch(k)).backward()
            monitor.loss(1.0)
            optimizer.step()
    assert rows == [{"step": k, "lr": 0.1, "loss": 1.0, "spikes": 0.0} for k in (1, 2, 3)] and len(said) == 1


def test_only_every_so_many_steps_are_measured():
    model = net()
    rows = run(model, torch.optim.SGD(model.parameters(), lr=0.1), 11, every=5)
    assert [row["step"] for row in rows] == [1, 6, 11]


def test_spikes_are_counted():
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    monitor = Monitor(model, optimizer, every=1)
    for k in range(30):
        monitor.loss(9.0 if k in (20, 25) else 2.0 + 0.01 * (k % 3))
    squares(model, batch(0)).backward()
    optimizer.step()
    assert monitor.row["spikes"] == 2 and monitor.row["loss"] == pytest.approx(2.02)


def test_it_changes_nothing_and_leaves_no_hook():
    def train(watched):
        model = net()
        optimizer = fl.AdamW(model.parameters(), lr=0.01, clip_grad_norm=0.1)
        run(model, optimizer, 5) if watched else [None]
        if not watched:
            for k in range(5):
                optimizer.zero_grad()
                squares(model, batch(k)).backward()
                optimizer.step()
        hooks = [optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks]
        hooks += [p._backward_hooks or {} for p in model.parameters()]
        hooks += [p._post_accumulate_grad_hooks or {} for p in model.parameters()]
        assert not any(hooks)
        return [*model.parameters(), *(p.grad for p in model.parameters())]

    assert all(map(torch.equal, train(True), train(False)))


def test_the_hooks_go_also_when_the_training_fails():
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(KeyboardInterrupt), Monitor(model, optimizer):
        raise KeyboardInterrupt
    assert not optimizer._optimizer_step_post_hooks


def test_what_cannot_be_used_is_said_in_a_sentence():
    model = net()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ArgumentError, match="every must be an int >= 1, got every=0"):
        Monitor(model, optimizer, every=0)
    with pytest.raises(
        ArgumentTypeError, match="sinks must be functions, paths of JSONL files or SummaryWriters, got 3"
    ):
        Monitor(model, optimizer, sinks=[3])
    for sinks in ("monitor.jsonl", Path("monitor.jsonl"), print):  # of a string, each letter would be a file
        with pytest.raises(ArgumentTypeError, match="sinks must be a list, got sinks="):
            Monitor(model, optimizer, sinks=sinks)
    with pytest.raises(ArgumentTypeError, match="optimizer must be"):
        Monitor(model, model)
    with pytest.raises(ArgumentTypeError, match="model must be"):
        Monitor(optimizer, optimizer)
    assert not optimizer._optimizer_step_post_hooks
