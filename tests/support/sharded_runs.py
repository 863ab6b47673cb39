"""What test_sharded.py runs, on each process of a group and alone: trainings, and what they end with."""

import functools

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fallline as fl
from fallline.core.schedule_free import ScheduleFree
from support.variants import CASES, ENDS, normal

STEPS = 50
BATCH = 8
ALIKE = ("adam", "rmsprop", "schedulefreeadamw")  # single options of AdamW stand for theirs


def network(dtype):
    """Return a small model: of its matrix of one row, all processes but the first hold nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def networks(dtypes):
    """Return a module that holds a network for each name, of the dtype given."""
    return nn.ModuleDict({name.replace(".", "_"): network(dtype) for name, dtype in dtypes.items()})


def mesh_of(kind):
    world = torch.distributed.get_world_size()
    if kind == "hsdp":
        return init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicas", "shards"))
    return init_device_mesh("cpu", (world,))


def shard(model, mesh):
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def cases():
    """Return every optimizer under its options: its maker by name."""
    found = {}
    for cls, variant, options in CASES:
        if cls.rule.shapes is not None:  # test_factored_shards.py has them
            continue
        if cls.rule.name in ALIKE and variant not in ENDS:
            continue
        name = f"{cls.rule.name}-{variant}"
        if cls.rule.whole:  # whole rules run PyTorch's operations on shards, which compiled loops follow to rounding
            options = {**options, "backend": "foreach"}
        if "ns_dtype" in cls.rule.flags:  # products in bfloat16 would hide everything else
            options = {**options, "ns_dtype": "float64"}
        if "max_precond_dim" in cls.rule.flags:  # a second moment of one row has a basis that is mostly arbitrary
            options = {**options, "max_precond_dim": 4}  # see factored_runs for those of full rank
        found[name] = functools.partial(cls, **options)
        if variant == "default" and cls.rule.name in ("adamw", "muon"):  # a share over all of a tensor
            found[f"{name}-cautious"] = functools.partial(cls, **options, cautious=True, cautious_weight_decay=True)
        if variant in ("default", "everything"):  # what couples parameters
            found[f"{name}-clip"] = functools.partial(cls, **{**options, "clip_grad_norm": 0.1, "ema_decay": 0.9})
            for adaptive in (False, True):
                found[f"sam-{adaptive}-{name}"] = functools.partial(_sam, cls, options, adaptive)
    return found


def _sam(cls, options, adaptive, params):
    return fl.SAM(cls(params, **options), rho=0.5, adaptive=adaptive)


def result_of(model, opt):
    """Return parameters and states by name, as they are: shards of them where they are spread."""
    found = {name: p.detach() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        state = getattr(opt, "state_as_numbers", opt.state.get)(p) or {}
        found |= {f"{name}/{key}": value for key, value in state.items() if value is not None}
    return found


def whole(tensor):
    """Return all of a tensor, wherever its parts are; a collective call."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def whole_result_of(model, opt):
    return {name: whole(value) for name, value in result_of(model, opt).items()}


def part_of(tensor):
    """Return what this process holds of a tensor, as an array: float64 holds every value exactly."""
    with torch.no_grad():
        return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).double().numpy().copy()


def apart(ours, theirs):
    """Return the largest difference, relative to the largest element of its tensor; Inf where names differ."""
    if ours.keys() != theirs.keys() or any(ours[k].shape != theirs[k].shape for k in ours):
        return float("inf")
    pairs = [[torch.as_tensor(each[k]).double() for each in (ours, theirs)] for k in ours]
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs)


@functools.cache
def data(step, dtype):
    return normal(BATCH, 6, seed=2 * step, dtype=dtype), normal(BATCH, 1, seed=2 * step + 1, dtype=dtype)


def my_rows():
    """Return this process's share of a batch."""
    share = BATCH // torch.distributed.get_world_size()
    return slice(share * torch.distributed.get_rank(), share * (torch.distributed.get_rank() + 1))


class Sum(nn.Module):
    """The losses of many networks added: none sees the others, and one collective serves all."""

    def __init__(self, models):
        super().__init__()
        self.models = models

    def forward(self, inputs, targets):
        return sum((model(inputs) - targets).square().mean() for model in self.models.values())


def float64_trainings(kind):
    """Return by case what this process holds after 50 steps; kind None is the training on one process."""
    found = {}
    for climbing in (False, True):
        makers = {name: make for name, make in cases().items() if name.startswith("sam") == climbing}
        model = total = Sum(networks(dict.fromkeys(makers, torch.float64)))
        if kind == "ddp":
            total = DistributedDataParallel(model)
        elif kind is not None:
            fully_shard(model, mesh=mesh_of(kind))
        opts = [make(each.parameters()) for make, each in zip(makers.values(), model.models.values(), strict=True)]
        phases = ["first_step", "second_step"] if climbing else ["step"]
        for step in range(STEPS):
            inputs, targets = (x if kind is None else x[my_rows()] for x in data(step, torch.float64))
            for phase in phases:
                total(inputs, targets).backward()
                for opt in opts:
                    getattr(opt, phase)()
                model.zero_grad()
        found |= _parts(makers, model.models, opts)
    return found


