"""The pages of the optimizers follow from the declarations."""

import re
import sys
from pathlib import Path

import pytest

from fallline.optimizers import OPTIMIZERS, Adam

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tools"))

import docs  # noqa: E402
from equations import equations, variants  # noqa: E402

EVERY_CLASS = pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)


def test_adams_equations_are_those_of_the_paper():
    first, second, step = equations(Adam, {})
    assert first == r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g_t"
    assert second == r"v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2"
    assert r"\frac{\eta}{1 - \beta_1^{t}}" in step and r"\sqrt{v_t}" in step and r"\epsilon" in step


@EVERY_CLASS
def test_equations_show_every_option_and_balance_their_braces(cls):
    pages = [equations(cls, {}), *(equations(cls, on) for on, _ in variants(cls).values())]
    assert len({tuple(page) for page in pages}) == len(pages)
    for line in (line for page in pages for line in page):
        assert line.count("{") == line.count("}") and line.count("&=") == 1
    assert pages[0][-1].startswith(r"\theta_t")


@EVERY_CLASS
def test_a_page_names_defaults_state_and_source(cls):
    text = docs.page(cls.rule.name, cls)
    assert cls.rule.source in text and "**Use when:**" in text
    assert all(f"| `{name}` |" in text for name in ("lr", "weight_decay", *cls.rule.ranges))


def test_state_bytes_are_counted():
    assert [docs.state_bytes(OPTIMIZERS[name]) for name in ("sgd", "lion", "adamw")] == [0, 4, 8]
    assert docs.state_bytes(Adam, amsgrad=True) == 12


def test_links_lead_somewhere():
    for page in [*docs.TARGET.glob("*.md"), ROOT / "README.md"]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
