"""Evaluate a model over a split: the mean of each metric and, if the task provides them, the values per item."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fallline.lab.design.outcome import ITEM, LEAST_ITEMS
from fallline.lab.run.device import batch_loss, precision, to_device
from fallline.lab.tasks import Task
from fallline.landscape.loss.batches import as_bytes, examples, leaves


def evaluate(task: Task, model: torch.nn.Module, split: str, device: str = "cpu") -> dict[str, float]:
    """Return the loss and other metrics over a split in eval mode, averaged over items; keys are like `val_loss`."""
    return _evaluate(task, model, split, device, None)[0]


def evaluate_items(
    task: Task, model: torch.nn.Module, split: str, metric: str, device: str = "cpu"
) -> tuple[dict[str, float], np.ndarray | None, str]:
    """Return the metrics over a split, and the values of one metric per item.

    Args:
        task, model, split, device: see `evaluate`.
        metric: key of the metric without its split, for example "loss".

    Returns:
        The metrics; the items, an array (n,) of dtype ITEM whose mean "metric" is the metric over the split; and the
        kind of item: "example" for a task with `losses`, "batch" for the means of at least LEAST_ITEMS batches. The
        items are None if the task has no `losses` and there are fewer batches.
    """
    parts: list[tuple[int, np.ndarray | None, float]] = []
    batches: list[list[bytes]] = []

    def visit(batch: Any, size: int, found: Mapping[str, float]) -> None:
        parts.append(_part(task, model, metric, batch, size, found))
        batches.append(examples(batch) or [b"|".join(map(as_bytes, leaves(batch)))])

    metrics, total = _evaluate(task, model, split, device, visit)
    kind = "batch" if any(values is None for _, values, _ in parts) else "example"
    rows = [(size, np.array([mean]) if values is None or kind == "batch" else values) for size, values, mean in parts]
    count = sum(len(values) for _, values in rows)
    if kind == "batch" and count < LEAST_ITEMS:
        return metrics, None, kind
    # Weight items by the size of their batch (`size`), as the metric over the split does.
    weighted = [values * (size / len(values)) * (count / total) for size, values in rows]
    items = np.empty(count, ITEM)
    items["metric"] = np.concatenate(weighted)
    items["example"] = np.concatenate(
        [_hashes(contents, len(values)) for contents, (_, values) in zip(batches, rows, strict=True)]
    )
    return metrics, items, kind


def _hashes(contents: list[bytes], items: int) -> np.ndarray:
    """Return the content hash of every item of a batch, (items,); 0 if rows do not divide evenly among the items."""
    if len(contents) % items:
        return np.zeros(items, np.uint64)
    each = len(contents) // items
    joined = (b"|".join(contents[each * i : each * (i + 1)]) for i in range(items))
    digests = (hashlib.blake2b(content, digest_size=8).digest() for content in joined)
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)


def _part(
    task: Task, model: torch.nn.Module, metric: str, batch: Any, size: int, found: Mapping[str, float]
) -> tuple[int, np.ndarray | None, float]:
    """Return the size of a batch, the metric of each of its items (None if unknown), and their mean."""
    losses = task.losses(model, batch)
    if isinstance(losses, torch.Tensor):
        losses = {"loss": losses}
    values = losses.get(metric) if losses is not None else None
    return size, None if values is None else values.detach().double().cpu().numpy().reshape(-1), found[metric]


def _evaluate(task: Task, model: torch.nn.Module, split: str, device: str, visit: Any) -> tuple[dict[str, float], int]:
    """Return the means of all metrics over a split and its size; call `visit(batch, size, metrics)` for each batch."""
    model.eval()
    sums: dict[str, float] = {}
    items = 0
    with torch.no_grad():
        for part in task.batches(split, torch.Generator()):
            batch = to_device(part, device)
            size = task.size(batch)
            items += size
            with precision(task, device):
                found = task.evaluate(model, batch)  # may include the loss, from the same forward pass
                if "loss" not in found:
                    found = {"loss": batch_loss(task, model, batch).item(), **found}
                if visit is not None:
                    visit(batch, size, found)
            for key, value in found.items():
                sums[f"{split}_{key}"] = sums.get(f"{split}_{key}", 0.0) + size * value
    model.train()
    return {key: value / items for key, value in sums.items()}, items
