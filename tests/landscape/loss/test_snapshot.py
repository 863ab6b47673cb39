"""A measurement that trains restores whatever the state of an optimizer holds, at any depth."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, LandscapeWarning
from fallline.landscape import lr_range
from fallline.landscape.loss.preserve import memory_of, restoring
from fallline.landscape.loss.snapshot import Snapshot
from support.landscapes import batches, net, squares
from support.messages import check_message
from support.strange_states import RESTORED, STATES, Strange, content


def train(model, optimizer, steps):
    for batch in batches(4)[:1] * steps:
        optimizer.zero_grad()
        squares(model, batch).backward()
        optimizer.step()


def made(change, steps):
    model = net()
    optimizer = Strange(model.parameters(), change)
    train(model, optimizer, steps)
    return model, optimizer


@pytest.mark.parametrize("change", RESTORED, ids=lambda change: change.__name__)
def test_the_shapes_of_states_can_be_told_apart(change):
    """Otherwise the next test could not fail."""
    assert content(made(change, 1)[1]) != content(made(change, 2)[1])


@pytest.mark.parametrize("steps", [0, 2], ids=["fresh", "in mid-training"])
@pytest.mark.parametrize("change", STATES, ids=lambda change: change.__name__)
def test_any_state_is_restored(change, steps):
    model, optimizer = made(change, steps)
    before, held = content(optimizer), {id(value) for value in optimizer.state.values()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", LandscapeWarning)
        with restoring(model, optimizer):
            train(model, optimizer, 3)
    assert content(optimizer) == before
    assert {id(value) for value in optimizer.state.values()} == held


def test_the_history_of_lbfgs_is_restored():
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3, history_size=2)
    (batch,) = batches(4)

    def closure():
        optimizer.zero_grad()
        loss = squares(model, batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    before = content(optimizer)
    lr_range(model, optimizer, squares, [batch], steps=10, high=1e-2)
    assert content(optimizer) == before


def test_what_cannot_be_restored_is_named():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    optimizer.state["order"] = {"draws": iter([1, 2])}
    with pytest.warns(LandscapeWarning, match=r"lr_range: a list_iterator in .* its position cannot be read"):
        Snapshot("lr_range", [optimizer])


def test_an_error_in_one_value_leaves_the_others_restored():
    class Fixed(dict):
        fails = False

        def clear(self):
            if self.fails:
                raise TypeError("it is read-only")
            super().clear()

    fixed, free = Fixed(), {"a": [1]}
    restore = Snapshot("lr_range", [[fixed, free]])
    free["a"].append(2)
    fixed.fails = True
    with pytest.warns(LandscapeWarning, match="a Fixed in the state of the optimizer was not restored, because TypeE"):
        restore()
    assert free == {"a": [1]}


def test_deep_chains_and_hooks_of_the_user():
    deep = []
    for _ in range(5000):
        deep = [deep]
    optimizer, seen = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), []
    optimizer.state["deep"] = deep
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    restore = Snapshot("lr_range", [optimizer])
    optimizer.step()
    restore()
    assert seen == [1] and len(optimizer._optimizer_step_post_hooks) == 1


def test_the_memory_of_the_copies_counts_nested_tensors():
    model = torch.nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters())
    plain = memory_of(model, optimizer)
    optimizer.state["Q"] = [[torch.zeros(5), SimpleNamespace(basis=torch.zeros(7))]]
    assert memory_of(model, optimizer) == plain + 4 * (5 + 7)


def test_an_optimizer_without_a_learning_rate_is_refused():
    model, optimizer = made(lambda opt, param: opt.param_groups[0].pop("lr", None), 1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ArgumentError) as error:
        lr_range(model, optimizer, squares, batches(4))
    check_message(error, "lr_range", "optimizer must have a learning rate lr", "Strange", "cannot be varied")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_states_that_are_no_dicts_are_linted():
    model, optimizer = made(lambda opt, param: opt.state.__setitem__(param, torch.ones(2)), 1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    assert "stepped-before-optimizer" not in [f.id for f in fl.lint(model, optimizer, scheduler=scheduler)]
