"""Text for copy and paste: the command that reproduces the study, and the best arm as Python code."""

import inspect
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fallline.lab.analysis.results import StudyResults
from fallline.lab.command import Command
from fallline.lab.design.arms import Arm
from fallline.lab.design.group_sequential import seeds_text
from fallline.lab.design.optimizers import split_wrapper
from fallline.lab.design.own_arms import fill_values
from fallline.lab.design.param_groups import scale_groups
from fallline.lab.design.schedules import DROPS, STABLE, WARMUP, warmup_steps
from fallline.lab.report.document import Block, Code, Section, Text, Topic
from fallline.lab.report.topics.leaderboard import leaders
from fallline.lab.search.selection import Search
from fallline.lab.user_code.import_path import is_path
from fallline.optimizers import OPTIMIZERS

_LAMBDA = "torch.optim.lr_scheduler.LambdaLR(opt, {factor})"
_WARMED = "lambda k: min(1.0, (k + 1) / {ramp}) * after_warmup(k)"  # for schedules that do not include a warm-up
_PLAIN = "# every step: opt.zero_grad(); loss.backward(); opt.step(); sched.step()"
_CLOSURE = (
    "# every step: opt.step(closure); sched.step(), where closure() is opt.zero_grad(); loss.backward(); return loss"
)


def reproduce(study: StudyResults) -> Section:
    """Return the section with the command that reproduces the study, and the versions and hardware of the study."""
    manifest = study.manifest
    versions = " · ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    system = manifest["platform"].partition("-")[0]
    where = f"{system} · {manifest['processor']} · {manifest['cores']} cores, {manifest['threads']} thread per trial"
    blocks: list[Block] = [
        Code(command(study)),
        Text(
            f"{versions} · {where}. The command gives the same numbers with the same versions and processor, for any "
            "number of workers. The files results.csv and costs.csv in the folder of the study contain the numbers of "
            "every run.",
            note=True,
        ),
    ]
    return Section("Reproduce", blocks)


def command(study: StudyResults) -> str:
    """Return the command line that reproduces the study; DIR stands for the new folder."""
    spec = study.spec
    schedules = dict.fromkeys(arm.schedule for arm in spec.arms)
    # The name of an arm is the user's text; if there are several schedules or varied values, these are appended.
    texts = [_user_text(arm) for arm in spec.arms]
    settings = dict(spec.settings)
    own = _own_words(settings) if spec.learning.own_loop else []
    words = ["fallline", "compare", *([] if "--command" in own else [spec.task]), *own]
    words += ["--optimizers", ",".join(dict.fromkeys(texts))]
    words += ["--schedules", ",".join(schedules), "--trials", str(spec.trials), "--seeds", seeds_text(spec.seeds)]
    words += ["--steps", str(spec.steps)] if spec.steps else []
    words += ["--seed", str(spec.seed), "--baseline", study.baseline]
    for name, values in ({} if own else _varied(spec.arms)).items():
        words += ["--vary", f"{name}={','.join(values)}"]
    for name, value in settings.items():
        words += ["--set", f"{name}={value}"]
    usual = {"searches": 1, "equal": "grad-evals" if spec.steps else "trials", "horizon": 1.0, "device": "cpu"}
    for name, value in usual.items():
        words += [f"--{name}", str(getattr(spec, name))] if getattr(spec, name) != value else []
    words += ["--landscape"] if spec.landscape else []
    words += ["--self-check"] if any(arm.twin for arm in spec.arms) else []
    words += ["--margin", f"{study.margin:g}"] if study.margin is not None else []
    return shlex.join([*words, "--out", "DIR"])


