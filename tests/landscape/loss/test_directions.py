"""Directions are as long as the filters of the weights."""

import numpy as np
import pytest
import torch
from torch import nn

from fallline.landscape.loss.directions import filter_normalised


def test_filters_are_as_long_as_the_weights_own():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)).double()
    nn.init.normal_(model[1].bias)
    params = dict(model.named_parameters())
    noise = torch.Generator().manual_seed(7)
    for name, d in zip(params, filter_normalised(params, torch.Generator().manual_seed(7)), strict=True):
        w, raw = params[name].detach().numpy(), torch.randn(params[name].shape, generator=noise, dtype=torch.float64)
        if w.ndim == 1:
            assert not d.any()
            continue
        for own, row, random_row in zip(w, d.numpy(), raw.numpy(), strict=True):  # by hand, filter by filter
            by_hand = random_row / np.sqrt((random_row**2).sum()) * np.sqrt((own**2).sum())
            assert row == pytest.approx(by_hand, rel=1e-13)


def test_tensors_of_one_dimension_move_as_the_user_says():
    params = {"b": torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64), "s": torch.tensor(2.0, dtype=torch.float64)}

    def made(vectors):
        return filter_normalised(params, torch.Generator().manual_seed(0), vectors)

    assert not any(d.any() for d in made("zero"))
    bias, scalar = made("element")
    assert bias.abs().tolist() == pytest.approx([3.0, 4.0, 0.0]) and scalar.abs().item() == pytest.approx(2)
    whole, scalar = made("tensor")
    assert whole.norm() == pytest.approx(5) and scalar.abs() == pytest.approx(2)
    assert (whole != 0).all()


def test_a_filter_of_zeros_stays_put():
    (d,) = filter_normalised({"w": torch.tensor([[0.0, 0.0], [3.0, 4.0]])}, torch.Generator().manual_seed(0))
    assert d[0].tolist() == [0.0, 0.0] and d[1].norm() == pytest.approx(5)
