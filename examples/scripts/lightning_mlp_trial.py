"""Train a small network with Lightning.  python lightning_mlp.py [--optimizer adamw --lr 1e-2]."""

import argparse

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fallline as fl

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}

parser = argparse.ArgumentParser()
parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
parser.add_argument("--lr", type=float, default=1e-2)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

trial = fl.trial(args.optimizer, lr=args.lr, seed=args.seed)
L.seed_everything(trial.seed)


class MLP(L.LightningModule):
    """A network with one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        return nn.functional.mse_loss(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        """Log the loss of a batch."""
        self.log("val_loss", nn.functional.mse_loss(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return fl.integrations.lightning.build_optimizers(trial, self)


inputs = torch.randn(640, 16, generator=torch.Generator().manual_seed(1))
data = TensorDataset(inputs, inputs.sin().sum(1, keepdim=True))
train = DataLoader(torch.utils.data.Subset(data, range(512)), batch_size=32, shuffle=True)
val = DataLoader(torch.utils.data.Subset(data, range(512, 640)), batch_size=128)

trainer = L.Trainer(
    max_epochs=args.epochs,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    callbacks=[fl.integrations.lightning.TrialCallback(trial)],
)
module = MLP()
trainer.fit(module, train, val)
trainer.validate(module, val)
