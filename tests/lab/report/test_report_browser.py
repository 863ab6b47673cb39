"""A real browser draws every figure of the report, answers the pointer, and never scrolls sideways."""

import re

import pytest

from fallline.lab.report.style import arm_styles
from support.browsers import browse, noted
from support.studies import traced

FIGURES = {"differences", "learning-rates", "validation", "training", "strip", "time-to-target"}
FIGURES |= {"budget-trials", "budget-seconds", "gradient-norm", "update-norm"}
# In the page: points at every mark of every figure, keeps what the tooltip says, and then hides the first arm.
PROBE = """
const said = {};
const names = [...document.querySelectorAll(".plot")].map((plot) => plot.id);
const tooltip = (mark) => {
  const box = mark.getBoundingClientRect();
  const where = { bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
  for (const event of ["pointerover", "pointermove"]) mark.dispatchEvent(new PointerEvent(event, where));
  for (const event of ["mouseover", "mousemove"]) mark.dispatchEvent(new MouseEvent(event, where));
  return document.getElementById("vg-tooltip-element")?.innerText ?? "";
};
const point = (name) => {
  const marks = document.querySelectorAll(`#${name} .mark-symbol path`);
  said[name] = [...(marks.length ? marks : document.querySelectorAll(`#${name} .mark-line path`))].map(tooltip);
};
setTimeout(() => {
  names.forEach(point);
  document.body.dataset.said = JSON.stringify(said);
  document.body.dataset.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.querySelector("button[data-arm]").click();
}, 4000);
"""


@pytest.fixture(scope="module")
def browsed(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    page = traced(study).report(folder / "report.html")
    return browse(page, folder, PROBE)


def plots(dom):
    body = dom.split("<body", 1)[1].split("<script>")[0]
    parts = {text.split('"', 1)[0]: text for text in re.split(r'<div class="plot[^"]*" id="', body)[1:]}
    return {name: text[text.index("<svg") : text.index("</svg>")] for name, text in parts.items()}


def test_a_browser_draws_every_figure_without_network_or_console_messages(browsed):
    dom, console = browsed
    assert console == []
    drawn = plots(dom)
    assert set(drawn) == FIGURES
    for name, drawing in drawn.items():
        assert drawing.count("<path") > 5 and "NaN" not in drawing, name


def test_a_browser_shows_a_tooltip_in_every_figure(browsed):
    said = noted(browsed[0], "said")
    words = {
        "strip": "schedule",
        "differences": "change",
        "learning-rates": "learning rate",
        "time-to-target": "reached",
    }
    words |= {"budget-trials": "expected best", "gradient-norm": "median gradient norm", "validation": "lowest"}
    assert set(said) == FIGURES
    for name, texts in said.items():
        assert any(words.get(name, "arm") in text for text in texts), name
        assert all(texts), name


def test_a_name_above_a_figure_hides_its_arm_in_every_figure(study, browsed):
    dom, _ = browsed
    hidden, other = (arm_styles(study.arms)[arm].colour for arm in study.arms[:2])
    drawn = plots(dom)
    for name in FIGURES - {"differences", "strip"}:
        assert other in drawn[name] and hidden not in drawn[name], name
    legends = dom.count('class="legend"')
    assert dom.split("<body")[1].split("<script>")[0].count('aria-pressed="false"') == legends == 5


@pytest.mark.parametrize("width", [1280, 500])  # no window of Chromium is narrower than 500
def test_a_browser_never_scrolls_the_page_sideways(page, tmp_path, width):
    dom, _ = browse(page, tmp_path, PROBE, f"--window-size={width},900")
    assert noted(dom, "wide") == 0
