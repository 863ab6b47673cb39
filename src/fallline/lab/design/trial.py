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
    """The specification of one training run, which determines its outcome.

    Attributes:
        stage: "tune", "confirm" or "equal-steps"; runs of the last two are evaluated on the test split.
        task: name of the task.
        arm: name of the arm in the report.
        optimizer: name of the optimizer for `build_optimizer`.
        schedule: name of the schedule.
        steps: length of the run; see `counts_gradients`.
        index: number of the configuration within its arm and search; 0 is the documented default.
        seed: seed from which the separate random streams of initialization, data order and dropout are derived.
        options: constructor keywords of the optimizer.
        warmup: fraction of the steps in which the learning rate rises.
        settings: settings of the task that differ from their defaults.
        evaluations: number of points of the curve.
        device: device on which the trial runs.
        sources: hashes of the user's files on which the trial depends, by path.
        landscape: whether the curvature is measured during the run.
        split: seed of the split of the data, for a task that splits its data itself; None for the split of tuning.
        counts_gradients: whether `steps` counts evaluations of the gradient, as many as other arms make, instead of
            steps of the optimizer, each of which takes several evaluations.
        versions: versions of the packages that are part of the identity of a trial.
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

    @functools.cached_property  # a report reads it 100,000 times
    def id(self) -> str:
        """The hash of the specification; the name of the trial's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
