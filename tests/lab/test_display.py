"""Progress in a terminal, in a notebook and in a log."""

import io
import logging
import sys
import types

import pytest

import fallline as fl
from fallline.lab.display import describe_left, open_display
from fallline.notices import notify, receive_notices
from support.terminals import screens


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(start="starting"):
    with open_display(start) as display:
        display.report("tuning", 0, 1234, "trials", "")
        notify(f"a notice to {start}")
        notify(f"a notice to {start}")
        display.report("tuning", 617, 1234, "trials", describe_left(754, "up to "))
        display.stage("timing the arms")


def test_a_bar_in_a_terminal_leaves_only_the_notices(monkeypatch):
    for key, value in {"COLUMNS": "80", "TERM": "xterm", "LINES": "40"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys, "stderr", Terminal())
    run("a terminal")
    final, shown = screens(sys.stderr.getvalue())
    assert [line for line in final if line] == ["a notice to a terminal"]
    assert all(len(line) <= 80 for line in shown)
    assert any(line.startswith("timing the arms ━") for line in shown)


def test_a_log_has_one_line_per_stage(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # must not turn a file into a terminal
    run("a log")
    assert capsys.readouterr().err == "tuning: 0/1234 trials\na notice to a log\ntiming the arms\n"


def test_a_notebook_replaces_one_output(monkeypatch, capsys):
    outputs = []

    class Handle:
        def update(self, data, raw):
            outputs.append(data["text/plain"])

    def display(data, raw, display_id):
        outputs.append(data["text/plain"])
        return Handle()

    python = types.ModuleType("IPython")
    python.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    shown = types.ModuleType("IPython.display")
    shown.display = display
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    run("a notebook")
    assert outputs[:2] == ["a notebook", "tuning: 0/1234 trials"]
    assert "a notice to a notebook\ntuning: 617/1234 trials, up to 12 min 34 s left" in outputs
    assert outputs[-1] == "a notice to a notebook"
    assert capsys.readouterr().err == ""


def test_a_notice_without_a_receiver_is_sent_later():
    notify("nobody listens")
    found = []
    with receive_notices(found.append):
        notify("nobody listens")
    assert found == ["nobody listens"] and logging.getLogger("fallline").level == logging.NOTSET


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [0, 1])
def test_python_shows_the_stages_of_a_study_unless_told_otherwise(tmp_path, capfd, monkeypatch, jobs):
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setattr("fallline.notices._sent", set())
    size = {"steps": 40, "trials": 2, "seeds": 2, "jobs": jobs}
    fl.compare("digits", ["momentum"], out=tmp_path / "shown", **size)
    err = capfd.readouterr().err
    assert [line.partition(" ")[0] for line in err.splitlines() if "compiling" not in line] == [
        "tuning:",
        "confirming:",
        "timing",
    ]
    assert err.count("compiling optimizer kernels") == jobs or jobs == 0  # kernels of this process may be in memory
    fl.compare("digits", ["momentum"], out=tmp_path / "hidden", progress=False, **size)
    assert capfd.readouterr().err == ""
