"""Citations of the reference pages lead to a section; the tables of the protocol hold the numbers of the code."""

import re
from pathlib import Path

import pytest

from fallline.lab.design.group_sequential import nominal_level
from fallline.lab.design.spaces import SPACES

ROOT = Path(__file__).parents[1]
PROTOCOL = (ROOT / "docs" / "lab-protocol.md").read_text(encoding="utf-8")
CITATION = re.compile(r"(docs/[\w/-]+\.md), section ([\w ]+)\)")
CITED = [
    (path, *found)
    for folder in ("src", "tests", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    for found in CITATION.findall(path.read_text(encoding="utf-8"))
]
RANGE = re.compile(r"([\d.e-]+) to ([\d.e-]+)")


def rows(first):
    """The cells of the rows of the protocol's tables whose first cell starts so."""
    lines = [line for line in PROTOCOL.splitlines() if line.startswith(f"| {first}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def numbers(cell):
    return tuple(map(float, RANGE.search(cell).groups()))


@pytest.mark.parametrize(("path", "page", "section"), CITED, ids=lambda value: str(value).rpartition("/")[2])
def test_a_cited_section_exists(path, page, section):
    headings = re.findall(r"^#+ (.*)", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert section in headings, path


def test_the_sources_cite_the_protocol():
    assert {section for _, _, section in CITED} >= {"Search spaces", "Failures", "Tasks and their contract"}


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "lamb", "lion"])
def test_the_table_of_search_spaces_holds_the_ranges_that_are_searched(name):
    (row,) = [cells for cells in rows("`") if f"`{name}`" in cells[0] and len(cells) == 5 and "e-" in cells[1]]
    spaces = {d.name: (d.low, d.high) for d in SPACES[name].dimensions}
    assert numbers(row[1]) == spaces["lr"]
    assert numbers(row[3]) == spaces["weight_decay"]
    for key in ("momentum", "alpha", "beta1"):
        assert key not in spaces or numbers(row[2]) == spaces[key]


@pytest.mark.parametrize(("text", "comparisons"), [("5 %", 1), ("2.5 %", 2), ("1.67 %", 3)])
def test_the_table_of_levels_holds_those_of_the_looks(text, comparisons):
    (row,) = rows(f"{text} |")
    looks = (4, 8, 12, 16)
    assert [float(cell) for cell in row[1:]] == [nominal_level(0.05 / comparisons, n, looks) for n in looks]
