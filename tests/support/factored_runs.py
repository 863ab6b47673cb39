"""What test_factored_shards.py runs on each process: rules whose states have other shapes than the parameter."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import fallline as fl
from support.sharded_runs import whole
from support.variants import normal, same_bits

SHAPES = ((6, 6), (5, 4), (1, 5), (5,), (4, 3, 2, 2))
PLACEMENTS = {"rows": Shard(0), "last dimension": Shard(-1), "everywhere": Replicate()}
OPTIMIZERS = {
    "Adafactor": lambda params, **options: fl.Adafactor(params, lr=0.01, beta1=0.5, **options),
    "NorMuon": lambda params, **options: fl.Muon(params, lr=0.01, norm="neuron", ns_dtype="float32", **options),
    "SOAP": lambda params, **options: fl.SOAP(params, lr=0.01, precondition_frequency=2, **options),
}
OPTIONS = {
    "float64": (torch.float64, {}),
    "clipped": (torch.float32, {"clip_grad_norm": 0.1, "ema_decay": 0.9}),
    "rounded": (torch.bfloat16, {"stochastic_rounding": True, "state_dtype": torch.bfloat16}),
}


def placed(value, mesh, placement):
    if isinstance(placement, Shard):
        placement = Shard(placement.dim % value.dim())
    return distribute_tensor(value, mesh, [placement])


def near(own, other):
    return torch.allclose(own, other, rtol=1e-5, atol=1e-6)


def shards_run():
    """Return by case whether 5 steps on shards, saved and loaded in between, are those on whole tensors.

    They are the same to the bit, or with clipping to 1e-5.
    """
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    found = {}
    for where, placement in PLACEMENTS.items():
        for name, make in OPTIMIZERS.items():
            for case, (dtype, options) in OPTIONS.items():
                values = [normal(*shape, seed=k, dtype=dtype) for k, shape in enumerate(SHAPES)]
                alone = [torch.nn.Parameter(value.clone()) for value in values]
                spread = [torch.nn.Parameter(placed(value, mesh, placement)) for value in values]
                # Loops round square roots to nearest; PyTorch's operations, which update shards, do not always (MKL).
                backend = "auto" if name == "NorMuon" else "foreach"
                single, opt = make(alone, **options, backend=backend), make(spread, **options)
                for step in range(5):
                    for k, (one, other) in enumerate(zip(alone, spread, strict=True)):
                        one.grad = normal(*SHAPES[k], seed=10 * step + k + 7, dtype=dtype)
                        other.grad = placed(one.grad, mesh, placement)
                    single.step(), opt.step()
                    if step == 2:
                        saved = opt.state_dict()
                        opt = make(spread, **options)
                        opt.load_state_dict(saved)
                ours = [p.detach() for p in alone] + [v for p in alone for v in single.state[p].values()]
                theirs = [p.detach() for p in spread] + [v for p in spread for v in opt.state[p].values()]
                theirs = [whole(value) for value in theirs]
                # A norm over all parameters depends, in its last bit, on the order in which the squares are added.
                same = all(map(near, ours, theirs)) if "clip_grad_norm" in options else same_bits(ours, theirs)
                found[f"{name}-{case}-{where}"] = same
    return found
