"""DTensors on one process: which kernels serve them, and what is refused. test_sharded.py has several processes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import fallline as fl
from fallline.backends.fused.bucket import FusedBucket
from fallline.dtensor import local, sum_over_shards
from fallline.errors import ArgumentError, GradientError
from support.variants import normal


@pytest.fixture(scope="module")
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def with_gradient(mesh, *placements):
    param = torch.nn.Parameter(distribute_tensor(normal(4, 3), mesh, placements))
    param.grad = distribute_tensor(normal(4, 3, seed=1), mesh, placements)
    return param


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)
def test_local_parts_are_updated_by_the_fused_kernels(mesh, placement):
    param = with_gradient(mesh, placement)
    opt = fl.AdamW([param], clip_grad_norm=1.0, ema_decay=0.9)
    for _ in range(2):
        opt.step()
        (bucket,) = opt._plan.buckets
        assert [type(part.bucket) for part in bucket._parts.values()] == [FusedBucket]
    alone = torch.nn.Parameter(normal(4, 3))
    single = fl.AdamW([alone], clip_grad_norm=1.0, ema_decay=0.9)
    for _ in range(2):
        alone.grad = normal(4, 3, seed=1)
        single.step()
    assert torch.equal(param.full_tensor(), alone)
    assert opt.grad_norm == single.grad_norm
    assert isinstance(opt.state[param]["ema"], DTensor)


@pytest.mark.parametrize(("placement", "total"), [(Shard(0), [2.0, 6.0]), (Replicate(), [1.0, 3.0])], ids=str)
def test_numbers_of_shards_are_summed_over_processes_and_those_of_copies_are_not(mesh, monkeypatch, placement, total):
    """Here a second process only appears to exist; test_norms_of_shards.py has real ones."""
    monkeypatch.setattr(dist, "all_reduce", lambda part, group: part.mul_(2))
    param = distribute_tensor(normal(4, 3), mesh, [placement])
    assert sum_over_shards(np.array([1.0, 3.0]), param).tolist() == total


def test_the_plan_holds_from_step_to_step(mesh):
    param = with_gradient(mesh, Shard(0))
    opt = fl.AdamW([param])
    opt.step()
    plan = opt._plan
    param.grad = distribute_tensor(normal(4, 3, seed=2), mesh, [Shard(0)])
    opt.step()
    assert opt._plan is plan


@pytest.mark.parametrize("replaced", ["param", "momentum_buffer"])
def test_what_is_put_in_the_place_of_a_shard_is_updated(mesh, replaced):
    """The plan of a step knows the parts themselves; others may have taken their place since."""
    param = with_gradient(mesh, Shard(0))
    opt = fl.SGD([param], lr=1.0, momentum=0.5)
    opt.step()
    value, buffer, grad = param.full_tensor().detach().clone(), normal(4, 3, seed=1), normal(4, 3, seed=1)
    if replaced == "param":
        value = torch.zeros(4, 3)
        param._local_tensor = value.clone()
    else:
        buffer = torch.ones(4, 3)
        opt.state[param][replaced] = distribute_tensor(buffer, mesh, [Shard(0)])
    opt.step()
    torch.testing.assert_close(param.full_tensor(), value - (0.5 * buffer + grad))


def test_steps_in_backward_are_refused_under_ddp(mesh):
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
    with pytest.raises(ArgumentError, match="must not be under DistributedDataParallel"):
        fl.step_in_backward(model, fl.SGD(model.parameters()))


def test_a_step_raises_the_version_of_the_parameter(mesh):
    param = with_gradient(mesh, Shard(0))
    before = param._version
    fl.SGD([param]).step()
    assert param._version > before


def test_averages_take_the_place_of_shards_and_go(mesh):
    param = with_gradient(mesh, Shard(0))
    opt = fl.SGD([param], lr=1.0, ema_decay=0.5)
    opt.step()
    stepped = normal(4, 3) - normal(4, 3, seed=1)
    with opt.ema_weights():
        torch.testing.assert_close(param.full_tensor(), (normal(4, 3) + stepped) / 2)
    torch.testing.assert_close(param.full_tensor(), stepped)


def test_a_loaded_state_is_a_copy_of_shards(mesh):
    """Two optimizers on one memory would each undo what the other does."""
    one, other = with_gradient(mesh, Shard(0)), with_gradient(mesh, Shard(0))
    opt, twin = fl.AdamW([one]), fl.AdamW([other])
    opt.step()
    twin.load_state_dict(opt.state_dict())
    before = opt.state[one]["exp_avg"].full_tensor().clone()
    twin.step()
    assert torch.equal(opt.state[one]["exp_avg"].full_tensor(), before)
    assert not torch.equal(twin.state[other]["exp_avg"].full_tensor(), before)


def test_a_part_that_is_under_way_is_waited_for():
    """As a gradient is that was sent around a moment ago; its memory holds anything until then."""
    arrived = torch.ones(2)
    assert local(SimpleNamespace(_local_tensor=SimpleNamespace(wait=lambda: arrived))) is arrived


def test_what_cannot_be_updated_in_parts_is_refused(mesh):
    whole = with_gradient(mesh, Shard(0))
    with pytest.raises(ArgumentError, match="SGD: differentiable must be False for DTensors"):
        fl.SGD([whole], differentiable=True).step()
    partial = torch.nn.Parameter(DTensor.from_local(normal(4, 3), mesh, [Partial()]))
    partial.grad = DTensor.from_local(normal(4, 3), mesh, [Partial()])
    with pytest.raises(GradientError, match="SGD: a DTensor parameter must be sharded or replicated, got placements"):
        fl.SGD([partial]).step()
