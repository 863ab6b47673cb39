"""The site builds without a warning, shows formulas, and asks nothing of the network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("mkdocs", reason="needs the extra `docs`")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def html(text):
    """The HTML of a page written for GitHub."""
    from markdown import Markdown

    from site_markdown import GitHubMarkdown

    extensions = [GitHubMarkdown(lambda link: None if link.endswith(".py") else link), "fenced_code", "tables"]
    return Markdown(extensions=extensions).convert(text)


def test_formulas_become_mathml(site):
    page = (site / "optimizers" / "adam.html").read_text(encoding="utf-8")
    assert page.count("<mtable") >= 2 and "```math" not in page and "$`" not in page


def test_no_page_fetches_anything_from_the_network(site):
    for page in site.rglob("*.html"):
        if "html" not in page.relative_to(site).parts[:-1]:  # a report of its own
            text = page.read_text(encoding="utf-8")
            assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//[^>]+", text), page


def test_the_readme_is_the_home_page_and_every_public_function_has_a_reference(site):
    assert "the fall line is the line of steepest descent" in (site / "index.html").read_text(encoding="utf-8")
    reference = (site / "api" / "fallline.schedules.html").read_text(encoding="utf-8")
    for name in ("cosine", "Cosine", "warmup_cosine"):
        assert f'id="fallline.schedules.{name}"' in reference


@pytest.mark.parametrize(
    "text", ["a $x_1$ b", "a $`x_1`$ b", "$$x_1$$", "```math\nx_1\n```", "| a |\n|---|\n| $`x_1`$ |"]
)
def test_every_way_to_write_a_formula_is_read(text):
    assert "<msub><mi>x</mi><mn>1</mn></msub>" in html(text) and "$" not in html(text)


@pytest.mark.parametrize("text", ["`$x$`", "costs $5 and $6", "```\n$x$\n```", "$HOME/$USER"])
def test_a_dollar_sign_that_is_no_formula_stays(text):
    assert "<math" not in html(text) and "$" in html(text)


def test_an_unknown_command_of_latex_is_reported(caplog):
    html(r"$\nosuchcommand{x}$")
    assert "Formula not converted" in caplog.text


def test_lists_are_those_of_github():
    assert "<li>" in html("Text:\n- one\n- two")
    assert html("- one\n  - inner").count("<ul>") == 2
    assert "<code" in html("- one\n\n  ```python\n  x = 1\n  ```\n- two").split("</li>")[0]
    assert html("- one\n\n  ```python\n  x = 1\n  ```\n- two").count("<li>") == 2
    assert "<li>" not in html("the year\n2024. Then")


def test_a_link_to_a_file_that_is_not_on_the_site_is_text():
    assert html("[`a.py`](../a.py) and [b](b.md)") == '<p><span><code>a.py</code></span> and <a href="b.md">b</a></p>'
