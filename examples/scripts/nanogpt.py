"""Train a small character-level GPT on the help texts of Python.  python nanogpt.py [--optimizer adamw --lr 3e-3]."""

import argparse
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}

parser = argparse.ArgumentParser()
parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--weight-decay", type=float, default=0.1)
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--seed", type=int, default=1337)
args = parser.parse_args()

block, width, heads, layers, batch_size = 32, 48, 4, 3, 8
torch.manual_seed(args.seed)

text = "".join(topics[name] for name in sorted(topics))[:200_000]
letters = sorted(set(text))
data = torch.tensor([letters.index(letter) for letter in text])
train_data, val_data = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]


class Block(nn.Module):
    """Causal self-attention and a feed-forward network, both with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x (batch, time, width) after both parts."""
        b, t, _ = x.shape
        q, k, v = self.attention(self.norm1(x)).view(b, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.projection(y.transpose(1, 2).reshape(b, t, width))
        return x + self.feed_forward(self.norm2(x))


class GPT(nn.Module):
    """A decoder that predicts the next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(len(letters), width), nn.Embedding(block, width)
        self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, len(letters))

    def forward(self, index: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy."""
        x = self.tokens(index) + self.positions(torch.arange(index.shape[1]))
        logits = self.head(self.norm(self.blocks(x)))
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def get_batch(source: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random windows of the text, and the same windows one letter further."""
    starts = torch.randint(len(source) - block, (size,)).tolist()
    windows = torch.stack([source[start : start + block + 1] for start in starts])
    return windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def estimate_loss(model: nn.Module) -> float:
    """Return the mean loss over the first windows of the validation text."""
    windows = val_data[: 200 * (block + 1)].view(-1, block + 1)
    return model(windows[:, :-1], windows[:, 1:]).item()


model = GPT()
optimizer = OPTIMIZERS[args.optimizer](model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
for step in range(args.steps):
    loss = model(*get_batch(train_data, batch_size))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
    if step % 10 == 0:
        print(f"step {step}: train loss {loss.item():.4f}")
print(f"val_loss: {estimate_loss(model):.6f}")
