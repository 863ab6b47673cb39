"""Accumulate gradients over sequences of different lengths: divide by the number of all tokens.

python examples/token_accumulation.py

If every micro-batch takes its own mean, a token of a short sequence has a larger weight than one of a long sequence.
The large batch computes the sum over all tokens, divided once by their number. This number must be known before the
first backward pass.
"""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fallline as fl

torch.manual_seed(0)
embedding, start = nn.Embedding(50, 32), nn.Linear(32, 50)
sequences = [torch.randint(50, (length,)) for length in (3, 60, 7, 25, 5, 1)]


def loss_sum(model: nn.Module, sequence: torch.Tensor) -> torch.Tensor:
    """Return the loss of a sequence, summed over its tokens; here the target of each token is the token itself."""
    with torch.no_grad():
        x = embedding(sequence)
    return cross_entropy(model(x), sequence, reduction="sum")


def train(micro_batches: list[list[torch.Tensor]], by_tokens: bool) -> torch.Tensor:
    """Return the weights after ten steps, each over all micro-batches."""
    model = copy.deepcopy(start)
    opt = fl.AdamW(model.parameters(), lr=1e-2, clip_grad_norm=0.5)
    tokens = sum(len(sequence) for batch in micro_batches for sequence in batch)
    # On several processes: all_reduce the number of tokens, and multiply the loss by the number of processes, because
    # DDP and FSDP2 average gradients over the processes.
    for _ in range(10):
        for batch in micro_batches:
            total = torch.stack([loss_sum(model, sequence) for sequence in batch]).sum()
            size = sum(map(len, batch))
            (total / tokens if by_tokens else total / size / len(micro_batches)).backward()
        opt.step()
        opt.zero_grad()
    return model.weight.detach()


large = train([sequences], by_tokens=True)
for by_tokens in (True, False):
    weight = train([[sequence] for sequence in sequences], by_tokens)
    away = ((weight - large).abs().max() / large.abs().max()).item()
    print(f"{'sum over all tokens' if by_tokens else 'mean of the means  '}: {away:.1e} from the large batch")
