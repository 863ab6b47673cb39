"""The command line: what it says, in how many words and columns, and with which exit code."""

import math
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from fallline.cli import show
from fallline.cli.schedules import KNOWN
from fallline.lab.design.spaces import SPACES
from fallline.optimizers import OPTIMIZERS


def test_the_version(fallline):
    code, out, _ = fallline("--version")
    assert code == 0 and out.startswith("fallline 0.")


@pytest.mark.parametrize("command", [[], ["compare"], ["report"], ["list"], ["lr-range"], ["schedules"]])
def test_help_has_an_example_and_fits_80_columns(fallline, command):
    code, out, _ = fallline(*command, "--help")
    assert code == 0
    assert "Example: fallline" in out
    assert max(map(cell_len, out.splitlines())) <= 80
    assert "list[" not in out  # a type of Python


def test_the_commands_are_told_in_whole_sentences(fallline):
    _, out, _ = fallline("--help")
    told = out.partition("Commands:")[2].partition("Example")[0].strip().splitlines()
    assert len(told) == 14 and all(line.endswith((".", "?")) and not line.endswith("...") for line in told)


def test_list_names_every_optimizer_with_update_state_defaults_and_source(fallline):
    code, out, _ = fallline("list")
    text = " ".join(out.split())
    assert code == 0
    for name, cls in OPTIMIZERS.items():
        assert f"{name} fallline.{cls.__name__}" in text
        assert " ".join(cls.rule.formula.split()) in text
        assert all(key in text for key in cls.rule.state)
    assert all(arm in text for arm in SPACES)
    assert max(map(cell_len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "--optimizers", "sdg"], "got 'sdg'; did you mean sgd?"),
        (["compare", "digit"], "or FILE.py:NAME, got 'digit'; did you mean digits?"),
        (["compare", "--trials", "0"], "compare: trials must be an int >= 1, got trials=0; 16 is usual"),
        (["compare", "--trials", "ten"], "--trials: must be a whole number, got 'ten'; see `fallline compare --help`"),
        (["compare", "-j", "two"], "--jobs: must be a whole number, got 'two'; see"),
        (["compare", "--dry-run", "--baseline", "sgd"], "baseline: must be one of momentum, adam, adamw, got 'sgd'"),
        (["compare", "--dry-run", "--margin", "2"], "margin: must be in (0, 1), got margin=2"),
        (["compare", "--schedules", ""], "schedules: must name at least one, got none; cosine is a common choice"),
        (["compare", "--optimizers", ","], "optimizers: must name at least one, got none; adamw is a common choice"),
        (["compare", "--optimizers", "adamw@lr=x"], "optimizers: lr must be a number, or LOW..HIGH"),
        (["compare", "--searches", "0"], "got searches=0; pass 1"),
        (["compare", "--equal", "x"], "got 'x'; grad-evals is the default"),
        (["compare", "--vary", "lr"], "got 'lr'; try --vary warmup=0,0.05"),
        (
            ["compare", "--vary", "lr=1,2", "--vary", "lr=3,4"],
            "vary: each name must be given once, got lr twice; leave",
        ),
        (
            ["compare", "--set", "batch_size=8", "--set", "batch_size=9"],
            "set: each name must be given once, got batch_size",
        ),
        (
            ["compare", "--vary", "nesterov=yes,no"],
            "must be True or False, got 'yes'; try --vary nesterov=",
        ),
        (
            ["compare", "--vary", "lr=True,False"],
            "values of lr must be numbers, got True; try --vary lr=0.1,0.2",
        ),
        (["compare", "--vary", "steps=20,x"], "steps must be whole numbers, got 'x'; try --vary steps=200,400"),
        (["compare", "--vary", "lx=1,2"], "got 'lx'; try --vary lr=0.001,0.01"),
        (["compare", "--device", "gpu"], "of this machine, got 'gpu'; leave it out for cpu"),
        (["lr-range", "--device", "gpu"], "of this machine, got 'gpu'; leave it out for cpu"),
        (["landscape", "--device", "gpu"], "of this machine, got 'gpu'; leave it out for cpu"),
        (["landscape", "--out", "a.png"], "--out: must end in .html, got a.png"),
        (["landscape", "--checkpoint", "no.pt"], "got 'no.pt' (No such file or directory); save model.state_dict()"),
        (["landscape", "--checkpoint", __file__], "which holds other objects or is not a file of torch.save; save"),
        (["race", "--lr", "fast"], "--lr: must be a number, got 'fast'; see `fallline race --help`"),
        (["race", "--optimizers", "sgd,sgd"], "each must be named once, got sgd twice; leave one of them out"),
        (["race", "--optimizers", "sgd@lr=1e-3..1e-1"], "got 'sgd@lr=1e-3..1e-1'; give one value: sgd@lr=0.001"),
        (["race", "--optimizers", ""], "optimizers: must name at least one, got none"),
        (["schedules", "cosine(9)", "--base", "-1"], "base must be a finite number > 0, got base=-1"),
        (["exercise", "4"], "exercise: must be one of 1, 2, 3, got 4; 1 compares optimizers"),
        (["exercise", "one"], "1|2|3: must be a whole number, got 'one'; see `fallline exercise --help`"),
        (["exercise"], "Missing argument '1|2|3'; see `fallline exercise --help`"),
        (["compare", "--seeds", "1"], "got seeds=1"),
        (["compare", "-j", "-1"], "jobs must be an int >= 0, got jobs=-1"),
        (["compare", "--steps", "0"], "steps: must be at least 20"),
        (["compare", "--margin", "2"], "margin: must be in (0, 1), got margin=2"),
        (["compare", "--baseline", "sgd"], "baseline: must be one of momentum, adam, adamw, got 'sgd'"),
        (["compare", "--schedules", "cos"], "inverse_sqrt or FILE.py:FUNCTION, got 'cos'"),
        (["compare", "--optimizer", "sgd"], "No such option: --optimizer"),
        (["compair"], "No such command 'compair'"),
        (["schedules", "cosin(9)"], "got 'cosin'; did you mean cosine?"),
        (["schedules", "cosine(0)"], "cosine: total_steps must be an int >= 1, got total_steps=0"),
        (["schedules", "--steps", "0"], "steps must be an int >= 1, got steps=0"),
        (["schedules", "--out", "a.gif"], "--out: must end in one of .svg, .png, .pdf, .html, got a.gif"),
        (["lint", "nowhere.py:setup"], "must name a Python file, got 'nowhere.py:setup'"),
        (["lint", "setup"], "must name a Python file, got 'setup'"),
        (["lint", f"{__file__}:nothing"], "must define 'nothing', got"),
        (["lint", f"{__file__}:KNOWN"], "must be, or return, (model, optimizer, scheduler, total_steps)"),
        (["report", "/nowhere"], "must be the folder of a study"),
        (["lr-range", "digit"], "or FILE.py:NAME, got 'digit'; did you mean digits?"),
        (["lr-range", "--optimizer", "sdg"], "got 'sdg'; did you mean sgd?"),
        (["lr-range", "--optimizer", "sgd,adam"], "got 'sgd,adam'"),
        (
            ["lr-range", "--optimizer", "sgd@lr=0.1"],
            "lr must not be fixed, got sgd@lr=0.1; set --low and --high instead",
        ),
        (["lr-range", "--steps", "3"], "lr_range: steps must be an int >= 10, got steps=3"),
        (["lr-range", "--low", "20"], "lr_range: low must be < high, got low=20.0, high=10.0"),
        (["lr-range", "--out", "a.gif"], "--out: must end in one of .svg, .png, .pdf, .html, got a.gif"),
    ],
)
def test_errors_of_use_are_one_sentence_and_exit_code_2(fallline, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = fallline(*words)
    assert code == 2
    assert sentence in err
    assert out == "" and err.count("\n") == 1 and err.startswith("fallline: ")
    assert list(tmp_path.iterdir()) == []  # nothing is left behind


@pytest.mark.parametrize(
    "words",
    [
        ["race", "--steps", "9", "--optimizers", "sgd", "--out", "file/race.html"],
        ["race", "--steps", "9", "--optimizers", "sgd", "--out", "file/race.svg"],
        ["schedules", "cosine(9)", "--out", "file/schedule.html"],
        ["lr-range", "--steps", "10", "--out", "file/range.html"],
    ],
    ids=" ".join,
)
def test_a_picture_that_cannot_be_written_is_one_sentence(fallline, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    code, _, err = fallline(*words)
    assert code == 2
    assert err.splitlines()[-1].startswith("fallline: ") and err.count("fallline: ") == 1
    assert f"the file must be writable, got '{words[-1]}'" in err


def test_a_format_that_is_unknown_is_told_before_the_verdict(fallline):
    code, out, err = fallline("report", "nowhere", "--format", "htm")
    assert (code, out) == (2, "") and "got 'htm'; try html,md,csv" in err


@pytest.mark.parametrize(
    ("command", "kept"),
    [("compare", "; finished trials are kept; rerun the same command to resume"), ("landscape", "")],
)
def test_ctrl_c_says_what_is_kept(fallline, monkeypatch, command, kept):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fallline.lab.tasks.open_task", interrupted)
    assert fallline(command) == (130, "", f"fallline: stopped{kept}\n")


def test_no_steps_are_no_steps_in_an_exercise_too(fallline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = fallline("exercise", "1", "--task", "digits", "--steps", "0")
    assert code == 2 and "steps: must be at least 20" in err


def test_sentences_are_indented_and_numbers_keep_their_units(capsys, monkeypatch):
    monkeypatch.setattr(show.console, "_width", 40)
    show.say("a is worse than b: loss +12.34 % [+1.234 % to +23.45 %], corrected p = 0.01", "• ")
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("• a is") and all(line[:2] == "  " and line[2] not in " %=" for line in rest)
    assert len(rest) == 2 and max(map(cell_len, [first, *rest])) <= 40


def test_an_output_folder_that_cannot_be_written_is_one_sentence(fallline, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = fallline("compare", "--out", tmp_path / "file" / "study")
    assert code == 2 and "must be writable" in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_study_prints_a_table_a_sentence_and_the_path_of_the_report(fallline, tmp_path):
    words = ["--optimizers", "momentum,adam", "--trials", "2", "--seeds", "2", "--steps", "40", "-j", "1"]
    code, out, err = fallline("compare", "digits", *words, "--out", tmp_path)
    *lines, last = out.splitlines()
    stages = [line.partition(":")[0] for line in err.splitlines() if not line.startswith("compiling")]
    assert code == 0 and stages == ["tuning", "confirming", "timing the arms"]
    assert last == f"report: {tmp_path / 'report.html'}" and (tmp_path / "report.html").exists()
    assert "• adam is " in out
    assert max(map(cell_len, lines)) <= 80
    again, repeated, _ = fallline("report", tmp_path)
    assert again == 0 and repeated == out


def test_schedules_are_drawn_with_the_numbers_at_their_corners(fallline, tmp_path):
    code, out, err = fallline(
        "schedules", "warmup(100).then(cosine(900))", "--base", "0.5", "--out", tmp_path / "a.svg"
    )
    assert code == 0 and err == "" and "k=0: 0.005   k=99: 0.5   k=100: 0.5   k=999: 0" in out
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    *lines, last = out.splitlines()
    assert last == f"picture: {tmp_path / 'a.svg'}" and max(map(cell_len, lines)) <= 80


def test_without_arguments_there_is_one_schedule_of_each_kind(fallline):
    code, out, _ = fallline("schedules")
    assert code == 0 and max(map(cell_len, out.splitlines())) <= 80
    assert all(f"{name}(" in out for name in KNOWN)


def test_true_and_false_are_varied_like_numbers(fallline):
    code, out, _ = fallline("compare", "--optimizers", "momentum", "--vary", "nesterov=True,false", "--dry-run")
    assert code == 0 and "arms: momentum, nesterov=True; momentum, nesterov=False\n" in out


def test_without_the_extra_one_sentence_says_how_to_get_it():
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise ModuleNotFoundError("No module named 'typer'", name="typer")
sys.meta_path.insert(0, Block())
from fallline.cli import main
main()"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == 'fallline: the command line needs typer; install it with: pip install "fallline[lab]"\n'


def test_lr_range_draws_the_curve_and_says_what_it_suggests(fallline, tmp_path):
    code, out, err = fallline(
        "lr-range", "digits", "--low", "1e-4", "--steps", "40", "--out", tmp_path / "a" / "r.html"
    )
    assert code == 0 and "range test: 0/40 updates\n" in err
    assert max(map(cell_len, out.partition("picture:")[0].splitlines())) <= 80
    lines = out.splitlines()
    assert "digits with adamw: 40 updates from lr 0.0001 to 10" in lines[0]
    assert [line[8] for line in lines[1:9]] == ["│"] * 8
    assert lines[10].split() == ["1e-4", "1e-3", "1e-2", "1e-1", "1e0", "1e1"]
    (suggested,) = (float(line.split()[2].rstrip(";")) for line in lines if line.startswith("suggestion: lr "))
    assert 1e-3 < suggested < 0.03
    at = 9 + round(63 * (math.log10(suggested) + 4) / 5)
    assert lines[11].index("▲") == pytest.approx(at, abs=1)  # the number is rounded, the mark is not
    page = (tmp_path / "a" / "r.html").read_text()
    assert not re.search(r"<script[^>]*src=", page)
    assert "width=device-width" in page and '"width": "container"' in page  # a phone sees all of it
    assert "<h1>Learning rate " in page and "Points: the loss on the batch of each update" in page


def test_lr_range_takes_a_task_of_the_users_own(fallline, tmp_path):
    assert fallline("new-task", tmp_path / "mine.py")[0] == 0
    code, out, _ = fallline("lr-range", f"{tmp_path / 'mine.py'}:Mine", "--steps", "20", "--optimizer", "sam(sgd)")
    assert code == 0 and "with sam(sgd)" in out and "suggestion: lr" in out
