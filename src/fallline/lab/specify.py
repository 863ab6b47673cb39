"""Build the specification of a study from the arguments of `compare`, and check it before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fallline.arguments import check_integer
from fallline.errors import ArgumentTypeError
from fallline.lab.contract.contract import Examination
from fallline.lab.contract.preflight import RUNS, check_arms, count_evaluations, examine_task
from fallline.lab.design.arms import Arm, make_arms
from fallline.lab.design.spec import Spec, check_analysis
from fallline.lab.own_study import examine_own, loop_settings, specify_own
from fallline.lab.provenance.identity import import_edited_anew, places
from fallline.lab.run.device import check_device, resolve_precision
from fallline.lab.run.live_trial import LiveTrial
from fallline.lab.search.trials import check_schedules
from fallline.lab.tasks import Task, open_task
from fallline.lab.tasks.custom import name_of
from fallline.lab.tasks.own_loop import CommandTask, OwnLoop
from fallline.lab.user_code.import_path import folder_name
from fallline.lab.user_code.sources import imports_for, sources_of

TWIN = " (again)"


def specify(
    task: str | type[Task] | Callable[[LiveTrial], Any],
    optimizers: Sequence[str],
    schedules: Sequence[str],
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    loop: Mapping[str, Any] | None = None,
    variants: Mapping[str, str] | None = None,
    self_check: bool = False,
    steps: int | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    examined: bool = False,
    **options: Any,
) -> Spec:
    """Return the specification of a study.

    The arguments are those of `compare`; `options` are passed to `Spec`. The contract of the task is checked before
    anything else calls its methods, except when `examined` is True. `loop` holds the arguments of a training loop of
    the user, see `loop_settings`; if it has a command, `task` is ignored. `variants` are arms with their own command.

    Raises:
        ArgumentError: an argument is invalid.
        StudyError: the task breaks its contract.
    """
    for name, value in (("vary", vary), ("settings", settings)):
        if value is not None and not isinstance(value, Mapping):
            raise ArgumentTypeError(f"{name}: must be a dict by name, got {value!r}; for example {{'batch_size': …}}")
    for name, values in (vary or {}).items():
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ArgumentTypeError(f"vary: values of {name} must be a list, got {values!r}; pass [{values!r}]")
    if steps is not None:
        steps = check_integer("compare", "steps", steps, 0, "leave it out for the steps of the task")
    task = CommandTask.name if (loop or {}).get("command") else name_of(task)
    if task != CommandTask.name:  # a command may use another installation of PyTorch
        check_device(device)
    import_edited_anew()
    with imports_for(task):
        given = {**(settings or {}), **loop_settings(task, loop or {})}
        learning = open_task(task, **given)
        if isinstance(learning, OwnLoop):
            options |= {"vary": vary, "variants": variants, "steps": steps, "device": device}
            spec = specify_own(task, learning, optimizers, schedules, given, **options)
            if self_check:
                spec = replace(spec, arms=_with_twin(spec.arms))
            return _complete(spec, baseline, margin, None if examined else Path(out or default_folder(spec)))
        if learning.settings.get("precision") == "auto" and "precision" not in (vary or {}):
            given = {"precision": "auto", **given}
        given = {name: resolve_precision(name, value, device) for name, value in given.items()}
        vary = {name: [resolve_precision(name, v, device) for v in values] for name, values in (vary or {}).items()}
        learning = open_task(task, **given)
        arms = make_arms(optimizers, schedules, vary, learning.settings)
        found = Examination([]) if examined else examine_task(task, learning, given, Path(out) if out else None)
        if not examined:
            check_arms(task, given, arms)
        steps = learning.steps if steps is None else steps
        evaluations = count_evaluations(learning, steps, found.val_items)
    if self_check:
        arms = _with_twin(arms)
    spec = Spec(
        task,
        steps,
        arms,
        settings=given,
        evaluations=evaluations,
        device=device,
        resplit=learning.resplit,
        **options,
    )
    return _complete(spec, baseline, margin, None)


def _with_twin(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Return the first arm under two names, with disjoint seeds."""
    return (arms[0], replace(arms[0], name=arms[0].name + TWIN, twin=True))


def _complete(spec: Spec, baseline: str | None, margin: float | None, folder: Path | None) -> Spec:
    """Check a specification and add the user's files; check a training loop of the user if a folder is given."""
    if spec.steps:
        check_schedules(spec)
    check_analysis(spec, baseline, margin)
    if folder is not None:
        examine_own(spec, folder)
    return replace(spec, sources={place: sources_of(place) for place in places(spec)})


def default_folder(spec: Spec) -> Path:
    """Return the folder of a study for which the user has named none; it does not change when code is edited."""
    return RUNS / f"{folder_name(spec.task)}-{spec.question.digest()}"
