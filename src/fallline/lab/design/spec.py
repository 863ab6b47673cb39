"""The specification of a study, which determines all of its results."""

import functools
import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fallline.arguments import check_integer, is_number
from fallline.errors import ArgumentError, ArgumentWarning, find_name, suggest
from fallline.lab.design.arms import Arm
from fallline.lab.design.description import described_task, factors_key, read_space
from fallline.lab.design.group_sequential import Seeds, check_seeds, looks_of
from fallline.lab.design.schedules import learning_rates
from fallline.lab.tasks import Task, get_task

EQUAL = ("grad-evals", "steps", "trials")


@dataclass(frozen=True)
class Spec:
    """The specification of a study, which determines all of its results.

    Attributes:
        task: name of the task.
        steps: optimizer steps per run; an arm whose steps cost more makes fewer, see `equal`. 0 if the user's training
            loop decides.
        arms: the arms to compare.
        trials: points of the Sobol sequence per arm and search, rounded to a power of two. The default
            configuration is run in addition.
        seeds: confirmation runs per arm; or the smallest and the largest number, in which case the study stops when
            every comparison is decided.
        seed: seed from which all other seeds are derived.
        settings: settings of the task that differ from their defaults.
        equal: what is the same for all arms besides the number of trials. "grad-evals": the number of gradients of
            single examples per run, so SAM makes half as many steps. "steps": the steps per run. "trials": nothing.
        horizon: length of the tuning runs as a fraction of the full length; each run has a complete schedule.
        searches: independent searches per arm, each with its own tuning seed.
        evaluations: number of points of a curve.
        device: device on which trials run.
        sources: hashes of the user's files on which each object that is named by its location depends; see `identify`.
        versions: versions of the packages that are part of the identity of a study.
        data: hash of the data, by `data_key`.
        described: the result of `describe`, if the study was read from disk; a report then needs no files of the user.
        landscape: whether the curvature is measured along the confirmation runs.
        resplit: whether every confirmation seed draws its own split of the data.
    """

    task: str
    steps: int
    arms: tuple[Arm, ...]
    trials: int = 16
    seeds: Seeds = 8
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    equal: str = "grad-evals"
    horizon: float = 1.0
    searches: int = 1
    evaluations: int = 20
    device: str = "cpu"
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    landscape: bool = False
    resplit: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    described: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.described:  # the specification was checked when the study started
            return
        get_task(self.task, **self.settings)
        check_integer("compare", "steps", self.steps, 0, "leave it out for the steps of the task")
        if (trials := check_integer("compare", "trials", self.trials, 1, "16 is usual")) & (trials - 1):
            nearest = 1 << round(math.log2(trials))
            object.__setattr__(self, "trials", nearest)
            warnings.warn(
                f"trials: {trials} was rounded to {nearest}; it must be a power of two, because a Sobol sequence is "
                "balanced only there",
                ArgumentWarning,
                stacklevel=3,
            )
        check_seeds(self.seeds)
        check_integer("compare", "searches", self.searches, 1, "pass 1")
        if self.equal not in EQUAL:
            raise ArgumentError(
                f"equal: must be one of {', '.join(EQUAL)}, got {self.equal!r}; grad-evals is the default"
            )
        if not is_number(self.horizon) or not 0 < self.horizon <= 1:
            raise ArgumentError(f"horizon: must be in (0, 1], got horizon={self.horizon!r}; 0.5 tunes at half length")
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) < len(names):
            raise ArgumentError(
                f"optimizers: each arm must be named once, got {', '.join(names) or 'none'}; remove the duplicates"
            )

        for arm in self.arms:
            get_task(self.task, **self.settings_of(arm))
            if (batch := self.settings_of(arm).get("batch_size", 1)) < 1:
                raise ArgumentError(
                    f"vary: batch_size must be at least 1, got batch_size={batch} in {arm.name}; leave it out"
                )
            if arm.steps is not None and self.equal != "trials":
                raise ArgumentError(
                    f"vary: steps may differ between arms only with equal='trials', got equal={self.equal!r}; pass "
                    "equal='trials'"
                )
            if (self.steps or not self.learning.own_loop) and (shortest := self.steps_of(arm, "tune")) < 20:
                raise ArgumentError(
                    f"steps: must be at least 20 in every run to give a curve, got {shortest} in the tuning of "
                    f"{arm.name} (steps={self.steps}, equal={self.equal}, horizon={self.horizon:g}); pass more steps"
                )

    def arm_name(self, text: str, argument: str = "arm") -> str:
        """Return the name of an arm that the user has written, regardless of case.

        Args:
            text: the name as written.
            argument: name of the argument, for the error message.

        Raises:
            ArgumentError: the study has no such arm.
        """
        names = [arm.name for arm in self.arms]
        found = text if text in names else find_name(str(text), names)
        if found is None:
            raise ArgumentError(
                f"{argument}: must be one of {', '.join(names)}, got {text!r}; "
                + suggest(text, names, f"try {names[0]!r}")
            )
        return found

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of confirmation seeds after which the study may stop; a single one if the number is fixed."""
        return looks_of(self.seeds)

    @property
    def learning(self) -> Task:
        """The task, with the settings that all arms share."""
        return self._task(self.settings)

    def task_of(self, arm: Arm) -> Task:
        """Return the task with the settings of an arm."""
        return self._task(self.settings_of(arm))

    def _task(self, settings: Mapping[str, Any]) -> Task:
        return described_task(self.described, settings) if self.described else get_task(self.task, **settings)

    def factors(self, schedule: str, steps: int, warmup: float) -> list[float]:
        """Return the learning rate factor of each step of a run; empty if its length is unknown."""
        if not steps:
            return []
        stored: dict[str, list[float]] = self.described.get("factors", {})
        return stored.get(factors_key(schedule, steps, warmup)) or learning_rates(schedule, steps, warmup)

    def settings_of(self, arm: Arm) -> dict[str, Any]:
        """Return the settings of the task in an arm."""
        return {**self.settings, **arm.settings}

    @functools.cached_property
    def _study_settings(self) -> tuple[str, ...]:
        return tuple(self.learning.study_settings)

    def trial_settings(self, arm: Arm) -> dict[str, Any]:
        """Return the settings of the task that a trial of an arm depends on."""
        return {name: value for name, value in self.settings_of(arm).items() if name not in self._study_settings}

    def data_key(self, arm: Arm) -> str:
        """Return the key of an arm in `data`: the settings of the task, which determine the data."""
        return json.dumps(self.settings_of(arm), sort_keys=True)

    def gradients_a_step(self, arm: Arm) -> float:
        """Return the number of gradients of single examples per step of the arm, relative to a plain step of the study.

        It depends on the backward passes per step, and on the batch size if the arms differ in it.
        """
        batch = self.settings_of(arm).get("batch_size", 1)
        usual = getattr(self.learning, "batch_size", 1) if "batch_size" in self.settings_of(arm) else 1
        return arm.space.passes * float(batch / usual)

    def steps_of(self, arm: Arm, stage: str) -> int:
        """Return the number of steps of the arm's runs in a stage."""
        full = self.steps if arm.steps is None else arm.steps
        if stage == "equal-steps":
            return full
        own = round(full / self.gradients_a_step(arm)) if self.equal == "grad-evals" else full
        return round(self.horizon * own) if stage == "tune" else own

    @property
    def question(self) -> "Spec":
        """The specification without the code, the versions and the data."""
        return replace(self, sources={}, versions={}, data={})

    def to_json(self) -> dict[str, Any]:
        """Return plain data from which `from_json` restores the specification."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(replace(self, described={}))))
        del data["described"]
        for arm in data["arms"]:
            del arm["known_space"]
        return data

    def digest(self) -> str:
        """Return a hash of the specification; it does not depend on the order of the arms, which affects no result."""
        data = self.to_json()
        data["arms"].sort(key=lambda arm: str(arm["name"]))
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:8]

    @staticmethod
    def from_json(data: Mapping[str, Any], described: Mapping[str, Any] | None = None) -> "Spec":
        """Return the specification from the data of `to_json`, and from the result of `describe` if it is available."""
        spaces = (described or {}).get("spaces", {})
        found = [spaces.get(arm["name"], spaces.get(arm["optimizer"])) for arm in data["arms"]]
        arms = (Arm(**arm, known_space=read_space(space)) for arm, space in zip(data["arms"], found, strict=True))
        seeds = tuple(data["seeds"]) if isinstance(data["seeds"], list) else data["seeds"]
        return Spec(**{**data, "arms": tuple(arms), "seeds": seeds, "described": described or {}})


def check_analysis(spec: Spec, baseline: str | None, margin: float | None) -> None:
    """Check the arguments that affect only the analysis of a study, not its trials.

    Raises:
        ArgumentError: `baseline` or `margin` is invalid.
    """
    if baseline is not None:
        spec.arm_name(baseline, "baseline")
    if margin is not None and (not is_number(margin) or not 0 < margin < 1):
        raise ArgumentError(f"margin: must be in (0, 1), got margin={margin!r}; 0.02 is 2 %")
