"""What test_engines.py runs on each process: ZeRO, steps in the backward pass under FSDP2, accumulation by tokens."""

import contextlib
import copy

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fallline as fl
from fallline.optimizers import OPTIMIZERS
from support.sharded_runs import apart, data, mesh_of, my_rows, network, replayed, shard, whole, whole_result_of
from support.variants import normal

# Without rules that need sums over all parameters: a process has some of them, and a hook in the backward pass one.
ALONE = {name: cls for name, cls in OPTIMIZERS.items() if not cls.rule.sums}


def zero_run():
    """Return by optimizer how far ZeRO-1 ends from one process, and from an uninterrupted run after a checkpoint."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # importing it warns, and a test must not

    found = {}
    for name, cls in ALONE.items():
        model, alone, resumed = (network(torch.float64) for _ in range(3))
        opt = ZeroRedundancyOptimizer(_params(model, cls), cls, lr=0.01, ema_decay=0.9)
        single = cls(_params(alone, cls), lr=0.01, ema_decay=0.9)
        replayed(model, opt, range(5))
        resumed.load_state_dict(model.state_dict())
        other = ZeroRedundancyOptimizer(_params(resumed, cls), cls, lr=0.5)
        opt.consolidate_state_dict(0)
        box = [opt.state_dict() if torch.distributed.get_rank() == 0 else None]
        torch.distributed.broadcast_object_list(box, 0)
        other.load_state_dict(copy.deepcopy(box[0]))  # PyTorch's class copies nothing
        replayed(model, opt, range(5, 10))
        replayed(resumed, other, range(5, 10))
        replayed(alone, single, range(10))
        weights = [{k: whole(p) for k, p in m.named_parameters()} for m in (model, resumed, alone)]
        found[name] = apart(weights[0], weights[2]), apart(weights[1], weights[0])
    return found


def _params(model, cls):
    """Return the parameters of a model, for Muon in groups: the processes must have the same groups."""
    params = list(model.parameters())
    if "algorithm" not in cls(params).param_groups[0]:
        return params
    sides = {"muon": [p for p in params if p.dim() > 1], "adamw": [p for p in params if p.dim() < 2]}
    options = {"lr": 0.01, "weight_decay": 0.1, "ns_dtype": "float64"}  # which PyTorch's class writes into each group
    return [{"params": own, "algorithm": name, **options} for name, own in sides.items()]


def sam_around_zero_run():
    """Return how far SAM around ZeRO-1, its radius that of all parameters, ends from one process."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model, alone = network(torch.float64), network(torch.float64)
    opt = fl.SAM(ZeroRedundancyOptimizer(model.parameters(), fl.AdamW, lr=0.01), rho=0.5)
    single = fl.SAM(fl.AdamW(alone.parameters(), lr=0.01), rho=0.5)
    for step in range(5):
        inputs, targets = data(step, torch.float64)
        for m, o in ((model, opt), (alone, single)):
            for phase in (o.first_step, o.second_step):
                m.zero_grad()
                (m(inputs) - targets).square().mean().backward()
                phase()
    return apart(*({k: whole(p) for k, p in m.named_parameters()} for m in (model, alone)))


def sam_under_ddp_run(own, steps):
    """Return the parameter after SAM's steps on ½‖p − rank·(0, 1, 2)‖², climbing by one's own gradient or the mean."""
    rank = torch.distributed.get_rank()
    model = nn.Linear(1, 3, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 4.0)
    model = DistributedDataParallel(model)
    opt = fl.SAM(fl.SGD(model.parameters(), lr=0.1), rho=0.5)

    def backward():
        ((model(torch.ones(1, 1, dtype=torch.float64)) - rank * torch.arange(3.0)).square().sum() / 2).backward()

    for _ in range(steps):
        with model.no_sync() if own else contextlib.nullcontext():
            backward()
        opt.first_step(zero_grad=True)
        backward()
        opt.second_step(zero_grad=True)
    return model.module.weight.detach().flatten().tolist()


