"""The checks of Muon: what it should not update, and clipping, whose effect on its updates is measured here."""

import pytest
import torch
from torch import nn

import fallline as fl
from support.setups import model


def found(net, optimizer, id):
    return [finding for finding in fl.lint(net, optimizer) if finding.id == id]


def matrices(net):
    return [p for p in net.parameters() if p.dim() > 1]


LAYERS = "muon-on-embedding-or-head"
CLIPPING = "clipping-under-muon"


@pytest.mark.parametrize("route", [{"embedding": "muon"}, {"head": "muon"}, lambda name, p: "muon"])
def test_a_route_that_sends_them_to_muon_is_found(route):
    net = model()
    (finding,) = found(net, fl.Muon(net, route=route), LAYERS)
    for name, reason in (("embedding.weight", "an embedding"), ("head.weight", "the output layer")):
        assert (f"{name}, {reason}" in finding.message) == (callable(route) or name.partition(".")[0] in route)
    assert "layer.weight" not in finding.message


def test_muon_of_torch_is_found_and_hidden_matrices_are_not():
    net = model()
    if not hasattr(torch.optim, "Muon"):  # it came with torch 2.9
        pytest.skip(f"torch {torch.__version__} has no Muon")
    assert found(net, torch.optim.Muon(matrices(net)), LAYERS)
    assert not found(net, torch.optim.Muon([net["layer"].weight]), LAYERS)


def test_groups_of_other_packages_tell_by_use_muon():
    class SingleDeviceMuonWithAuxAdam(torch.optim.SGD):
        pass

    net = model()
    hidden = {"params": [net["layer"].weight], "use_muon": True}
    rest = {"params": [net["embedding"].weight, net["head"].weight], "use_muon": False}
    assert not found(net, SingleDeviceMuonWithAuxAdam([hidden, rest]), LAYERS)
    assert found(net, SingleDeviceMuonWithAuxAdam([hidden, {**rest, "use_muon": True}]), LAYERS)


def test_the_default_is_right_and_a_tied_head_is_named_once():
    net = model()
    for optimizer in (
        fl.Muon(net),
        fl.Muon(net, route={"layer": "muon"}),
        fl.SAM(fl.Muon(net)),
        fl.AdamW(matrices(net)),
    ):
        assert not found(net, optimizer, LAYERS)
    net["head"].weight = net["embedding"].weight
    (finding,) = found(net, fl.SAM(fl.Muon(net, route={"head": "muon"})), LAYERS)
    assert finding.message.startswith("Muon updates embedding.weight, an embedding, tied to head.weight: ")


def net_of_matrices():
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(2)])


def trained(sizes, **options):
    """Return weights after steps with gradients of given sizes."""
    net = net_of_matrices()
    groups = [{"params": list(net.parameters()), "algorithm": "muon"}]
    optimizer = fl.Muon(groups, lr=0.1, ns_dtype="float64", backend="reference", **options)
    for step, size in enumerate(sizes):
        for i, param in enumerate(net.parameters()):
            param.grad = size * torch.randn(6, 6, generator=torch.Generator().manual_seed(10 * step + i))
        optimizer.step()
    return net, optimizer


def distance(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one.parameters(), other.parameters(), strict=True))


SIZES = [1.0, 100.0, 0.1, 10.0]


@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_what_is_said_of_clipping_is_what_happens(momentum):
    plain, _ = trained(SIZES, momentum=momentum)
    clipped, optimizer = trained(SIZES, momentum=momentum, clip_grad_norm=0.01)
    (finding,) = found(clipped, optimizer, CLIPPING)
    if momentum:
        assert finding.message.endswith("it only reduces the weight of large gradients in the momentum")
        assert distance(plain, clipped) > 1e-2
        same, _ = trained([size / 100 for size in SIZES], momentum=momentum)  # as if every step were clipped alike
        assert distance(plain, same) < 1e-5
    else:
        assert finding.message.endswith("it has no effect at momentum 0")
        assert distance(plain, clipped) < 1e-5  # rounding of float32; each step has a length of about 0.1


def test_clipping_that_does_more_is_left_alone():
    net = net_of_matrices()
    assert not found(net, fl.Muon(net, clip_grad_norm=1.0), CLIPPING)  # the last layer is updated by AdamW
    every = [{"params": list(net.parameters()), "algorithm": "muon"}]
    assert found(net, fl.Muon(every, clip_grad_norm=1.0), CLIPPING)
    assert not found(net, fl.Muon(every, clip_grad_value=1.0), CLIPPING)  # it changes the direction
    assert not found(net, fl.Muon(every, clip_grad_norm=1.0, weight_decay_mode="l2"), CLIPPING)
    assert not found(net, fl.AdamW(net.parameters(), clip_grad_norm=1.0), CLIPPING)
