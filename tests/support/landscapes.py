"""Models for the tests of the landscape, and their Hessians by an oracle that does not import fallline."""

import torch
from torch import nn


class Attention(nn.Module):
    """A causal transformer block with LayerNorm, over 4 positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.qkv, self.head = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 2)

    def forward(self, x):
        q, k, v = (part[:, None] for part in self.qkv(self.norm(self.embed(x))).chunk(3, -1))
        found = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]
        return self.head(found).mean(1)


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)), (3,)),
    "cnn": (
        lambda: nn.Sequential(nn.Conv1d(1, 3, 2), nn.BatchNorm1d(3), nn.GELU(), nn.Flatten(), nn.Linear(6, 2)),
        (1, 3),
    ),
    "layernorm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)), (3,)),
    "attention": (Attention, (4, 3)),
}


def build(name, items=10, dtype=torch.float64):
    """Return a seeded model, and a batch."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make().to(dtype)
    for buffer in model.buffers():  # statistics that differ from their defaults
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model, (torch.randn(items, *shape, dtype=dtype), torch.randint(2, (items,)))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def quadratic(matrix):
    """Return a model with one parameter w, a loss w'·A·w/2, and data."""
    model = nn.Linear(len(matrix), 1, bias=False).to(matrix.dtype)
    return model, lambda m, batch: m.weight[0] @ batch @ m.weight[0] / 2, matrix


def energy(curvature):
    """Return a model with one parameter w, the loss Σ curvature·w²/2, and data."""
    return quadratic(torch.diag(curvature))


def true_hessian(model, batch):
    """The Hessian (n, n) by `torch.func`, in the model's present mode.

    `torch.func.hessian` itself is wrong on LayerNorm: the inner of its two levels of vmap meets a batching rule that
    makes the result asymmetric (PyTorch 2.13). For a scalar loss that level needs no vmap: `grad`, not `jacrev`.
    """
    params = {name: p.detach() for name, p in model.named_parameters()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}

    def value(p):
        return nn.functional.cross_entropy(torch.func.functional_call(model, {**p, **buffers}, (batch[0],)), batch[1])

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        blocks = torch.func.jacfwd(torch.func.grad(value))(params)
    return torch.cat([torch.cat([blocks[a][b].reshape(params[a].numel(), -1) for b in params], 1) for a in params])


def spectrum(values, seed=0, dtype=torch.float64):
    """Return a symmetric matrix with these eigenvalues, in random directions."""
    values = torch.as_tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    matrix = (basis * values) @ basis.T
    return ((matrix + matrix.T) / 2).to(dtype)


def matrix(H):
    """Return an operator as the matrix that it is."""
    return H @ torch.eye(H.shape[0], dtype=H.dtype)


def split(batch, *sizes):
    """Return a batch cut into batches of these sizes."""
    return list(zip(*(part.split(sizes) for part in batch), strict=True))


class Point(nn.Module):
    """Weights and nothing else."""

    def __init__(self, *values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))


def form(h):
    """Return the loss w'·h·w/2 of a `Point` w."""
    return lambda model, batch: model.w @ h @ model.w / 2


def net():
    """A network with all that evaluation must leave alone: statistics, and numbers drawn."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def batches(*sizes, seed=1, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 3, generator=g, dtype=dtype), torch.randn(n, 2, generator=g, dtype=dtype)) for n in sizes]


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def train(model, optimizer, data):
    """Return the losses of an update a batch."""
    losses = []
    for batch in data:

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = squares(model, batch)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses
