"""The specification of one training run."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fallline.lab.design.schedules import WARMUP


@dataclass(frozen=True)
class Trial:
    """Everything that decides the numbers of one run.

    Attributes:
        stage: "tune"; or "confirm" and "equal-steps", which alone see the test split.
        arm: name in the report.
        optimizer: as `build_optimizer` takes it.
        index: number of the configuration within its arm and search; 0 is the documented default.
        seed: from which initialisation, data order and dropout each get a stream of their own.
        options: constructor keywords of the optimizer.
        warmup: part of the steps in which the learning rate rises.
        settings: the task's settings that are not at their defaults.
        evaluations: points of the curve.
        device: where it runs.
        sources: hashes of the user's files that it depends on, by their paths.
        landscape: whether the curvature is measured on the way.
        split: seed of the split of the data, for a task that splits them itself; None for the split of tuning.
        counts_gradients: whether `steps` are evaluations of the gradient, as many as other arms make, and not steps of
            the optimizer, which take several each.
        versions: of the packages of which another version makes it another trial.
        data: the hash of the data.
    """

    stage: str
    task: str
    arm: str
    optimizer: str
    schedule: str
    steps: int
    index: int
    seed: int
    options: Mapping[str, Any]
    warmup: float = WARMUP
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluations: int = 20
    device: str = "cpu"
    sources: Mapping[str, str] = field(default_factory=dict)
    landscape: bool = False
    split: int | None = None
    counts_gradients: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    data: str = ""

    @functools.cached_property  # a report asks for it 100,000 times
    def id(self) -> str:
        """The hash of the specification; the name of the trial's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
