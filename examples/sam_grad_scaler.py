"""SAM with mixed precision: `scaler.step` is the second phase."""

import torch

import fallline as fl

torch.manual_seed(0)
model = torch.nn.Linear(8, 1)
inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
opt = fl.SAM(fl.SGD(model.parameters(), lr=0.05, momentum=0.9), rho=0.05)
scaler = torch.amp.GradScaler("cpu")


def loss_of_batch() -> torch.Tensor:
    """Return the loss of the batch, computed in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.nn.functional.mse_loss(model(inputs).float(), targets)


for _ in range(20):
    loss = loss_of_batch()
    scaler.scale(loss).backward()
    scaler.unscale_(opt)
    opt.first_step(zero_grad=True)
    scaler.scale(loss_of_batch()).backward()
    scaler.step(opt)  # unscales the second gradients; skips the step if either pass overflowed
    scaler.update()
    opt.zero_grad()
print(f"loss {loss.item():.3f}")
