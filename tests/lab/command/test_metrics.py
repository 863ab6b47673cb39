"""Metrics in the output of a script and in the files that it writes."""

import json
import math

import pytest

from fallline.errors import ArgumentError
from fallline.lab.command.metrics import Source, find_mode


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("val_loss 0.25", 0.25),
        ("val_loss=1e-3, lr 5", 1e-3),
        ("step 10 | val_loss: 3.5\nstep 20 | val_loss: 2.5\n", 2.5),
        ("{'val_loss': 0.75, 'epoch': 2}", 0.75),
        ('{"val_loss": -1.5}', -1.5),
        ("VAL_LOSS is 2", 2.0),
        ("val_loss: inf", math.inf),
        ("best_val_loss: 9", None),  # another metric
        ("val_loss_ema: 9", None),
        ("val_loss improved", None),
        ("", None),
        ("{'eval': 1, 'val_loss': '3.457', 'epoch': '1'}", 3.457),  # transformers' Trainer
        ("│         val_loss          │     0.27105069160461426     │", 0.27105069160461426),  # Lightning
        ("| val_loss | -1.5 |", -1.5),
    ],
)
def test_the_last_number_after_the_name(text, value):
    assert Source("val_loss").in_text(text) == value


def test_a_metric_that_is_nan_or_no_number_is_nan():
    assert math.isnan(Source("loss").in_text("loss: 0.5\nloss: nan"))
    assert math.isnan(Source("loss", regex=r"loss (\S+)").in_text("loss 0.5 loss n/a"))


def test_the_first_output_that_has_a_match_counts():
    assert Source("loss").in_text("no number", "loss 2") == 2.0
    assert Source("loss").in_text("loss 1", "loss 2") == 1.0


def test_ten_thousand_matches_give_the_last():
    assert Source("loss").in_text("\n".join(f"loss {k}" for k in range(10_000))) == 9999.0


def test_files(tmp_path):
    source = Source("x")
    (tmp_path / "a.json").write_text(json.dumps({"eval": {"loss": 0.5}, "eval.acc": "0.75"}))
    assert source.in_file(tmp_path / "a.json", "eval.loss") == 0.5
    assert source.in_file(tmp_path / "a.json", "eval.acc") == 0.75
    assert source.in_file(tmp_path / "a.json", "missing") is None
    (tmp_path / "a.jsonl").write_text('{"loss": 3}\n{"lr": 1}\n{"loss": 2}\n\n{"lr": 1}\n')
    assert source.in_file(tmp_path / "a.jsonl", "loss") == 2.0
    (tmp_path / "a.csv").write_text("step,loss\n1,3\n2,2.5\n3,\n")
    assert source.in_file(tmp_path / "a.csv", "loss") == 2.5
    assert source.in_file(tmp_path / "none.csv", "loss") is None
    (tmp_path / "broken.json").write_text('{"loss": ')
    assert source.in_file(tmp_path / "broken.json", "loss") is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regex": "loss: ("}, "must be a regular expression"),
        ({"regex": "loss"}, "must have one group"),
        ({"regex": "(a)(b)"}, "got 2 in"),
        ({"file": "metrics.txt:loss"}, "ends in .json, .jsonl, .csv"),
        ({"file": "metrics.json"}, "must be FILE:KEY"),
        ({"file": "metrics.json:loss", "regex": "(a)"}, "leave one of them out"),
    ],
)
def test_what_cannot_be_read_is_refused(options, words):
    with pytest.raises(ArgumentError, match=r"^metric_(regex|file): ") as error:
        Source("loss", **options)
    assert words in str(error.value)


def test_the_name_of_a_metric_implies_its_direction():
    modes = {"val_loss": "min", "eval/acc": "max", "Test-F1": "max", "bpb": "min"}
    assert {name: find_mode(name, None) for name in modes} == modes
    with pytest.raises(ArgumentError, match="mode: must be given"):
        find_mode("throughput", None)
    with pytest.raises(ArgumentError, match="must be min or max, got 'largest'"):
        find_mode("throughput", "largest")
