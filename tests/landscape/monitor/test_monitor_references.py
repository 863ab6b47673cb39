"""Observers keep neither the model nor the optimizer alive, and live as long as the optimizer."""

import gc
import weakref

import pytest
import torch

import fallline as fl
from fallline.landscape import Monitor

OBSERVERS = {
    "Monitor": lambda model, optimizer: Monitor(model, optimizer, every=1),
    "watch": lambda model, optimizer: fl.watch(optimizer),
}
OPTIMIZERS = {
    "ours": lambda params: fl.AdamW(params),
    "torch": lambda params: torch.optim.AdamW(params),
    "SAM": lambda params: fl.SAM(fl.SGD(params, lr=0.1)),
}
EVERY_OBSERVER = pytest.mark.parametrize("observe", OBSERVERS.values(), ids=OBSERVERS)


def train(observe, make, end):
    """Return weak references to a model and all that was made for its training, and what the user keeps."""
    model = torch.nn.Linear(3, 2)
    optimizer = make(model.parameters())
    observer = observe(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    model(torch.ones(2, 3)).sum().backward()  # a gradient has arrived, and there is no step any more
    kept = end(observer)
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return [weakref.ref(each) for each in (model, optimizer, *model.parameters(), *states)], kept


ENDS = {
    "dropped": lambda observer: None,
    "closed": lambda observer: observer.close(),
    "kept": lambda observer: observer,
    "closed and kept": lambda observer: observer.close() or observer,
    "left": lambda observer: observer.__exit__(None, None, None) or observer,
}


@EVERY_OBSERVER
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_nothing_is_kept_alive(observe, make, end):
    refs, kept = train(observe, make, end)
    gc.collect()
    assert [ref() for ref in refs if ref() is not None] == []
    assert kept is None or callable(kept.close)


def test_the_optimizer_keeps_the_monitor():
    model, rows = torch.nn.Linear(3, 2), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    Monitor(model, optimizer, every=1, sinks=[rows.append])
    for _ in range(2):
        gc.collect()
        for _ in range(2):
            model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["grad_norm"] > 0 and "noise_scale" in row for row in rows)
