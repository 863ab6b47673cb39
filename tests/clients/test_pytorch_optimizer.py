"""The wrappers of pytorch_optimizer work around Fallline's optimizers as around PyTorch's."""

import copy

import pytest
import torch

import fallline as fl
from support.clients import STEPS, batches, classes_loss, equal, network, scheduler_of, weights

reason = 'pytorch_optimizer is not installed: pip install "fallline[dev]"'
wrappers = pytest.importorskip("pytorch_optimizer", reason=reason)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of modules that are imported with it

BUILDERS = {
    "Lookahead": lambda optimizer: wrappers.Lookahead(optimizer, k=3),
    "OrthoGrad": lambda optimizer: wrappers.OrthoGrad(optimizer),
}


def train(model, optimizer, data):
    for batch in data:
        optimizer.zero_grad()
        classes_loss(model, batch).backward()
        optimizer.step()


def run(build, cls, steps=STEPS):
    model = network()
    optimizer = build(cls(model.parameters(), lr=0.05, weight_decay=0.1))
    train(model, optimizer, batches()[:steps])
    return model, optimizer


@pytest.mark.parametrize("name", BUILDERS)
def test_a_wrapper_gives_the_weights_that_it_gives_around_torchs_optimizer(name):
    ours, theirs = (run(BUILDERS[name], cls)[0] for cls in (fl.AdamW, torch.optim.AdamW))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # float32


@pytest.mark.parametrize("name", BUILDERS)
def test_a_wrapper_resumes(name):
    whole, _ = run(BUILDERS[name], fl.AdamW)
    model, optimizer = run(BUILDERS[name], fl.AdamW, 3)
    other = network()
    other.load_state_dict(model.state_dict())
    resumed = BUILDERS[name](fl.AdamW(other.parameters(), lr=0.05, weight_decay=0.1))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(other, resumed, batches()[3:])
    assert equal(weights(other), weights(whole))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_wrapper_is_scheduled_linted_and_watched(name):
    model = network()
    inner = fl.AdamW(model.parameters(), lr=0.05)
    optimizer = BUILDERS[name](inner)
    scheduler = scheduler_of(inner)
    outside, inside = (fl.lint(model, each, scheduler, total_steps=STEPS) for each in (optimizer, inner))
    assert [finding.id for finding in outside] == [finding.id for finding in inside] != []
    with fl.watch(inner) as watch:
        train(model, optimizer, batches())
    assert (watch.record.steps, watch.record.not_zeroed) == (STEPS, 0)
