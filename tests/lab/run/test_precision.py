"""The precision of a task: which one a device gets, and that studies record and report it."""

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError
from fallline.lab.report.topics.methods import methods
from fallline.lab.run.device import choose_precision
from fallline.lab.specify import specify
from fallline.lab.tasks import get_task


@pytest.fixture(params=[True, False])
def units(request, monkeypatch):
    """Whether the processor has AVX-512 BF16, as new and old releases of PyTorch report it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param}, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    return request.param


def test_auto_is_bfloat16_where_the_processor_has_it(units, monkeypatch):
    expected = "bfloat16" if units else "float32"
    assert choose_precision("cpu") == expected and choose_precision("meta") == "float32"
    spec = specify("breast-cancer", ["adam"], ["cosine"], settings={"precision": "auto"}, examined=True)
    assert spec.settings == {"precision": expected} and spec.learning.precision == expected
    fixed = specify("breast-cancer", ["adam"], ["cosine"], settings={"precision": expected}, examined=True)
    assert spec.digest() == fixed.digest() != specify("breast-cancer", ["adam"], ["cosine"], examined=True).digest()
    varied = specify("breast-cancer", ["adam"], ["cosine"], vary={"precision": ["auto"]}, examined=True)
    assert [arm.settings for arm in varied.arms] == [{"precision": expected}]
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("cpu") == expected


def test_a_task_whose_default_is_auto_stores_what_it_gets(units, cifar_archive):
    expected = "bfloat16" if units else "float32"
    assert specify("cifar10", ["adam"], ["cosine"], examined=True).settings == {"precision": expected}
    other = {"precision": "float32", "batch_size": 64}
    assert specify("cifar10", ["adam"], ["cosine"], settings=other, examined=True).settings == other
    varied = specify("cifar10", ["adam"], ["cosine"], vary={"precision": ["auto"]}, examined=True)
    assert varied.settings == {} and [arm.settings for arm in varied.arms] == [{"precision": expected}]


def test_an_unknown_precision_is_an_error():
    with pytest.raises(ArgumentError, match="precision must be one of float32, bfloat16 and auto, got 'float16'"):
        get_task("digits", precision="float16")


def test_a_task_made_of_a_built_in_one_has_the_precision_of_its_decorator():
    class Mine(type(get_task("digits"))):
        """Digits."""

    own = fl.task(steps=40, precision="bfloat16")(Mine)
    assert own().precision == "bfloat16" and own.settings == {"batch_size": 64}


def test_the_report_says_which_precision_ran(tmp_path):
    study = fl.compare(
        "breast-cancer",
        ["adam@lr=0.01"],
        steps=20,
        trials=1,
        seeds=2,
        jobs=0,
        out=tmp_path,
        vary={"precision": ["float32", "bfloat16"]},
    )
    text = " ".join(part.text for part in methods(study.record).blocks)
    assert "computed in bfloat16 (autocast; parameters and optimizers are float32) or float32, as the arms say" in text
    losses = [study.confirmation(arm)[0].metrics["test_loss"] for arm in study.arms]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)  # bfloat16 has 8 bits
