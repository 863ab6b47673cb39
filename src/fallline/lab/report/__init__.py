"""The report of a study: one HTML file that opens from disk without a network."""

import functools
import json
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import vl_convert

from fallline.errors import StudyError
from fallline.lab.report import charts
from fallline.lab.schedules import WARMUP
from fallline.lab.spaces import SPACES
from fallline.lab.store import read_study, write_atomically
from fallline.lab.tasks import get_task
from fallline.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from fallline.lab.plan import Arm
    from fallline.lab.study import Study


def write_report(study: "Study", path: Path) -> Path:
    """Write the report of a finished study and return its path.

    Raises:
        StudyError: the file cannot be written.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = lambda value: f"{value:.2%}"
    template = environment.from_string((files("fallline.lab.report") / "page.html.j2").read_text())
    text = template.render(**_content(study))
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StudyError(
            f"report: the file must be writable, got {str(path)!r} ({error.strerror}); pass another path"
        ) from None
    return path


def best_code(study: "Study") -> str:
    """Return the arm of the first rank as Python code to paste; empty when every arm failed."""
    best = study.leaderboard()[0]["arm"]
    search = study.searches[best]
    if search.best is None:
        return ""
    arm: Arm = search.arm
    options = arm.space.options(search.points[search.best])
    cls = OPTIMIZERS[arm.space.optimizer].__name__
    keywords = ", ".join(f"{key}={_round(value)!r}" for key, value in options.items())
    steps, warmup = study.spec.steps, round(study.spec.steps * WARMUP)
    drops = [round(steps * part) for part in (0.3, 0.6, 0.9)]
    schedule = {
        "cosine": f"fl.WarmupCosine(opt, warmup_steps={warmup}, total_steps={steps})",
        "step": f"fl.StepDecay(opt, milestones={drops}, gamma=0.1)  # the lab also warmed up over {warmup} steps",
        "constant": f"fl.Constant(opt)  # the lab also warmed up over {warmup} steps",
    }[arm.schedule]
    return f"import fallline as fl\n\nopt = fl.{cls}(model.parameters(), {keywords})\nsched = {schedule}\n"


def _round(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(map(_round, value))
    return float(f"{value:.4g}") if isinstance(value, float) else value


@functools.cache
def _javascript() -> str:
    """Return Vega, Vega-Lite and vega-embed in one script that sets `window.vegaEmbed`."""
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return script.replace("</script", "<\\/script")


def _content(study: "Study") -> dict[str, Any]:
    manifest = read_study(study.store.folder)["manifest"]
    leaders = study.leaderboard()
    trials = study.trials
    outcomes = [study.outcome(trial) for trial in trials]
    figures = {
        "learning-rates": charts.learning_rates(study),
        "curves": charts.curves(study),
        "strip": charts.strip(study),
        "differences": charts.differences(study),
    }
    return {
        "study": study,
        "spec": study.spec,
        "task": get_task(study.spec.task),
        "leaders": leaders,
        "headline": _headline(study, leaders),
        "warnings": study.warnings(),
        "hyperparameters": [_hyperparameters(study, arm) for arm in study.arms],
        "costs": study.costs(),
        "trials": len(trials),
        "failures": sum(o.failure is not None for o in outcomes),
        "figures": {name: _json(chart.to_dict()) for name, chart in figures.items()},
        "colours": {arm: charts.COLOURS[i % len(charts.COLOURS)] for i, arm in enumerate(study.arms)},
        "code": best_code(study),
        "manifest": manifest,
        "command": _command(study),
        "javascript": _javascript(),
    }


def _json(chart: Mapping[str, Any]) -> str:
    # Inside <script>, "</" could end the element, whatever the JSON says.
    return json.dumps(chart).replace("</", "<\\/")


def _headline(study: "Study", leaders: list[dict[str, Any]]) -> str:
    first = [row["arm"] for row in leaders if row["rank"] == 1 and row["failed"] == 0]
    if not first:
        return "No arm finished all of its confirmation runs"
    if len(first) == 1:
        return f"{first[0]} is the best of {len(leaders)}" if len(leaders) > 1 else first[0]
    return f"{', '.join(first[:-1])} and {first[-1]} cannot be told apart at this budget"


def _hyperparameters(study: "Study", arm: str) -> dict[str, Any]:
    search = study.searches[arm]
    searched = {d.name: d for d in search.ranges}
    point = search.points[search.best] if search.best is not None else {}
    rows = []
    for name in SPACES[search.arm.optimizer].defaults:
        if name in searched:
            low, high = sorted((searched[name].value(0.0), searched[name].value(1.0)))
            how = f"searched from {low:.3g} to {high:.3g}"
        else:
            how = "fixed by the user" if name in search.arm.fixed else "fixed at its default"
        value = f"{point[name]:.4g}" if name in point else "–"
        rows.append({"name": name, "value": value, "how": how})
    return {"arm": arm, "rows": rows, "interior": search.best is not None and search.edge is None}


def _command(study: "Study") -> str:
    spec = study.spec
    optimizers = dict.fromkeys(arm.name.partition(" + ")[0].removesuffix(" (again)") for arm in spec.arms)
    schedules = dict.fromkeys(arm.schedule for arm in spec.arms)
    words = ["fallline", "compare", spec.task, "--optimizers", ",".join(optimizers), "--schedules", ",".join(schedules)]
    words += ["--trials", str(spec.trials), "--seeds", str(spec.seeds), "--steps", str(spec.steps)]
    words += ["--seed", str(spec.seed), "--baseline", study.baseline]
    words += ["--self-check"] if any(arm.twin for arm in spec.arms) else []
    words += ["--margin", f"{study.margin:g}"] if study.margin is not None else []
    return shlex.join([*words, "--out", "DIR"])