def _own_words(settings: dict[str, Any]) -> list[str]:
    """Return the options of a training loop of the user, and remove them from the settings."""
    names = {"command": "command", "metric_name": "metric", "goal": "mode", "search": "search", "skip": "skip-checks"}
    names |= {"test_metric": "test-metric", "metric_regex": "metric-regex", "metric_file": "metric-file"}
    names |= {"timeout": "trial-timeout", "inputs": "inputs"}
    return [
        word
        for name, option in names.items()
        if (value := settings.pop(name, None)) not in (None, "")
        for word in (f"--{option}", str(value))
    ]


def _user_text(arm: Arm) -> str:
    """Return the optimizer as the user named it: the name of the arm without varied values, schedule or twin mark."""
    return arm.name.partition(" (again)")[0].partition(", ")[0].removesuffix(f" + {arm.schedule}")


def _varied(arms: tuple[Arm, ...]) -> dict[str, list[str]]:
    """Return the values of the varied settings of the arms, by name and in their order."""
    found: dict[str, dict[str, None]] = {}
    for arm in arms:
        values = {**arm.fixed, **arm.settings, "steps": arm.steps}
        for part in arm.name.partition(" (again)")[0].split(", ")[1:]:
            name = part.partition("=")[0]
            found.setdefault(name, {})[str(values[name])] = None
    return {name: list(values) for name, values in found.items()}


def best_code(study: StudyResults) -> str:
    """Return the arm with the best mean of rank 1 as Python code for a `model`; empty if every arm failed.

    If the user's training loop is a command, it is the command with the values filled in.
    """
    best = study.leaderboard()[0]
    search = study.searches[best["arm"]]
    if search.best is None or best["failed"]:
        return ""
    if study.spec.learning.own_loop:
        return _own_code(study, search)
    arm, point = search.arm, search.points[search.best]
    options = arm.space.options(point)
    groups = _groups(study, arm, options)
    imports, optimizer, step = _optimizer(arm, options, "groups" if groups else "model.parameters()")
    steps = study.spec.steps_of(arm, "confirm")
    more, schedule = _schedule(arm.schedule, steps, warmup_steps(steps, point.get("warmup", WARMUP)))
    first = sorted({"import fallline as fl", *imports, *more}, key=lambda line: (line.startswith("from"), line))
    return "\n".join([*first, "", *groups, *optimizer, *schedule, step, ""])


def _own_code(study: StudyResults, search: Search) -> str:
    """Return the command of an arm with its best values, or the call of `fallline.trial` with these values."""
    trial = (study.confirmation_trials(search.arm.name) or study.tuning_trials(search.arm.name))[0]
    text = study.spec.settings_of(search.arm).get("command", "")
    options = {name: _round(value) for name, value in trial.options.items()}
    if text and {*Command(text).placeholders} - {"seed", "steps", "trial", "arm", "device"}:
        spelling = study.spec.settings_of(search.arm).get("spelling", "")
        filled = fill_values(replace(trial, options=options), spelling) | {"seed": "SEED", "trial": "NAME"}
        return shlex.join(Command(text).fill(filled))
    values = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return (
        "# in the training script, for runs outside a study\n"
        f"trial = fl.trial({trial.optimizer!r}, {trial.schedule!r}, warmup={_round(trial.warmup)!r}, {values})\n"
    )


def _groups(study: StudyResults, arm: Arm, options: Mapping[str, Any]) -> list[str]:
    """Return the lines that build the parameter `groups` of the task with the values of a trial; empty without any."""
    stored: list[dict[str, Any]] = study.manifest.get("groups", [])
    values = [{key: value for key, value in group.items() if key != "own"} for group in stored]
    scaled = [_rounded(group) for group in scale_groups(values, options, arm.space.defaults)]
    if not stored:
        return []
    return [
        f"# task: an instance of the task class that the study calls {study.spec.task}; it defines these groups",
        "groups = list(task.param_groups(model))",
        f"for group, own in zip(groups, {scaled!r}):",
        "    group.update(own)",
    ]


def _rounded(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _round(value) for key, value in group.items()}


