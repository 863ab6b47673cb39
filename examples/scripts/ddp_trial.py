"""Train on several processes with DistributedDataParallel.  torchrun --nproc-per-node 2 ddp.py [--lr 0.1]."""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import fallline as fl

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}

parser = argparse.ArgumentParser()
parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
trial = fl.trial(args.optimizer, lr=args.lr, seed=args.seed)
torch.manual_seed(trial.seed)

generator = torch.Generator().manual_seed(1)
inputs = torch.randn(640, 16, generator=generator)
targets = inputs.sin().sum(1, keepdim=True)
train, val = TensorDataset(inputs[:512], targets[:512]), (inputs[512:], targets[512:])
sampler = DistributedSampler(train, seed=trial.seed)
loader = DataLoader(train, batch_size=16, sampler=sampler)

model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1)))
optimizer, scheduler = trial.optimizer(model, total_steps=args.epochs * len(loader))
for epoch in range(args.epochs):
    sampler.set_epoch(epoch)
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()

if rank == 0:
    with torch.no_grad():
        print(f"val_loss: {nn.functional.mse_loss(model.module(val[0]), val[1]).item():.6f}")
dist.destroy_process_group()
