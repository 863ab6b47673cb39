"""Well-known training set-ups, re-expressed from their published hyperparameters, on a model with one of each part."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, MultiStepLR, SequentialLR, StepLR


def model():
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(16, 8),
            "layer": nn.Linear(8, 8),
            "norm": nn.LayerNorm(8),
            "head": nn.Linear(8, 16, bias=False),
        }
    )


def split(net, weight_decay):
    matrices = [p for p in net.parameters() if p.dim() > 1]
    rest = [p for p in net.parameters() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def warmup_then(warmup, total, shape, end=0.0, offset=1):
    """Return the factor of a linear warm-up and a fall to `end`, as in many training scripts."""

    def factor(k):
        if k < warmup:
            return (k + offset) / (warmup + offset)
        part = min((k - warmup) / (total - warmup), 1)
        return end + (1 - end) * shape(part)

    return factor


def half_cosine(part):
    return (1 + math.cos(math.pi * part)) / 2


def line(part):
    return 1 - part


@dataclass
class SetUp:
    """What `lint` is given."""

    model: Any
    optimizer: Any
    scheduler: Any
    total_steps: int
    options: dict = field(default_factory=dict)


def adamw(lr, decay, betas, lr_factor, total, **options):
    net = model()
    optimizer = torch.optim.AdamW(split(net, decay), lr=lr, betas=betas)
    return SetUp(net, optimizer, LambdaLR(optimizer, lr_factor), total, options)


def nanogpt():
    """Karpathy's train.py for GPT-2: AdamW 6e-4, 0.1, (0.9, 0.95), 2,000 of 600,000 steps, cosine to a tenth."""
    return adamw(6e-4, 0.1, (0.9, 0.95), warmup_then(2000, 600_000, half_cosine, 0.1), 600_000)


def gpt3():
    """Brown et al. 2020, 125 M: Adam 6e-4, (0.9, 0.95), decay 0.1; 375 M of 300 B tokens warm up, 260 B of cosine."""
    return adamw(6e-4, 0.1, (0.9, 0.95), warmup_then(750, 520_000, half_cosine, 0.1), 600_000)


def llama():
    """Touvron et al. 2023, 7 B: AdamW 3e-4, 0.1, (0.9, 0.95), 2,000 of 250,000 steps, cosine to a tenth."""
    return adamw(3e-4, 0.1, (0.9, 0.95), warmup_then(2000, 250_000, half_cosine, 0.1), 250_000)


def bert():
    """Devlin et al. 2018: Adam 1e-4 with decoupled decay 0.01, 10,000 of 1,000,000 steps, linear; starts at 0."""
    return adamw(1e-4, 0.01, (0.9, 0.999), warmup_then(10_000, 1_000_000, line, offset=0), 1_000_000)


def bert_fine_tuning():
    """The same, A.3 on MNLI: 2e-5, 3 epochs of 12,272 steps, a tenth of them warm-up, linear; starts at 0."""
    factor = warmup_then(3682, 36_816, line, offset=0)
    return adamw(2e-5, 0.01, (0.9, 0.999), factor, 36_816, from_scratch=False)


def roberta():
    """Liu et al. 2019, base: Adam 6e-4, 0.01, (0.9, 0.98), 24,000 of 500,000 steps, linear; starts at 0."""
    return adamw(6e-4, 0.01, (0.9, 0.98), warmup_then(24_000, 500_000, line, offset=0), 500_000)


def by_epoch(optimizer, net, warmup, epochs, per_epoch):
    parts = [LinearLR(optimizer, 0.01, total_iters=warmup), CosineAnnealingLR(optimizer, epochs - warmup)]
    scheduler = SequentialLR(optimizer, parts, milestones=[warmup])
    return SetUp(
        net, optimizer, scheduler, epochs * per_epoch, {"scheduler_per": "epoch", "steps_per_epoch": per_epoch}
    )


def deit():
    """Touvron et al. 2020, table 9: AdamW 1e-3 at batch 1,024, 0.05; 5 of 300 epochs of 1,251 steps, cosine."""
    net = model()
    return by_epoch(torch.optim.AdamW(split(net, 0.05), lr=1e-3), net, 5, 300, 1251)


def vit():
    """Dosovitskiy et al. 2020, ImageNet: Adam with decoupled decay 0.3 · 3e-3, 10,000 of 93,600 steps, cosine."""
    return adamw(3e-3, 0.3, (0.9, 0.999), warmup_then(10_000, 93_600, half_cosine), 93_600)


def mae():
    """He et al. 2021, pre-training: AdamW 2.4e-3 at batch 4,096, 0.05, (0.9, 0.95), 40 of 800 epochs, cosine."""
    net = model()
    return by_epoch(torch.optim.AdamW(split(net, 0.05), lr=2.4e-3, betas=(0.9, 0.95)), net, 40, 800, 312)


def swin():
    """Liu et al. 2021: AdamW 1e-3 at batch 1,024, 0.05, 20 of 300 epochs, cosine."""
    net = model()
    return by_epoch(torch.optim.AdamW(split(net, 0.05), lr=1e-3), net, 20, 300, 1251)


def sgd(scheduler, lr, decay, epochs, per_epoch, **options):
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=decay, **options)
    return SetUp(
        net,
        optimizer,
        scheduler(optimizer),
        epochs * per_epoch,
        {"scheduler_per": "epoch", "steps_per_epoch": per_epoch},
    )


def resnet50():
    """He et al. 2015, as torchvision's references/classification: SGD 0.1, 1e-4 on all, ×0.1 every 30 of 90 epochs."""
    return sgd(lambda opt: StepLR(opt, 30, 0.1), 0.1, 1e-4, 90, 5004)


def resnet_cifar():
    """He et al. 2015, CIFAR-10: SGD 0.1, 1e-4, ×0.1 after 82 and 123 of 164 epochs."""
    return sgd(lambda opt: MultiStepLR(opt, [82, 123], 0.1), 0.1, 1e-4, 164, 391)


def wide_resnet():
    """Zagoruyko and Komodakis 2016: SGD with Nesterov 0.1, 5e-4, ×0.2 after 60, 120 and 160 of 200 epochs."""
    return sgd(lambda opt: MultiStepLR(opt, [60, 120, 160], 0.2), 0.1, 5e-4, 200, 391, nesterov=True)


def mask_rcnn():
    """torchvision's references/detection: SGD 0.02, 1e-4, ×0.1 after 16 and 22 of 26 epochs."""
    return sgd(lambda opt: MultiStepLR(opt, [16, 22], 0.1), 0.02, 1e-4, 26, 7330)


def transformer():
    """Vaswani et al. 2017: Adam (0.9, 0.98), 4,000 warm-up steps, then one over the root; 100,000 steps, no decay."""
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=7e-4, betas=(0.9, 0.98), eps=1e-9)
    scheduler = LambdaLR(optimizer, lambda k: min((k + 1) / 4000, math.sqrt(4000 / (k + 1))))
    return SetUp(net, optimizer, scheduler, 100_000)


SETUPS = {
    f.__name__: f
    for f in (
        nanogpt,
        gpt3,
        llama,
        bert,
        bert_fine_tuning,
        roberta,
        deit,
        vit,
        mae,
        swin,
        resnet50,
        resnet_cifar,
        wide_resnet,
        mask_rcnn,
        transformer,
    )
}
