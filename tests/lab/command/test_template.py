"""Commands with placeholders: what is filled in, what is left alone, and what is refused."""

import pytest

from fallline.errors import ArgumentError
from fallline.lab.command import Command


def test_values_are_filled_in_after_the_text_is_split():
    command = Command("python 'my train.py' --note {note} --lr={lr} {lr}")
    assert command.placeholders == ("note", "lr")
    assert command.fill({"note": 'a "b" c', "lr": 1e-05}) == [
        "python", "my train.py", "--note", 'a "b" c', "--lr=1e-05", "1e-05"
    ]  # fmt: skip


def test_doubled_braces_and_braces_around_other_text_stay():
    command = Command("run --json '{{\"a\": 1}}' ${HOME:-x} {seed} {1,2}")
    assert command.placeholders == ("seed",)
    assert command.fill({"seed": 3}) == ["run", "--json", '{"a": 1}', "${HOME:-x}", "3", "{1,2}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must not be empty"),
        ("  ", "must not be empty"),
        ("python 'train.py", "every quote must be closed"),
        ("python a.py | tee log", "got '|'; put the command into a script, or pass it as sh -c"),
        ("cd x && python a.py", "got '&&'"),
        ("CUDA_VISIBLE_DEVICES=0 python a.py", "an assignment to CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_only_a_shell_understands_is_refused(text, words):
    with pytest.raises(ArgumentError, match=r"^command: ") as error:
        Command(text)
    assert words in str(error.value)


def test_an_unknown_placeholder_names_the_known_ones():
    with pytest.raises(ArgumentError, match=r"one of \{lr\}, \{seed\}, got \{learning_rate\}; write \{\{learning_rate"):
        Command("a {learning_rate}").fill({"lr": 1, "seed": 2})


def test_named_files_are_code_and_settings_not_data(tmp_path):
    for name in ("train.py", "base.yaml", "data.bin"):
        (tmp_path / name).write_text("x")
    command = Command("python train.py --config=base.yaml --data data.bin --also missing.py train.py")
    assert command.files(tmp_path) == [tmp_path / "train.py", tmp_path / "base.yaml"]
