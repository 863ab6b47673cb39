"""skorch's NeuralNetClassifier trains as the plain loop does, and resumes from the files that it saves."""

import numpy as np
import pytest
import torch

import fallline as fl
from support.clients import STEPS, WEIGHTS, batches, equal, expected, network, weights

skorch = pytest.importorskip("skorch", reason='skorch is not installed: pip install "fallline[clients]"')
pytestmark = pytest.mark.slow

DATA = batches()
INPUTS = np.concatenate([inputs.numpy() for inputs, _ in DATA])
CLASSES = np.concatenate([classes.numpy() for _, classes in DATA])
HALF = len(CLASSES) // 2


def classifier(**changes):
    scheduler = skorch.callbacks.LRScheduler(
        fl.WarmupCosine, step_every="batch", warmup_steps=2, total_steps=changes.pop("total_steps", STEPS)
    )
    options = {
        "module": network(),
        "criterion": torch.nn.CrossEntropyLoss,
        "optimizer": fl.AdamW,
        "optimizer__weight_decay": WEIGHTS["weight_decay"],
        "optimizer__clip_grad_norm": WEIGHTS["clip_grad_norm"],
        "lr": WEIGHTS["lr"],
        "batch_size": 4,
        "max_epochs": 1,
        "train_split": None,
        "iterator_train__shuffle": False,
        "callbacks": [("scheduler", scheduler)],
        "verbose": 0,
    }
    return skorch.NeuralNetClassifier(**options | changes)


def test_fit_equals_the_plain_loop():
    net = classifier().fit(INPUTS, CLASSES)
    assert equal(weights(net.module_), expected())


def test_saved_weights_and_state_resume(tmp_path):
    """Without a scheduler, which skorch starts anew in each call of partial_fit."""
    whole = classifier(callbacks=[]).fit(INPUTS, CLASSES)
    first = classifier(callbacks=[]).fit(INPUTS[:HALF], CLASSES[:HALF])
    first.save_params(f_params=tmp_path / "weights.pt", f_optimizer=tmp_path / "optimizer.pt")
    second = classifier(callbacks=[]).initialize()
    second.load_params(f_params=tmp_path / "weights.pt", f_optimizer=tmp_path / "optimizer.pt")
    second.partial_fit(INPUTS[HALF:], CLASSES[HALF:])
    assert equal(weights(second.module_), weights(whole.module_))


def test_its_optimizer_is_linted_and_watched():
    net = classifier().initialize()
    assert "not-inspected" not in [finding.id for finding in fl.lint(net.module_, net.optimizer_, total_steps=STEPS)]
    with fl.watch(net.optimizer_) as watch:
        net.partial_fit(INPUTS, CLASSES)
    assert (watch.record.steps, watch.record.not_zeroed) == (STEPS, 0)
