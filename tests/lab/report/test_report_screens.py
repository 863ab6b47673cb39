"""The first screen, the tables, the menus and the colours of the report, in a real browser of several sizes."""

import re
from dataclasses import replace

import pytest

from fallline.lab.report.style import COLOURS, CONFIG, DARK
from fallline.lab.report.topics.sensitivity import clip_limit, learning_rates, tuning_rows
from support.browsers import browse, noted
from support.studies import with_outcomes

DARK_SCREEN = "--blink-settings=preferredColorScheme=0"
PAPER = "rgb(20, 24, 28)"  # of a dark page
# In the page, once the figures are drawn: where things are and which colours they have.
PROBE = """
setTimeout(() => {
  const note = (name, value) => { document.body.dataset[name] = JSON.stringify(value); };
  const box = (element) => element.getBoundingClientRect();
  for (const folded of document.querySelectorAll("details.more")) folded.open = true;
  note("clipped", [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth).length);
  const [table] = [...document.querySelectorAll("table")].filter((t) => t.innerText.includes("minimum"));
  const cells = [...table.querySelectorAll("tbody tr")].flatMap((row) => [...row.children].slice(1, 3));
  note("deciding", { right: Math.max(...cells.map((e) => box(e).right)), text: cells.map((e) => e.innerText) });
  const plots = [...document.querySelectorAll(".plot")];
  note("menus", plots.filter((plot) => plot.querySelector("summary")).length);
  note("covered", plots.filter((plot) => {
    const [menu, drawing] = [plot.querySelector("summary"), plot.querySelector("svg")].map(box);
    const [across, down] = [["left", "right"], ["top", "bottom"]].map(
      ([start, end]) => menu[start] < drawing[end] && menu[end] > drawing[start]
    );
    return across && down;
  }).map((plot) => plot.id));
  const colour = (element, key) => getComputedStyle(element)[key];
  const drawing = document.querySelector("#learning-rates svg");
  note("colours", {
    page: colour(document.body, "backgroundColor"),
    drawing: colour(drawing, "backgroundColor"),
    texts: [...new Set([...document.querySelectorAll(".plot text")].map((e) => colour(e, "fill")))],
    border: colour(document.querySelector(".verdict li"), "borderLeftColor"),
  });
  const marks = [...drawing.querySelectorAll(".mark-symbol path")];
  note("marks", marks.map((mark) => mark.getAttribute("aria-label") ?? ""));
}, 4000);
"""
FIRST = """
const lowest = (selector) => Math.round(document.querySelector(selector)?.getBoundingClientRect().bottom ?? -1);
document.body.dataset.first = JSON.stringify(["h1", ".answer", ".warning", ".paste pre", ".means"].map(lowest));
"""


@pytest.fixture(scope="module")
def clipped(study):
    """The study, with a tuning trial of adam that ended far above the loss of an untrained model."""

    def outcome(trial):
        found = study.outcome(trial)
        if (trial.arm, trial.stage, trial.index) != ("adam", "tune", 1):
            return found
        return replace(found, failure=None, metrics={**found.metrics, "val_loss": 3e4})

    return with_outcomes(study, outcome)


@pytest.fixture(scope="module")
def wide(clipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    page = clipped.report(folder / "report.html")
    return browse(page, folder, FIRST + PROBE, "--window-size=1280,800", DARK_SCREEN)[0]


@pytest.fixture(scope="module")
def narrow(clipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("narrow")
    return browse(clipped.report(folder / "report.html"), folder, FIRST + PROBE, width=390)[0]


@pytest.mark.slow
def test_the_winner_the_warnings_and_the_code_are_on_the_first_screen(wide, narrow):
    for dom, height in ((wide, 800), (narrow, 844)):
        places = noted(dom, "first")
        assert places == sorted(places) and places[0] > 0, "winner, size, warnings, code, then all means"
        assert places[2] < height
    assert noted(wide, "first")[3] < 800


@pytest.mark.slow
def test_no_table_is_clipped_at_1280_pixels(wide):
    assert noted(wide, "clipped") == 0


@pytest.mark.slow
def test_the_deciding_number_and_verdict_are_in_the_first_390_pixels(narrow):
    found = noted(narrow, "deciding")
    assert found["right"] <= 374  # less the margin of the page
    assert any("%" in text and " to " in text for text in found["text"])


@pytest.mark.slow
def test_the_menu_of_a_figure_covers_no_drawing(wide, narrow):
    for dom in (wide, narrow):
        assert noted(dom, "menus") >= 8 and noted(dom, "covered") == []


@pytest.mark.slow
def test_a_dark_screen_has_a_dark_page_and_dark_figures(wide, narrow):
    dark, light = noted(wide, "colours"), noted(narrow, "colours")
    assert dark["page"] == dark["drawing"] == PAPER
    assert light["page"] == light["drawing"] == "rgb(255, 255, 255)"
    for found, paper in ((dark, (20, 24, 28)), (light, (255, 255, 255))):
        for text in found["texts"]:
            assert contrast(tuple(map(int, re.findall(r"\d+", text)[:3])), paper) >= 4.5, text
    assert dark["border"] != light["border"]


def test_the_dark_colours_have_enough_contrast():
    paper = rgb(DARK["white"])
    for colour in COLOURS:
        assert contrast(rgb(DARK.get(colour, colour)), paper) >= 3, colour
    texts = {CONFIG["axis"]["labelColor"], CONFIG["axis"]["titleColor"], "#000", "#1c2024", "#5b6570", "#c00000"}
    for colour in texts:
        assert contrast(rgb(DARK[colour]), paper) >= 4.5, colour
    arms = [DARK.get(colour, colour) for colour in COLOURS]
    assert len(set(arms)) == len(COLOURS)


def test_print_stays_light(page):
    style = page.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    rules = re.findall(r"@media [^{]*prefers-color-scheme: dark[^{]*", style)
    assert len(rules) == 2 and all(rule.startswith("@media screen and ") for rule in rules)


def test_the_axis_of_the_sensitivity_ends_at_the_loss_of_an_untrained_model(clipped, study, tmp_path):
    chart = learning_rates(clipped.record).to_dict()
    limit = clip_limit(clipped.record)
    assert limit == study.spec.learning.trivial_loss()
    (scale,) = {str(e["y"]["scale"]): e["y"]["scale"] for e in encodings(chart) if "scale" in e.get("y", {})}.values()
    assert scale["clamp"] and limit < scale["domain"][1] < 1.5 * limit
    assert [row["result"] for row in tuning_rows(clipped.record) if row["clipped"]] == [3e4]
    text = clipped.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"The axis ends at the loss of an untrained model, {limit:.3g}" in text
    assert "The axis ends at" not in study.report(tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_clipped_point_is_a_mark_with_its_value(wide):
    assert sum("30000" in text.replace(",", "") for text in noted(wide, "marks")) == 1


def encodings(chart):
    yield chart.get("encoding", {})
    for layer in chart.get("layer", []):
        yield from encodings(layer)


def rgb(colour):
    code = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    return tuple(int(code[i : i + 2], 16) for i in (0, 2, 4))


def contrast(one, other):
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)
