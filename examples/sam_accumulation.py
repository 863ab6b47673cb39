"""SAM with gradient accumulation: both passes run over the same micro-batches."""

import torch

import fallline as fl

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
opt = fl.SAM(fl.AdamW(model.parameters(), lr=0.05), rho=0.05)


def accumulate() -> float:
    """Accumulate the gradients of four micro-batches, and return the loss of the whole batch."""
    total = 0.0
    for x, y in zip(inputs.chunk(4), targets.chunk(4), strict=True):
        loss = torch.nn.functional.mse_loss(model(x), y) / 4
        loss.backward()
        total += loss.item()
    return total


for _ in range(20):
    loss = accumulate()
    opt.first_step(zero_grad=True)
    accumulate()
    opt.second_step(zero_grad=True)
print(f"loss {loss:.3f}")