def clipped_zero_run():
    """Return how far ZeRO-1 ends from one process that clips, clipping itself, and having been clipped before."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def ended(make, before=False):
        model = network(torch.float64)
        opt = make(model.parameters())
        for index, param in enumerate(model.parameters()):
            param.grad = normal(*param.shape, seed=index, dtype=torch.float64)
        if before:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        opt.step()
        return {k: whole(p) for k, p in model.named_parameters()}

    def zero(params, **options):
        return ZeroRedundancyOptimizer(params, fl.SGD, lr=1.0, **options)

    alone = ended(lambda p: fl.SGD(p, lr=1.0, clip_grad_norm=0.1))
    inside, before = ended(lambda p: zero(p, clip_grad_norm=0.1)), ended(zero, before=True)
    return apart(inside, alone), apart(before, alone)


def layouts_run():
    """Return by layout how far steps with stochastic rounding end from those on whole tensors."""
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    mesh, found = mesh_of("fsdp"), {}
    rounded = {"stochastic_rounding": True, "state_dtype": torch.bfloat16, "clip_grad_norm": 0.5}
    for name, placement, value, options in (
        ("columns", Shard(1), normal(5, 6, dtype=torch.bfloat16), rounded),
        ("columns of a transposed one", Shard(1), normal(6, 5, dtype=torch.bfloat16).T, rounded),
        ("rows of a transposed one", Shard(0), normal(6, 5, dtype=torch.bfloat16).T, rounded),
        ("copies", Replicate(), normal(5, 6, dtype=torch.bfloat16), rounded),
        ("complex", Shard(0), normal(5, 6, dtype=torch.complex128), {"clip_grad_norm": 0.5}),
    ):
        param, alone = (nn.Parameter(v) for v in (distribute_tensor(value, mesh, [placement]), value.clone()))
        opt, single = fl.AdamW([param], **options), fl.AdamW([alone], **options)
        for step in range(5):
            alone.grad = normal(*value.shape, seed=step, dtype=value.dtype)
            # The second gradient comes in another placement than its parameter.
            other = [Replicate()] if step == 1 else param.placements
            param.grad = distribute_tensor(alone.grad, mesh, other)
            opt.step()
            single.step()
        found[name] = (
            (whole(param) - alone.detach()).abs().max().item(),
            isinstance(opt.state[param]["exp_avg"], DTensor),
        )
    return found


def in_backward_run():
    """Return by optimizer how far FSDP2 with steps in backward ends from FSDP2 with ordinary ones."""
    found = {}
    for name, cls in ALONE.items():
        models = [shard(network(torch.float32), mesh_of("fsdp")) for _ in range(2)]
        opts = [cls(model.parameters(), clip_grad_value=0.1) for model in models]
        fl.step_in_backward(models[1], opts[1])
        for step in range(5):
            for model, opt in zip(models, opts, strict=True):
                inputs, targets = (x[my_rows()] for x in data(step, torch.float32))
                (model(inputs) - targets).square().mean().backward()
                opt.step()
                opt.zero_grad()
        found[name] = apart(*(whole_result_of(*pair) for pair in zip(models, opts, strict=True)))
    return found


def whole_state_run():
    """Return how far a sharded optimizer goes from one process after loading that one's plain state dict."""
    alone = network(torch.float32)
    single = fl.AdamW(alone.parameters(), ema_decay=0.9)
    replayed(alone, single, range(3))
    model = network(torch.float32)
    model.load_state_dict(alone.state_dict())
    opt = fl.AdamW(fully_shard(model, mesh=mesh_of("fsdp")).parameters())
    opt.load_state_dict(single.state_dict())
    for m, o in ((alone, single), (model, opt)):
        replayed(m, o, range(3, 6))
    with opt.ema_weights(), single.ema_weights():
        averaged = apart(*({k: whole(p) for k, p in m.named_parameters()} for m in (model, alone)))
    return averaged, apart(whole_result_of(model, opt), whole_result_of(alone, single))


def accumulation_run(kind):
    """Return how far two ragged micro-batches a process end from the large batch on one."""
    lengths = [[3, 7], [1, 5]]  # of the sequences of each process
    table = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    tokens = [[torch.arange(n) + 3 * n + 5 * rank for n in row] for rank, row in enumerate(lengths)]

    def loss_sum(model, row):
        return nn.functional.cross_entropy(model(table[row % 16]), row % 5, reduction="sum")

    def made():
        torch.manual_seed(0)
        return nn.Linear(4, 5)

    rank, alone = torch.distributed.get_rank(), made()
    model = DistributedDataParallel(made()) if kind == "ddp" else fully_shard(made(), mesh=mesh_of("fsdp"))
    opt, single = fl.AdamW(model.parameters(), lr=0.1), fl.AdamW(alone.parameters(), lr=0.1)
    for _ in range(3):
        count = torch.tensor(float(sum(map(len, tokens[rank]))))
        torch.distributed.all_reduce(count)
        for row in tokens[rank]:
            (torch.distributed.get_world_size() * loss_sum(model, row) / count).backward()
        opt.step()
        opt.zero_grad()
        everything = torch.cat([row for rows in tokens for row in rows])
        (loss_sum(alone, everything) / len(everything)).backward()
        single.step()
        single.zero_grad()
    ours = {k.removeprefix("module."): whole(p) for k, p in model.named_parameters()}
    return apart(ours, {k: whole(p) for k, p in alone.named_parameters()})
