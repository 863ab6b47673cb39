"""Weight decay and momentum follow schedules as learning rates do."""

import pytest
import torch

import fallline as fl
from fallline import schedules as fs
from fallline.errors import StateError
from support.schedulers import lrs, parameter, saved, sgd


@pytest.mark.parametrize("make", [torch.optim.AdamW, fl.AdamW], ids=["torch's", "ours"])
def test_weight_decay_and_momentum_follow_schedules(make):
    params = [parameter(), parameter()]
    groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "weight_decay": 0.0}]
    optimizer = make(groups, lr=1e-3)
    rising, falling = fs.cosine(8, min_lr_ratio=10.0), fs.linear(8, 0.5)
    scheduler = fl.Scheduler(optimizer, {"weight_decay": rising, "momentum": falling})
    for k in range(12):
        assert [g["weight_decay"] for g in optimizer.param_groups] == [rising(k, 0.1), 0.0]
        assert [g["betas"] for g in optimizer.param_groups] == [(falling(k, 0.9), 0.999)] * 2
        assert lrs(optimizer) == scheduler.get_lr() == scheduler.get_last_lr() == [1e-3, 1e-3]
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()
    state = saved(optimizer, scheduler)
    for first in ("optimizer", "scheduler"):
        fresh = make([{"params": [parameter()]}, {"params": [parameter()]}], lr=1e-3)
        follower = fl.Scheduler(fresh, {"weight_decay": rising, "momentum": falling})
        parts = {"optimizer": fresh, "scheduler": follower}
        for name in (first, *(n for n in parts if n != first)):
            parts[name].load_state_dict(state[name])
        follower.step(3)
        assert [g["weight_decay"] for g in fresh.param_groups] == [rising(3, 0.1), 0.0]


def test_ours_steps_as_torchs_while_everything_is_scheduled():
    def run(make):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(50, dtype=torch.float64))
        optimizer = make([weight], lr=0.1, momentum=0.5, weight_decay=0.1)
        scheduler = fl.Scheduler(
            optimizer, {"lr": fs.warmup_cosine(3, 12), "weight_decay": fs.cosine(12), "momentum": fs.linear(12, 0.9)}
        )
        for _ in range(15):
            weight.grad = torch.sin(weight.detach())
            optimizer.step()
            scheduler.step()
        return weight.detach()

    assert torch.allclose(run(fl.SGD), run(torch.optim.SGD), rtol=1e-12, atol=0)


def test_two_schedulers_share_an_optimizer():
    optimizer = torch.optim.SGD([parameter()], lr=1.0, weight_decay=0.5)
    rate, decay = fl.Cosine(optimizer, 4), fl.Scheduler(optimizer, {"weight_decay": fs.linear(4)})
    for k in range(6):
        assert (lrs(optimizer), optimizer.param_groups[0]["weight_decay"]) == ([fs.cosine(4)(k)], fs.linear(4)(k, 0.5))
        optimizer.step()
        rate.step()
        decay.step()


def test_a_state_of_other_values_is_refused():
    optimizer = sgd()
    state = fl.Scheduler(optimizer, {"weight_decay": fs.cosine(9)}).state_dict()
    with pytest.raises(StateError, match=r"Cosine: bases must be those of lr, got weight_decay; "):
        fl.Cosine(optimizer, 9).load_state_dict(state)
