"""The animation of a race: one HTML file that opens from disk and does not use the network."""

import json
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np

from fallline.lab.race.runs import Descents
from fallline.lab.race.scene import COLUMNS, contours, label, method, table, visible_points, warnings
from fallline.lab.report.style import DARK, arm_styles, dark_rules

WIDTH = 760  # largest width of the picture, in pixels


def page(race: Descents) -> str:
    """Return the animation as an HTML page."""
    folder = files("fallline.lab")
    template = (folder / "race" / "page.html.j2").read_text(encoding="utf-8")
    arms, names = [run.arm for run in race.runs], [label(run) for run in race.runs]
    every = arm_styles(arms)
    (left, right), (low, high) = race.problem.domain
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(
            race=race,
            names=names,
            styles=dict(zip(names, every.values(), strict=True)),
            columns=COLUMNS,
            rows=table(race),
            indices=[race.runs.index(run) for run in race.ranking],
            warnings=warnings(race),
            method=method(race),
            width=WIDTH,
            aspect=f"{right - left:g} / {high - low:g}",
            stylesheet=(folder / "report" / "page.css").read_text(encoding="utf-8") + dark_rules(),
            script=(folder / "race" / "page.js").read_text(encoding="utf-8"),
            # Inside <script>, "</script" ends the element even within a JSON string.
            scene=json.dumps(_scene(race), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        )
    )


def _scene(race: Descents) -> dict[str, Any]:
    """Return the data that the script draws."""
    every = arm_styles([run.arm for run in race.runs])
    problem = race.problem
    return {
        "steps": race.steps,
        "dark": {light.lower(): dark for light, dark in DARK.items()},
        "domain": problem.domain,
        "start": problem.start,
        "minima": problem.minima,
        "saddles": problem.saddles,
        "contours": [np.round(line, 3).tolist() for line in contours(problem)],
        "runs": [
            {
                "colour": every[run.arm].colour,
                "dash": every[run.arm].dash if every[run.arm].dash[1] else [],
                "points": np.round(visible_points(run, problem), 4).tolist(),
                "values": [f"{value:.3g}" if np.isfinite(value) else None for value in run.values],
            }
            for run in race.runs
        ],
    }
