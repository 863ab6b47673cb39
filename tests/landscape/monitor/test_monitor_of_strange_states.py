"""Whatever the state of an optimizer holds, observers do not end its training and do not change it."""

import warnings

import pytest
import torch
from torch import nn

import fallline as fl
from fallline.errors import ObserverWarning
from fallline.landscape import Monitor
from support.landscapes import squares
from support.monitor_runs import batch, net
from support.strange_states import STATES, Strange, no_step, other_shape, step_zero, two_steps


def train(change, observe=lambda model, optimizer: None, steps=4):
    """Return the weights after a training, and the texts of its warnings."""
    model = net()
    optimizer = Strange(model.parameters(), change)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        observer = observe(model, optimizer)
        for k in range(steps):
            optimizer.zero_grad()
            squares(model, batch(k)).backward()
            optimizer.step()
        if observer is not None:
            observer.close()
    assert all(warning.category is ObserverWarning for warning in found)
    return [p.detach() for p in model.parameters()], [str(warning.message) for warning in found]


@pytest.mark.parametrize("change", STATES, ids=lambda change: change.__name__)
def test_any_state_is_observed(change):
    rows = []
    expected, _ = train(change)
    found, said = train(change, lambda model, optimizer: Monitor(model, optimizer, every=1, sinks=[rows.append]))
    assert all(map(torch.equal, found, expected))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all({"lr", "grad_norm", "clip_fraction", "update_ratio"} <= row.keys() for row in rows)
    assert len(said) <= 1 and all("second_moment_staleness is omitted, because" in text for text in said)
    assert ("second_moment_staleness" in rows[0]) == (change.__name__ in ("half_step", "nan"))
    found, said = train(change, lambda model, optimizer: fl.watch(optimizer))
    assert all(map(torch.equal, found, expected)) and said == []


CAUSES = {
    no_step: "the state of Strange has exp_avg_sq but no step, by which its bias is corrected",
    other_shape: "exp_avg_sq in the state of Strange does not have the shape of its parameter",
    step_zero: "the state of Strange has step=0.0, so its exp_avg_sq has no value yet",
    two_steps: "ValueError: only one element tensors can be converted",
}


@pytest.mark.parametrize(("change", "cause"), CAUSES.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_computed_is_named_once(change, cause):
    _, said = train(change, lambda model, optimizer: Monitor(model, optimizer, every=1))
    (text,) = said
    assert text.startswith(f"Monitor: second_moment_staleness is omitted, because {cause}")


def test_groups_without_a_learning_rate_are_observed():
    def strange(opt, param):
        opt.param_groups[0].pop("lr", None)

    rows = []
    _, said = train(strange, lambda model, optimizer: Monitor(model, optimizer, every=1, sinks=[rows.append]))
    assert said == ["Monitor: lr is omitted, because the groups of Strange have none"]
    assert all("lr" not in row and row["update_ratio"] > 0 for row in rows)


def test_a_sink_that_fails_gets_no_more_rows_and_the_others_do():
    rows, calls = [], []

    def full(row):
        calls.append(row)
        raise OSError(28, "No space left on device")

    def observe(model, optimizer):
        return Monitor(model, optimizer, every=1, sinks=[full, rows.append])

    _, said = train(lambda opt, param: None, observe)
    assert len(rows) == 4 and len(calls) == 1
    cause = "OSError: [Errno 28] No space left on device"
    assert said == [f"Monitor: each further row of the sink full is omitted, because {cause}"]


def test_an_interrupt_in_a_sink_ends_the_training():
    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(lambda opt, param: None, lambda model, optimizer: Monitor(model, optimizer, sinks=[stop]))


@pytest.mark.parametrize("observe", [fl.watch, lambda optimizer: None], ids=["watch", "nothing"])
def test_sparse_gradients_are_watched(observe):
    torch.manual_seed(0)
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)
    watch = observe(optimizer)
    for _ in range(4):
        table(torch.tensor([0, 2])).sum().backward()  # and no zero_grad
        optimizer.step()
    if watch is not None:
        assert [finding.id for finding in watch.findings()] == ["gradients-not-zeroed"]
        watch.close()
