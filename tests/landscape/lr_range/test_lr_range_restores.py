"""After a range test everything is as before, to the bit, also when it fails."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch

import fallline as fl
from fallline.landscape import lr_range
from support.landscapes import batches, net, squares, train


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


def test_sam_may_have_been_interrupted_between_its_phases():
    """In a loop of the user's own: no batch normalisation stays frozen, and the next step is a whole one."""
    model = net()
    optimizer = fl.SAM(fl.SGD(model.parameters(), lr=0.1, momentum=0.9), model=model)
    calls = itertools.count()

    def step(batch):
        loss = squares(model, batch)
        loss.backward()
        optimizer.first_step(zero_grad=True)
        if next(calls) == 3:
            raise KeyboardInterrupt
        squares(model, batch).backward()
        optimizer.second_step(zero_grad=True)
        return loss

    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        lr_range(model, optimizer, None, batches(4), step=step)
    assert equal(dict(model.state_dict()), dict(before)) and model[1].track_running_stats
    twin = net()
    other = fl.SAM(fl.SGD(twin.parameters(), lr=0.1, momentum=0.9), model=twin)
    losses = []
    for pair in ((model, optimizer), (twin, other)):
        torch.manual_seed(5)
        losses.append(train(*pair, batches(4, 4)))
    assert losses[0] == losses[1]
    assert equal(dict(model.state_dict()), dict(twin.state_dict()))


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
