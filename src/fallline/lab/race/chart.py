"""The static chart of a race."""

from typing import Any

import altair as alt
import numpy as np

from fallline.lab.race.runs import Descents, Run
from fallline.lab.race.scene import contours, label, visible_points
from fallline.lab.report.style import CONFIG, arm_styles
from fallline.problems import Problem

CONTOUR, INK, PAPER = "#c3ccd6", "#1c2024", "#ffffff"
WIDTH = 640  # pixels


def chart(race: Descents) -> alt.LayerChart:
    """Return a chart with the level lines and the path of every optimizer to the goal, with one dot per step.

    A ring marks the start, crosses mark the minima and diamonds the saddles.
    """
    (left, right), (low, high) = race.problem.domain
    x = alt.X("x:Q", title=None, scale=alt.Scale(domain=[left, right], nice=False))
    y = alt.Y("y:Q", title=None, scale=alt.Scale(domain=[low, high], nice=False))
    lines = [
        {"x": round(float(a), 4), "y": round(float(b), 4), "line": number, "at": at}
        for number, line in enumerate(contours(race.problem))
        for at, (a, b) in enumerate(line)
    ]
    level = alt.Chart(alt.Data(values=lines)).mark_line(color=CONTOUR, strokeWidth=1, clip=True)
    layers = [level.encode(x=x, y=y, detail="line:N", order="at:Q"), *_paths(race, x, y)]
    marks = [("start", [race.problem.start]), ("minimum", race.problem.minima), ("saddle", race.problem.saddles)]
    for kind, points in marks:
        rows = [{"x": a, "y": b} for a, b in points]
        layers += [_mark(kind, rows).encode(x=x, y=y)] if rows else []
    words = alt.TitleParams(
        f"Descent on the {race.problem.name} until the goal is reached or {race.steps} steps are done",
        subtitle=race.problem.summary,
        anchor="start",
        limit=WIDTH,
    )
    height = round(WIDTH * (high - low) / (right - left))
    picture = alt.layer(*layers).properties(width=WIDTH, height=height, title=words)
    return picture.configure(**{**CONFIG, "font": "Helvetica, Arial, sans-serif"})


def _paths(race: Descents, x: Any, y: Any) -> list[alt.Chart]:
    names = {run.arm: label(run) for run in race.runs}
    every = arm_styles([run.arm for run in race.runs])
    domain = list(names.values())
    colours = [every[arm].colour for arm in names]
    legend = alt.Legend(orient="top", title=None, columns=3, labelLimit=0, symbolType="stroke", symbolSize=500)
    colour = alt.Color("run:N", scale=alt.Scale(domain=domain, range=colours), legend=legend)
    dash = alt.StrokeDash("run:N", scale=alt.Scale(domain=domain, range=[list(every[a].dash) for a in names]))
    rows = [
        {"x": round(float(a), 4), "y": round(float(b), 4), "run": names[run.arm], "step": step}
        for run in race.runs
        for step, (a, b) in enumerate(_points_to_the_goal(run, race.problem))
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y, order="step:Q", tooltip=["run:N", "step:Q"])
    return [
        base.mark_line(strokeWidth=1.7, clip=True).encode(color=colour, strokeDash=dash),
        base.mark_circle(size=14, opacity=1, clip=True).encode(color=colour),
    ]


def _points_to_the_goal(run: Run, problem: Problem) -> np.ndarray:
    points = visible_points(run, problem)
    return points if run.reached is None else points[: run.reached + 1]


def _mark(kind: str, rows: list[dict[str, float]]) -> alt.Chart:
    data = alt.Chart(alt.Data(values=rows))
    if kind == "start":
        return data.mark_point(shape="circle", size=110, filled=True, fill=PAPER, stroke=INK, strokeWidth=2, opacity=1)
    if kind == "minimum":
        return data.mark_point(shape="cross", size=150, filled=True, color=INK, stroke=PAPER, strokeWidth=1, opacity=1)
    return data.mark_point(shape="diamond", size=110, filled=True, fill=PAPER, stroke=INK, strokeWidth=2, opacity=1)
