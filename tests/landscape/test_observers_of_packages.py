"""Monitor, watch and lr_range work beside every optimizer of the package pytorch_optimizer that trains a small net."""

import warnings

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, ObserverWarning
from fallline.landscape import Monitor, lr_range
from support.strange_states import content

pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed: its optimizers are not observed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the optimizers warn about themselves
LEAST = 100  # that run; 114 of version 4.1.0


def data():
    g = torch.Generator().manual_seed(1)
    return torch.randn(16, 6, generator=g), torch.randint(0, 3, (16,), generator=g)


def loss(model, batch):
    return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])


def build(cls):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    try:
        return model, cls(model.parameters())
    except TypeError:
        return model, cls(model.parameters(), lr=1e-3)


def step(model, optimizer, create_graph):
    """Make a step; some optimizers need the closure, and some the graph of the gradient."""

    def closure():
        optimizer.zero_grad()
        value = loss(model, data())
        value.backward(create_graph=create_graph)
        return value

    torch.manual_seed(2)
    return torch.as_tensor(optimizer.step(closure)).detach()


def train(cls, create_graph, observe=lambda model, optimizer: None, steps=3):
    model, optimizer = build(cls)
    observer = observe(model, optimizer)
    for _ in range(steps):
        step(model, optimizer, create_graph)
    if observer is not None:
        observer.close()
    return model, optimizer


def optimizers():
    """Return the classes that train the net, each with whether it needs the graph of the gradient."""
    from pytorch_optimizer import get_supported_optimizers, load_optimizer

    found = {}
    for name in sorted(get_supported_optimizers()):
        for create_graph in (False, True):
            try:
                train(load_optimizer(name), create_graph)
            except Exception:  # it needs other arguments, other parameters, or a package that is not there
                continue
            found[name] = load_optimizer(name), create_graph
            break
    return found


@pytest.fixture(scope="module")
def running():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are tiny, and threads that wait take most of the time
    found = optimizers()
    assert len(found) >= LEAST
    yield found
    torch.set_num_threads(threads)


def weights(model):
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("observer", ["Monitor", "watch"])
def test_no_observer_ends_or_changes_a_training(running, observer):
    rows = []

    def observe(model, optimizer):
        if observer == "watch":
            return fl.watch(optimizer)
        return Monitor(model, optimizer, every=1, sinks=[rows.append])

    for name, (cls, create_graph) in running.items():
        rows.clear()
        expected = weights(train(cls, create_graph)[0])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = weights(train(cls, create_graph, observe)[0])
        assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(found, expected, strict=True)), name
        texts = [str(warning.message) for warning in said if warning.category is ObserverWarning]
        assert len(texts) == len({text.partition(",")[0] for text in texts}) <= 2, (name, texts)
        if observer == "Monitor":
            assert len(rows) == 3 and all("update_ratio" in row for row in rows), name


def test_a_range_test_restores_every_optimizer(running):
    without_rate = []
    for name, (cls, create_graph) in running.items():
        model, optimizer = train(cls, create_graph, steps=3)

        def one(batch, model=model, optimizer=optimizer, create_graph=create_graph):
            return step(model, optimizer, create_graph)

        before = content([optimizer, weights(model), [p.grad for p in model.parameters()]])
        try:
            lr_range(model, optimizer, None, [data()] * 20, steps=10, high=1e-2, step=one)
        except ArgumentError as error:
            assert "must have a learning rate lr in every group" in str(error), name
            without_rate.append(name)
        assert content([optimizer, weights(model), [p.grad for p in model.parameters()]]) == before, name
    assert len(without_rate) <= 1
