"""Products of networks with convolutions: exact, and without torch's picture-sized kernels."""

import warnings

import pytest
import torch
from torch import nn

from fallline.errors import LandscapeWarning
from fallline.landscape import Hessian
from support.landscapes import loss, matrix, true_hessian

CONVOLUTIONS = [
    {},
    {"stride": 2, "padding": 1},
    {"groups": 2, "bias": False},
    {"dilation": 2, "padding": (2, 1)},
    {"padding": "valid"},
    {"padding": (1, 0), "stride": (1, 2)},
]


def convolutional(**options):
    torch.manual_seed(0)
    last = nn.Conv2d(2, 4, 2, **options)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), last, nn.Tanh(), *pooled).double()
    return model, (torch.randn(5, 1, 7, 6, dtype=torch.float64), torch.randint(2, (5,)))


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_every_kind_of_convolution_has_exact_products(options):
    model, batch = convolutional(**options)
    assert (matrix(Hessian(model, loss, batch)) - true_hessian(model, batch)).abs().max() < 1e-12


def test_a_product_has_no_convolution_with_a_kernel_of_the_size_of_the_picture():
    """PyTorch's own second derivative has, and takes twice as long for it."""
    model, batch = convolutional()
    H, kernels = Hessian(model, loss, batch), []

    class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default:
                kernels.append(tuple(args[1].shape[2:]))
            return func(*args, **(kwargs or {}))

    H @ torch.ones(H.shape[0], dtype=torch.float64)
    with Recorded():
        H @ torch.ones(H.shape[0], dtype=torch.float64)
    assert kernels and set(kernels) <= {(3, 3), (2, 2)}


def test_a_convolution_under_autocast_is_left_to_pytorch():
    model, batch = convolutional()
    model, batch = model.float(), (batch[0].float(), batch[1])

    def cast(m, b):
        with torch.autocast("cpu", torch.bfloat16):
            return loss(m, b)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LandscapeWarning)  # bfloat16 is too coarse for a finite difference
        assert matrix(Hessian(model, cast, batch)).isfinite().all()
