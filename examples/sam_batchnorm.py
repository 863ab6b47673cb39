"""SAM with batch normalization: the second pass does not update the running statistics."""

import torch

import fallline as fl

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
opt = fl.SAM(fl.SGD(model.parameters(), lr=0.05, momentum=0.9), rho=0.05, model=model)


def closure() -> torch.Tensor:
    """Compute the gradients of the batch and return its loss."""
    opt.zero_grad()
    loss = torch.nn.functional.mse_loss(model(inputs), targets)
    loss.backward()
    return loss


for _ in range(20):
    loss = opt.step(closure)  # calls the closure twice and returns the first loss
print(f"loss {loss.item():.3f}, {model[1].num_batches_tracked.item()} batches tracked in 20 steps")