def _optimizer(arm: Arm, options: dict[str, Any], params: str) -> tuple[list[str], list[str], str]:
    """Return the imports, the lines that build the optimizer `opt`, and a comment that describes a step."""
    wrapper, inner = split_wrapper(arm.space.optimizer)
    imports, cls = _named(inner, "torch.optim") if is_path(inner) else ([], f"fl.{OPTIMIZERS[inner].__name__}")
    rho = options.pop("rho", None) if wrapper else None
    keywords = ", ".join(f"{key}={_round(value)!r}" for key, value in options.items())
    if not is_path(inner) and "model" in inspect.signature(OPTIMIZERS[inner]).parameters:
        keywords += ", model=model"  # whose modules decide about each parameter
    made = f"{cls}({params}, {keywords})"
    if not wrapper:
        return imports, [f"opt = {made}"], _PLAIN
    adaptive = ", adaptive=True" if wrapper == "asam" else ""
    return imports, [f"base = {made}", f"opt = fl.SAM(base, rho={_round(rho)!r}{adaptive}, model=model)"], _CLOSURE


def _schedule(name: str, steps: int, ramp: int) -> tuple[list[str], list[str]]:
    """Return the imports, and the lines that build the schedule `sched`."""
    if name == "cosine":
        return [], [f"sched = fl.WarmupCosine(opt, warmup_steps={ramp}, total_steps={steps})"]
    if is_path(name):
        imports, function = _named(name, "torch")
        return ["import torch", *imports], [f"sched = {_LAMBDA.format(factor=f'{function}({steps}, {ramp})')}"]
    drops, decay = [round(steps * part) for part in DROPS], round(STABLE * steps)
    shape = {
        "constant": "constant()",
        "step": f"step_decay(milestones={drops}, gamma=0.1)",
        "linear": f"linear({steps}, warmup_steps={ramp})",
        "wsd": f"warmup_stable_decay({ramp}, {steps - ramp - decay}, {decay})",
        "inverse_sqrt": f"inverse_sqrt({max(ramp, 1)})",
    }[name]
    if name in ("constant", "step") and ramp > 1:
        factor = _LAMBDA.format(factor=_WARMED.format(ramp=ramp))
        return ["import torch"], [f"after_warmup = fl.schedules.{shape}", f"sched = {factor}"]
    return ["import torch"], [f"sched = {_LAMBDA.format(factor=f'fl.schedules.{shape}')}"]


def _named(place: str, whole: str) -> tuple[list[str], str]:
    """Return the imports for FILE.py:NAME or package.module:NAME, and the name of the object after these imports.

    Args:
        place: path of the object.
        whole: a module of torch; its objects keep their full name.
    """
    module, _, name = place.rpartition(":")
    if module == whole:
        return ["import torch"], f"{module}.{name}"
    module = Path(module).stem if module.endswith(".py") else module
    return [f"from {module} import {name.partition('.')[0]}"], name


def _round(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_round, value))
    return float(f"{value:.6g}") if isinstance(value, float) else value


def best_arm(study: StudyResults) -> Section | None:
    """Return the section with the code of the arm with the best mean; None if no arm finished."""
    code = best_code(study)
    if not code:
        return None
    first = [row["arm"] for row in leaders(study) if row["finished"] and row["rank"] == 1]
    best = study.leaderboard()[0]["arm"]
    shared = " It shares rank 1, so the study does not show that it is better than the other arms there."
    length = f"{study.spec.steps} steps of this task" if study.spec.steps else "this training loop"
    tuned = f"It was tuned for {length}; tune again for other tasks or other lengths."
    note = f"This is {best}.{shared if len(first) > 1 else ''} {tuned}"
    what = "Python code" if code.lstrip().startswith(("import", "from", "#")) else "Command"
    title = f"{what} for the {'winner' if len(first) == 1 else 'arm with the best mean'}"
    return Section(title, [Code(code), Text(note, note=True)])


TOPIC = Topic(reproduce)
