"""`fallline lint`: what it loads, prints and exits with."""

import json

import pytest
from rich.cells import cell_len

SCRIPT = """
import torch
def setup():
    model = torch.nn.Linear(3, 2)
    return model, torch.optim.Adam(model.parameters(), weight_decay=0.1)
whole = {"optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(2, 2))]), "total_steps": 10}
"""


def test_lint_prints_what_why_and_how_and_fails_on_errors(fallline, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    code, out, err = fallline("lint", f"{tmp_path}/train.py:setup")
    assert code == 1 and err == "" and max(map(cell_len, out.splitlines())) <= 80
    assert "error  coupled-decay" in out and "  fix: use AdamW" in out and out.endswith("2 findings\n")
    code, out, _ = fallline("lint", f"{tmp_path}/train.py:setup", "--json", "--ignore", "decayed-norms")
    assert code == 1 and [finding["id"] for finding in json.loads(out)] == ["coupled-decay"]
    assert fallline("lint", f"{tmp_path}/train.py:whole") == (0, "0 findings\n", "")


ALONE = {
    "a model": ("f = torch.nn.Linear(3, 2)", "model alone (Linear)"),
    "a class": ("class f(torch.nn.Module):\n    def __init__(self):\n        raise SystemExit", "model alone (f)"),
    "a function": ("def f():\n    return torch.nn.Linear(3, 2)", "model alone (Linear)"),
    "an optimizer": ("f = torch.optim.SGD([torch.ones(1)], lr=0.1)", "optimizer alone (SGD)"),
}


@pytest.mark.parametrize(("source", "part"), ALONE.values(), ids=ALONE)
def test_a_model_alone_is_not_called_and_the_user_is_told_what_to_return(fallline, tmp_path, monkeypatch, source, part):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.py").write_text(f"import torch\n{source}")
    code, out, err = fallline("lint", "t.py:f")
    assert (code, out) == (2, "")
    assert f"must be, or return, (model, optimizer, scheduler, total_steps), got the {part}; write a function" in err


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def f(:", "must run without an error, got SyntaxError: invalid syntax"),
        (
            "import nowhere",
            "must run without an error, got ModuleNotFoundError: No module named 'nowhere' (t.py, line 1)",
        ),
        (
            "f = lambda: 1 / 0",
            "must return without an error, got ZeroDivisionError: division by zero (t.py, line 1); it is",
        ),
        ("f = lambda x: x", "without arguments, got missing a required argument: 'x'; give it a default"),
        ("f = {'model': None, 'optimzer': None}", "got a dict of model, optimzer; return such a dict"),
        ("import torch; f = [torch.optim.SGD([torch.ones(1)]), 1]", "or None, got SGD; pass the model itself"),
    ],
)
def test_what_the_users_file_does_wrong_is_told_with_its_line(fallline, tmp_path, monkeypatch, source, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.py").write_text(source)
    code, out, err = fallline("lint", "t.py:f")
    assert (code, out) == (2, "") and err.count("\n") == 1 and sentence in err
