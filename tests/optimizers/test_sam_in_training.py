"""SAM with what is wrapped around a step: GradScaler, micro-batches, batch statistics, schedulers, checkpoints."""

import copy
import pickle

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import fallline as fl
from support.sam_runs import BASES, EVERY_BASE, closure_of, objective, params_of, trained
from support.variants import same_bits, same_state


@EVERY_BASE
@pytest.mark.parametrize("overflow", ["first", "second", "never"])
def test_a_grad_scaler_skips_when_either_pass_overflows(base, overflow):
    params, opt = trained(base, 1)
    others, twin = trained(base, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    schedule = fl.StepDecay(opt, step_size=1, gamma=0.5)
    before, start = [p.detach().clone() for p in params], copy.deepcopy(opt)
    for number in ("first", "second"):
        opt.zero_grad()
        factor = float("inf") if number == overflow else 1.0
        scaler.scale(objective(params) * factor).backward()
        if number == "first":
            scaler.unscale_(opt)
            opt.first_step()
    scaler.step(opt)
    scaler.update()
    schedule.step()
    if overflow == "never":
        twin.step(closure_of(twin, others))
        assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(params, others, strict=True))
        assert scaler.get_scale() == 2.0**10 and schedule.last_epoch == 1
    else:
        assert same_bits(params, before)
        assert same_state(opt, start)
        assert opt.state_dict()["param_groups"] == start.state_dict()["param_groups"]
        assert scaler.get_scale() == 2.0**9 and schedule.last_epoch == 0
    opt.zero_grad()
    opt.step(closure_of(opt, params))  # and it goes on


def test_a_disabled_scaler_changes_nothing():
    params, opt = trained(BASES["sgd"], 0)
    others, _ = trained(BASES["sgd"], 1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale(objective(params)).backward()
    scaler.unscale_(opt)
    opt.first_step(zero_grad=True)
    scaler.scale(objective(params)).backward()
    scaler.step(opt)
    scaler.update()
    assert same_bits(params, others)


@EVERY_BASE
def test_four_micro_batches_are_the_full_batch(base):
    batch = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))

    def run(parts):
        model = torch.nn.Linear(6, 2)
        with torch.no_grad():
            model.weight.copy_(torch.arange(12.0).view(2, 6) / 10)
            model.bias.zero_()
        opt = fl.SAM(base(model.parameters()), rho=0.1)
        for _ in range(5):
            for phase in (opt.first_step, opt.second_step):
                for part in batch.chunk(parts):
                    (model(part).square().mean() / parts).backward()
                phase(zero_grad=True)
        return [p.detach() for p in model.parameters()]

    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-6) for a, b in zip(run(4), run(1), strict=True))


@pytest.mark.parametrize("layer", [torch.nn.BatchNorm1d, torch.nn.SyncBatchNorm])
def test_batch_statistics_are_updated_once_a_step(layer):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), layer(3))
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    opt = fl.SAM(fl.SGD(model.parameters(), lr=0.1), rho=0.5, model=model)

    def closure():
        opt.zero_grad()
        loss = model(x).pow(3).mean()
        loss.backward()
        return loss

    for step in range(1, 4):
        twin = copy.deepcopy(model)
        twin(x)  # what one look at the batch does
        opt.step(closure)
        assert model[1].num_batches_tracked.item() == step
        assert same_bits([model[1].running_mean, model[1].running_var], [twin[1].running_mean, twin[1].running_var])
        assert model[1].track_running_stats and model.training


@EVERY_BASE
def test_groups_added_later_take_part(base):
    first, second = params_of()[:1], params_of()[1:]
    opt = fl.SAM(base(first), rho=0.2)
    opt.step(closure_of(opt, first))
    opt.add_param_group({"params": second, "lr": 0.01})
    assert len(opt.base.param_groups) == 2 and opt.param_groups[1]["sam_rho"] == 0.2
    everyone = [*first, *second]
    objective(everyone).backward()
    before = [p.detach().clone() for p in everyone]
    norm = torch.stack([p.grad.square().sum() for p in everyone]).sum().sqrt()
    opt.first_step()
    for p, start in zip(everyone, before, strict=True):
        torch.testing.assert_close(p.detach(), start + 0.2 * p.grad / norm, rtol=1e-5, atol=1e-6)
    opt.second_step()


@pytest.mark.parametrize("way", ["state_dict", "distributed", "deepcopy", "pickle"])
@EVERY_BASE
def test_a_run_goes_on_exactly_from_a_checkpoint(base, way, tmp_path):
    model = torch.nn.ParameterList(params_of())
    _, opt = trained(base, 3, list(model), rho=0.3, adaptive=True)
    if way in ("deepcopy", "pickle"):
        copier = copy.deepcopy if way == "deepcopy" else lambda pair: pickle.loads(pickle.dumps(pair))
        other_model, other = copier((model, opt))
    else:
        other_model = copy.deepcopy(model)
        other = fl.SAM(base(list(other_model)))
        if way == "state_dict":
            torch.save(opt.state_dict(), tmp_path / "opt.pt")
            other.load_state_dict(torch.load(tmp_path / "opt.pt", weights_only=True))
        else:
            saved = copy.deepcopy(get_optimizer_state_dict(model, opt))  # PyTorch loads without copying
            set_optimizer_state_dict(other_model, other, saved)
    assert other.param_groups[0]["sam_rho"] == 0.3
    for each, params in ((opt, list(model)), (other, list(other_model))):
        for _ in range(3):
            each.step(closure_of(each, params))
    assert same_bits(list(model), list(other_model)) and same_state(opt, other)


def test_a_state_dict_of_the_base_alone_loads():
    base = fl.SGD(params_of(), lr=0.05, momentum=0.9)
    base.step(closure_of(base, base.param_groups[0]["params"]))
    opt = fl.SAM(fl.SGD(params_of(), lr=0.1, momentum=0.9), rho=0.4)
    opt.load_state_dict(base.state_dict())
    assert (opt.param_groups[0]["sam_rho"], opt.param_groups[0]["lr"]) == (0.4, 0.05)


@pytest.mark.parametrize("style", ["closure", "phases"])
@pytest.mark.parametrize("make", [torch.optim.lr_scheduler.StepLR, fl.StepDecay])
@EVERY_BASE
def test_schedulers_and_hooks_see_one_step_of_one_optimizer(base, make, style, recwarn):
    params, opt = trained(base, 0)
    schedule, heard = make(opt, 1, 0.5), []
    opt.register_step_pre_hook(lambda *_: heard.append("before"))
    opt.register_step_post_hook(lambda *_: heard.append("after"))
    closure = closure_of(opt, params)
    if style == "closure":
        opt.step(closure)
    else:
        closure()
        opt.first_step()
        closure()
        opt.second_step()
    schedule.step()
    assert opt.base.param_groups[0]["lr"] == 0.025
    assert heard == ["before", "after"]
    assert not recwarn.list
