"""What a reader of a report can paste: the winner as Python code, and the command that repeats the study."""

import shlex
from typing import TYPE_CHECKING, Any

from fallline.lab.schedules import WARMUP
from fallline.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from fallline.lab.study import Study

_AFTER_WARMUP = "torch.optim.lr_scheduler.LambdaLR(opt, lambda k: min(1.0, (k + 1) / {warmup}) * after_warmup(k))"


def best_code(study: "Study") -> str:
    """Return the arm with the lowest mean of rank 1 as Python code for a `model`; empty when every arm failed."""
    best = study.leaderboard()[0]
    search = study.searches[best["arm"]]
    if search.best is None or best["failed"]:
        return ""
    arm, steps = search.arm, study.spec.steps
    options = arm.space.options(search.points[search.best])
    cls = OPTIMIZERS[arm.space.optimizer].__name__
    keywords = ", ".join(f"{key}={_round(value)!r}" for key, value in options.items())
    lines = ["import fallline as fl", "", f"opt = fl.{cls}(model.parameters(), {keywords})"]
    warmup = max(1, round(steps * WARMUP))
    if arm.schedule == "cosine":
        lines += [f"sched = fl.WarmupCosine(opt, warmup_steps={warmup}, total_steps={steps})"]
    else:
        drops = [round(steps * part) for part in (0.3, 0.6, 0.9)]
        shape = {"constant": "constant()", "step": f"step_decay(milestones={drops}, gamma=0.1)"}[arm.schedule]
        lines = ["import torch", *lines, f"after_warmup = fl.schedules.{shape}"]
        lines += [f"sched = {_AFTER_WARMUP.format(warmup=warmup)}"]
    return "\n".join([*lines, "# every step: opt.zero_grad(); loss.backward(); opt.step(); sched.step()", ""])


def command(study: "Study") -> str:
    """Return the command line that runs the study again, into a folder to be named."""
    spec = study.spec
    # An arm is called as it was asked for, with its schedule behind it where there are several.
    texts = [arm.name.removesuffix(" (again)").removesuffix(f" + {arm.schedule}") for arm in spec.arms]
    schedules = dict.fromkeys(arm.schedule for arm in spec.arms)
    words = ["fallline", "compare", spec.task, "--optimizers", ",".join(dict.fromkeys(texts))]
    words += ["--schedules", ",".join(schedules), "--trials", str(spec.trials), "--seeds", str(spec.seeds)]
    words += ["--steps", str(spec.steps), "--seed", str(spec.seed), "--baseline", study.baseline]
    words += ["--self-check"] if any(arm.twin for arm in spec.arms) else []
    words += ["--margin", f"{study.margin:g}"] if study.margin is not None else []
    return shlex.join([*words, "--out", "DIR"])


def _round(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_round, value))
    return float(f"{value:.6g}") if isinstance(value, float) else value
