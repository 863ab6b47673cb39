"""Train on several processes with FSDP2: shard parameters, state and averages; save checkpoints and resume from them.

torchrun --standalone --nproc-per-node 2 examples/fsdp.py [FOLDER [STEPS]]

The script uses gloo on one machine. On a cluster, change the lines with a comment that begins with "on a cluster". If
you run the script again with the same FOLDER, on any number of processes, it resumes from the latest checkpoint there.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fallline as fl

BATCH, STEPS = 32, 30


def main(folder: Path | None = None, steps: int = STEPS) -> None:
    """Train, and save a checkpoint every ten steps."""
    dist.init_process_group("gloo")  # on a cluster: "nccl", after torch.cuda.set_device(LOCAL_RANK)
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same on every process, because FSDP2 does not broadcast parameters
    model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 1))
    mesh = init_device_mesh("cpu", (world,))  # on a cluster: "cuda"; HSDP: a mesh of (replicas, shards)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    opt = fl.AdamW(model.parameters(), lr=1e-2, clip_grad_norm=1.0, ema_decay=0.9)  # create it after fully_shard

    start = 0
    if folder is not None and (whole := sorted(folder.glob("*/.metadata"))):  # the file that is written last
        start = load(model, opt, whole[-1].parent)
    for step in range(start, steps):
        batch = torch.randn(BATCH, 16, generator=torch.Generator().manual_seed(step))
        inputs = batch.chunk(world)[rank]
        loss = (model(inputs) - inputs.square().mean(1, keepdim=True)).square().mean()
        loss.backward()  # FSDP2 averages the gradients over the processes
        opt.step()
        opt.zero_grad()
        if folder is not None and step % 10 == 9:
            save(model, opt, folder / f"{step + 1:06}", step + 1)
    with opt.ema_weights(), torch.no_grad():
        x = torch.randn(256, 16, generator=torch.Generator().manual_seed(STEPS))
        loss = (model(x) - x.square().mean(1, keepdim=True)).square().mean()
    if rank == 0:
        print(f"steps {start} to {steps} on {world} processes: loss {loss.item():.4f}, last norm {opt.grad_norm:.4f}")
    dist.destroy_process_group()


def save(model: nn.Module, opt: fl.AdamW, folder: Path, step: int) -> None:
    """Write a checkpoint, of which every process writes its part."""
    weights, state = get_state_dict(model, opt)
    dcp.save({"model": weights, "optimizer": state, "step": step}, checkpoint_id=folder)


def load(model: nn.Module, opt: fl.AdamW, folder: Path) -> int:
    """Load a checkpoint that any number of processes wrote, and return its step."""
    weights, state = get_state_dict(model, opt)
    found = {"model": weights, "optimizer": state, "step": 0}
    dcp.load(found, checkpoint_id=folder)
    set_state_dict(model, opt, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
    return found["step"]


if __name__ == "__main__":
    main(*(kind(text) for kind, text in zip((Path, int), sys.argv[1:], strict=False)))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads outlive their group and may abort the process while Python exits
