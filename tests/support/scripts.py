"""Training scripts of users, written without the lab in mind, and fast because they only pretend to train."""

import sys

# The best learning rate is 1e-3 for adamw and 3e-3 for lion; the seed adds noise.
PRETEND = """
import argparse, json, math, os, random, sys
parser = argparse.ArgumentParser()
parser.add_argument("--optimizer", default="adamw")
parser.add_argument("--lr", type=float, default=1e-3)
parser.add_argument("--weight-decay", type=float, default=0.01)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--rope", action="store_true")
parser.add_argument("--json", default="")
args = parser.parse_args()
random.seed(args.seed)
best = {"adamw": 1e-3, "lion": 3e-3, "sophia": 2e-3}[args.optimizer]
loss = 1 + math.log10(args.lr / best) ** 2 + 0.05 * random.random() + (0.5 if args.rope else 0)
loss += 0.001 * math.log2(args.batch_size) + 0.01 * (args.steps < 100)
for step in range(3):
    print(f"step {step} | val_loss: {loss + 3 - step:.6f}")
print(f"val_loss: {loss:.10f} | test_loss: {loss + 0.01:.10f}")
if args.json:
    os.makedirs(os.path.dirname(args.json), exist_ok=True)
    with open(args.json, "w") as file:
        json.dump({"val_loss": loss}, file)
"""

# The same with the five lines of fallline.trial.
TRIAL = """
import torch
import fallline as fl

def train(trial):
    torch.manual_seed(trial.stream("init"))
    model = torch.nn.Linear(4, 1)
    optimizer, scheduler = trial.optimizer(model, total_steps=40)
    generator = torch.Generator().manual_seed(trial.stream("data"))
    held_out = torch.Generator().manual_seed(7)
    inputs = torch.randn(64, 4, generator=held_out)
    for step in range(40):
        batch = torch.randn(16, 4, generator=generator)
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        trial.log(step + 1, train_loss=loss)
    with torch.no_grad():
        losses = (model(inputs) - inputs.sum(1, keepdim=True)).square()[:, 0]
    trial.result(val_loss=losses[:32].mean(), test_losses=losses[32:])

if __name__ == "__main__":
    train(fl.trial())
"""

# The same training as a task, as a function, and as a script.
THREE = """
import torch
import fallline as fl

@fl.task(steps=40, unit="nats")
class AsTask:
    def model(self):
        return torch.nn.Linear(4, 1)

    def batches(self, split, generator):
        while split == "train":
            yield torch.randn(16, 4, generator=generator)
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(7))
        yield inputs[:32] if split == "val" else inputs[32:]

    def loss(self, model, batch):
        return self.losses(model, batch).mean()

    def losses(self, model, batch):
        return (model(batch) - batch.sum(1, keepdim=True)).square()[:, 0]

@fl.task(steps=40)
def as_function(trial):
    torch.manual_seed(trial.stream("init"))
    task = AsTask()
    model = task.model()
    optimizer, scheduler = trial.optimizer(model)
    batches = task.batches("train", torch.Generator().manual_seed(trial.stream("data")))
    for _ in range(trial.steps):
        loss = task.loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        found = {split: task.losses(model, next(task.batches(split, None))) for split in ("val", "test")}
    trial.result(val_loss=found["val"].mean(), test_loss=found["test"].mean(), test_losses=found["test"])

if __name__ == "__main__":
    as_function(fl.trial())
"""


def write_script(folder, text=PRETEND, name="train.py"):
    """Write a script, and return the beginning of a command that runs it."""
    (folder / name).write_text(text, encoding="utf-8")
    return f"{sys.executable} {folder / name}"
