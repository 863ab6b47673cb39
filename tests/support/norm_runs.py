"""What test_norms_of_shards.py runs on each process: norms over parameters of which one process holds nothing."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import fallline as fl
from support.sharded_runs import apart
from support.variants import normal


def on(mesh, *values):
    return [torch.nn.Parameter(distribute_tensor(v, mesh, [Shard(0)])) for v in values]


def whole(param):
    return param.detach().full_tensor().numpy()


def scale_run():
    """Return what a test compares with NumPy: parameters after one step of each kind, and the sizes of the parts."""
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    values, grads = [normal(1, 7, seed=1), normal(5, seed=2)], [normal(1, 7, seed=3), normal(5, seed=4)]

    def ready():
        params = on(mesh, *values)
        for param, grad in zip(params, grads, strict=True):
            param.grad = distribute_tensor(grad, mesh, [Shard(0)])
        return params

    found = {}
    params = ready()
    fl.LAMB(params, lr=0.1, weight_decay=0.0, eps=0.0).step()
    found["lamb"] = [whole(p) for p in params]
    params = ready()
    sam = fl.SAM(fl.SGD(params, lr=0.1), rho=0.5)
    sam.first_step()
    found["climbed"] = [whole(p) for p in params]
    sam.second_step()
    found["descended"] = [whole(p) for p in params]
    params = ready()
    opt = fl.SGD(params, lr=0.1, clip_grad_norm=0.01)
    opt.step()
    found["clipped"], found["norm"] = [whole(p) for p in params], opt.grad_norm
    found["parts"] = [p._local_tensor.numel() for p in params]
    return found


def grid_run():
    """Return by placements on a mesh of 2 × 2 how far LAMB and AdamW end from whole parameters: update, norm and bits.

    Tensor parallelism cuts columns where FSDP2 cuts rows, so a norm goes over both dimensions of the mesh.
    """
    mesh, found = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns")), {}
    for places in ([Shard(0), Shard(1)], [Shard(1), Shard(0)], [Replicate(), Shard(0)], [Shard(1), Replicate()]):
        for cls, dtype, options in (
            (fl.LAMB, torch.float64, {"clip_grad_norm": 0.5}),
            (fl.AdamW, torch.bfloat16, {"stochastic_rounding": True, "state_dtype": torch.bfloat16}),
        ):
            value = normal(5, 6, dtype=dtype)
            param, alone = torch.nn.Parameter(distribute_tensor(value, mesh, places)), torch.nn.Parameter(value.clone())
            opt, single = cls([param], **options), cls([alone], **options)
            for step in range(3):
                alone.grad = normal(5, 6, seed=step + 1, dtype=dtype)
                param.grad = distribute_tensor(alone.grad, mesh, places)
                opt.step()
                single.step()
            far = apart({"": param.detach().full_tensor()}, {"": alone.detach()})
            found[f"{cls.__name__} {places}"] = far, abs((opt.grad_norm or 0) - (single.grad_norm or 0))
    return found


def overflow_run(climbing):
    """Return which of four float16 steps moved the parameters, the scale at last, and the number of steps made.

    The second step has an Inf on one process only; the third too where SAM takes two passes, in the second of them.
    """
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    params = on(mesh, normal(4, 3, seed=1))
    base = fl.AdamW(params, lr=0.1)
    opt, scaler = fl.SAM(base, rho=0.5) if climbing else base, torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))

    def differentiate(overflow):
        grad = normal(4, 3, seed=5)
        grad[3, 0] = float("inf") if overflow else 1.0
        params[0].grad = distribute_tensor(grad, mesh, [Shard(0)])

    moved = []
    for step in range(4):
        before = whole(params[0])
        differentiate(step == 1)
        if climbing:
            scaler.unscale_(opt)
            opt.first_step()
            differentiate(step == 2)
        scaler.step(opt)
        scaler.update()
        moved.append(bool((whole(params[0]) != before).any()))
    return moved, scaler.get_scale(), float(base.state[params[0]]["step"])
