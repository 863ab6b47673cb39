"""Compare states of 8 bits and split weights with float32, by the test loss on three tasks of the lab.

python examples/few_bytes.py [TASK ...]     (needs the extra `lab`; 40 minutes on two cores)

All arms of an optimizer have the same learning rate, rounded from what docs/studies/survey found for float32, and
multiply matrices in bfloat16 (autocast), whatever the dtype of the weights is. Runs are paired by seed. A study stops
at 8 or 12 seeds if every comparison is decided by then, and at 16 otherwise. The folder runs/few-bytes keeps the
studies, so that the command resumes what was interrupted.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import fallline as fl

RATES = {
    "text": {"AdamW": 0.006, "Lion": 0.002, "SGD": 0.1, "AdEMAMix": 0.006},
    "digits-autoencoder": {"AdamW": 0.006, "Lion": 0.002, "SGD": 0.025, "AdEMAMix": 0.006},
    "digits-diffusion": {"AdamW": 0.015, "Lion": 0.002, "SGD": 1.0, "AdEMAMix": 0.015},
}
OPTIONS = {"SGD": {"momentum": 0.9}}
STORAGES: dict[str, dict[str, Any]] = {
    "Float32": {},
    "Int8": {"state_dtype": "int8"},
    "Split24": {"master_weights": "split24"},
    "Split24Int8": {"master_weights": "split24", "state_dtype": "int8"},
}
FOLDER = Path("runs", "few-bytes")


def in_bfloat16(params: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Convert the parameters of a model to bfloat16, and return them."""
    converted = list(params)
    for param in converted:
        param.data = param.data.bfloat16()
    return converted


def stored(name: str, storage: str) -> type[torch.optim.Optimizer]:
    """Return a subclass of an optimizer with the options of a storage, for arms of the lab."""
    cls, options = getattr(fl, name), {**OPTIONS.get(name, {}), **STORAGES[storage]}

    def construct(self: Any, params: Any, lr: float) -> None:
        cls.__init__(self, in_bfloat16(params) if "master_weights" in options else params, lr=lr, **options)

    return type(f"{name}{storage}", (cls,), {"__init__": construct, "__module__": __name__})


for _name in RATES["text"]:
    globals().update({f"{_name}{_storage}": stored(_name, _storage) for _storage in STORAGES})


def compare(task: str, name: str) -> Iterable[str]:
    """Run the study of an optimizer on a task, and yield its rows of the table."""
    arms = {storage: f"{Path(__file__)}:{name}{storage}@lr={RATES[task][name]:g}" for storage in STORAGES}
    study = fl.compare(
        task,
        list(arms.values()),
        settings={"precision": "bfloat16"},
        trials=1,
        seeds=(8, 16),
        margin=0.005,
        out=FOLDER / f"{task}-{name}",
        jobs=2,
    )
    for storage, arm in arms.items():
        result = study.results.get(arm)
        if result is None:
            continue  # the baseline
        if result.comparison is None:
            yield f"| {task} | {name} | {storage} | – | – | – | {result.verdict} |"
            continue
        low, change, high = map(
            result.comparison.percent, (result.comparison.low, result.comparison.difference, result.comparison.high)
        )
        text = f"{change:+.2f} % | {low:+.2f} to {high:+.2f} %".replace("-", "−")
        yield f"| {task} | {name} | {storage} | {text} | {result.comparison.n} | {result.verdict} |"


def main(tasks: Iterable[str]) -> None:
    """Print the table, row by row."""
    print("| task | optimizer | storage | test loss | interval | seeds | verdict at 0.5 % |")
    print("|---|---|---|--:|--:|--:|---|")
    for task in tasks:
        for name in RATES[task]:
            for row in compare(task, name):
                print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or RATES)
