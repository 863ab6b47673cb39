"""The report: complete, offline, safe to open, and drawn in a real browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch

import fallline as fl
from fallline.errors import StudyError
from fallline.lab.report import best_code

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    arms = ["momentum", "adam", "sgd@lr=1e30"]
    return fl.compare("digits", arms, steps=40, trials=2, seeds=2, out=tmp_path_factory.mktemp("study"), jobs=2)


@pytest.fixture(scope="module")
def page(study):
    return study.report(study.store.folder / "report.html")


class Loads(HTMLParser):
    """Collects what a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [(tag, value) for name, value in attributes if name in ("src", "href", "data", "srcset")]


def test_it_fetches_nothing(page):
    loads = Loads()
    loads.feed(page.read_text())
    assert [value for _, value in loads.found] == ["data:,"]  # an empty icon, or the browser would look for one
    style = page.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_it_has_every_arm_sentence_warning_and_number(study, page):
    text = page.read_text().split("<script>")[0]
    for row in study.leaderboard():
        assert row["arm"] in text
    assert f"{study.leaderboard()[0]['test_loss']:.4f}" in text
    for result in study.results.values():
        assert result.sentence in text
    assert study.warnings() and all(warning in text for warning in study.warnings())
    for word in ("Methods", "Threats to validity", "Reproduce", "torch 2", "--trials 2 --seeds 2 --steps 40"):
        assert word in text


def test_names_are_escaped(study, monkeypatch):
    monkeypatch.setattr(study, "warnings", lambda: ["<b>bold</b></script><script>alert(1)</script>"])
    text = study.report(study.store.folder / "escaped.html").read_text()
    assert "<b>bold" not in text and "&lt;b&gt;bold" in text


def test_the_winner_runs_as_pasted(study):
    names = {"model": torch.nn.Linear(3, 2)}
    exec(best_code(study), names)
    best = study.leaderboard()[0]["arm"]
    assert names["opt"].param_groups[0]["initial_lr"] == pytest.approx(
        study.searches[best].points[study.searches[best].best]["lr"], rel=1e-3
    )
    assert isinstance(names["sched"], torch.optim.lr_scheduler.LRScheduler)


def test_a_path_that_cannot_be_written_is_one_sentence(study, tmp_path):
    with pytest.raises(StudyError, match=r"report: the file must be writable, got '.*nowhere/report.html'"):
        study.report(tmp_path / "nowhere" / "report.html")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
def test_a_browser_draws_every_figure_without_network_or_console_messages(page, tmp_path):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--virtual-time-budget=8000"]
    done = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    body = done.stdout.split("<body>")[1]
    for figure in ("differences", "learning-rates", "curves", "strip"):
        drawn = re.search(
            rf'id="{figure}" class="figure vega-embed.*?</svg>|class="figure vega-embed[^>]*id="{figure}".*?</svg>',
            body,
            re.S,
        )
        assert drawn, figure
        assert drawn.group().count("<path") > 5, figure