def _parts(names, models, opts):
    return {
        name: {key: part_of(value) for key, value in result_of(*pair).items()}
        for name, pair in zip(names, zip(models.values(), opts, strict=True), strict=True)
    }


def replayed(model, opt, steps):
    """Step with gradients that depend on nothing but the step and the parameter; SAM sees each twice."""
    for step in steps:
        for phase in (opt.first_step, opt.second_step) if isinstance(opt, fl.SAM) else (opt.step,):
            for index, param in enumerate(model.parameters()):
                param.grad = gradient(step, index, param)
            phase()


_gradients = {}  # made once for all models


def gradient(step, index, param):
    key = step, index, param.dtype, hasattr(param, "device_mesh")
    if key not in _gradients:
        grad = normal(*param.shape, seed=1000 * step + index, dtype=param.dtype)
        _gradients[key] = spread(grad, param)
    return _gradients[key]


def spread(value, param):
    from torch.distributed.tensor import distribute_tensor

    if not hasattr(param, "device_mesh"):
        return value
    return distribute_tensor(value, param.device_mesh, param.placements, src_data_rank=None)  # all have it: none sends


LOW = {
    "state": (torch.float32, {"state_dtype": torch.bfloat16}),
    "rounded": (torch.bfloat16, {"stochastic_rounding": True, "state_dtype": torch.bfloat16, "rounding_seed": 3}),
    "master": (torch.bfloat16, {"master_weights": True, "ema_decay": 0.9}),
    "split": (torch.bfloat16, {"master_weights": "split24", "state_dtype": torch.bfloat16, "ema_decay": 0.9}),
    "half": (torch.float16, {"master_weights": True}),
    "bfloat16": (torch.bfloat16, {}),
}


def replays(spread_out):
    """Return by case what this process holds after 50 steps with given gradients, in float32 and below."""
    makers = {name: (torch.float32, make) for name, make in cases().items()}
    for cls, variant, _ in CASES:
        if variant == "default" and cls.rule.shapes is None:
            for name, (dtype, options) in LOW.items():
                if name == "split" and issubclass(cls, ScheduleFree):
                    continue
                backend = "foreach" if cls.rule.whole else "auto"
                makers[f"{cls.rule.name}-{name}"] = dtype, functools.partial(cls, **options, backend=backend)
    models = networks({name: dtype for name, (dtype, _) in makers.items()})
    if spread_out:
        fully_shard(Sum(models), mesh=mesh_of("fsdp"))
    opts = [make(each.parameters()) for (_, make), each in zip(makers.values(), models.values(), strict=True)]
    for model, opt in zip(models.values(), opts, strict=True):
        replayed(model, opt, range(STEPS))
    return _parts(makers, models, opts)


def backends(kind):
    """Return by backend how far AdamW and LAMB with everything end from one process."""
    mesh, found = mesh_of(kind), {}
    for backend in ("fused", "foreach", "reference"):
        for cls in (fl.AdamW, fl.LAMB):
            options = {"clip_grad_norm": 0.5, "weight_decay": 0.1, "backend": backend}
            model, alone = shard(network(torch.float32), mesh), network(torch.float32)
            opt, single = cls(model.parameters(), **options), cls(alone.parameters(), **options)
            replayed(model, opt, range(10))
            replayed(alone, single, range(10))
            found[f"{backend}-{cls.__name__}"] = apart(whole_result_of(model, opt), whole_result_of(alone, single))
    return found


BLOCKED = {"adamw": fl.AdamW, "lion": fl.Lion, "lamb": fl.LAMB}
BLOCKED["clipped"] = functools.partial(fl.AdamW, clip_grad_norm=3.0)
STARTS = {"weight": normal(301, 3, seed=1), "bias": normal(301, seed=2)}


def blocks():
    """Return by optimizer the local parts after 20 steps: with states in blocks, in float32, and of a plain tensor.

    The plain tensor is this process's part of the parameter. On the first process its elements have the same positions,
    and so the same random numbers.
    """
    mesh, found = mesh_of("fsdp"), {}
    for name, make in BLOCKED.items():
        ends = {}
        for kind, dtype in (("blocks", "int8"), ("float32", None)):
            model = nn.Linear(3, 301)  # 151 and 150 rows: neither a whole number of blocks
            model.load_state_dict(STARTS)
            opt = make(fully_shard(model, mesh=mesh).parameters(), lr=0.01, state_dtype=dtype)
            replayed(model, opt, range(20))
            ends[kind] = result_of(model, opt)
        ends = {kind: {key: part_of(value) for key, value in end.items()} for kind, end in ends.items()}
        if name in ("adamw", "lion"):  # norms are over all shards
            plain = [nn.Parameter(spread(STARTS[key], p).to_local().clone()) for key, p in model.named_parameters()]
            opt = make(plain, lr=0.01, state_dtype="int8")
            for step in range(20):
                for index, (param, own) in enumerate(zip(plain, model.parameters(), strict=True)):
                    param.grad = gradient(step, index, own).to_local()
                opt.step()
            ends["plain"] = dict(zip(("weight", "bias"), map(part_of, plain), strict=True))
        found[name] = ends
    return found
