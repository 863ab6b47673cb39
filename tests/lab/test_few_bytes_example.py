"""The optimizers of examples/few_bytes.py run in the lab, each with the storage of its name."""

import runpy
from pathlib import Path

import pytest
import torch

import fallline as fl
from fallline.lab.tasks import TASKS

FILE = Path(__file__).parents[2] / "examples" / "few_bytes.py"


def test_every_optimizer_stores_what_its_name_says():
    made = runpy.run_path(str(FILE))
    for task, rates in made["RATES"].items():
        assert task in TASKS and rates.keys() == {"AdamW", "Lion", "SGD", "AdEMAMix"}
        for name in rates:
            for storage in made["STORAGES"]:
                model = torch.nn.Linear(40, 10)
                opt = made[f"{name}{storage}"](model.parameters(), lr=0.1)
                model(torch.ones(2, 40, dtype=model.weight.dtype)).sum().backward()
                opt.step()
                state = opt.state[model.weight]
                assert any(key.endswith("_codes") for key in state) == ("Int8" in storage)
                assert (model.weight.dtype == torch.bfloat16) == ("Split24" in storage) == ("master" in state)
                assert "Split24" not in storage or state["master"].dtype == torch.int8


@pytest.mark.slow
def test_the_lab_compares_them(tmp_path):
    arms = [f"{FILE}:AdamW{storage}@lr=0.01" for storage in ("Float32", "Int8", "Split24Int8")]
    size = {"steps": 60, "trials": 1, "seeds": 2, "jobs": 0, "progress": False}
    study = fl.compare("digits", arms, settings={"precision": "bfloat16"}, out=tmp_path / "study", margin=0.5, **size)
    assert set(study.results) == set(arms[1:])
    assert all(result.comparison.percent(result.comparison.difference) < 10 for result in study.results.values())
