"""Kernels treat denormals as 0, change nothing else, and leave the floating-point mode of every thread as it was."""

import platform

import numpy as np
import pytest
import torch

import fallline as fl

TINY = 1e-40  # a float32 denormal
PARALLEL = 1 << 21  # elements that a kernel distributes over threads, and torch too

if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
    # Each family of processors has a register of its own for this mode; no others are known to `fused/denormals.py`.
    pytest.skip("kernels keep denormals on this processor", allow_module_level=True)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def flushing():
    """Torch's own switch, for this thread."""
    torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


def optimizer(cls, values, grads, **options):
    """Return a parameter and a fused optimizer of it."""
    param = torch.nn.Parameter(torch.as_tensor(values).clone())
    param.grad = torch.as_tensor(grads).clone()
    return param, getattr(fl, cls)([param], backend="fused", **options)


def torch_keeps_denormals():
    """Return whether torch's arithmetic keeps denormals in every thread that computes a large tensor."""
    return bool((torch.full((PARALLEL,), TINY) * 0.5 > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("cls", "options", "key"),
    [
        ("SGD", {"momentum": 0.9}, "momentum_buffer"),
        ("AdamW", {}, "exp_avg"),
        ("AdamW", {}, "exp_avg_sq"),
        ("Lion", {}, "exp_avg"),
        ("RMSprop", {}, "square_avg"),
        ("Adafactor", {}, "variance"),  # a loop of the rules of whole tensors
    ],
)
def test_a_denormal_state_becomes_zero(cls, options, key, dtype):
    wanted = {} if dtype == torch.float32 else {"state_dtype": dtype}
    param, opt = optimizer(cls, torch.ones(100), torch.zeros(100), lr=0.1, **options, **wanted)
    opt.step()
    opt.state[param][key].fill_(TINY)
    opt.step()
    assert opt.state[param][key].dtype == dtype
    assert not opt.state[param][key].any()


@pytest.mark.parametrize("elements", [10, PARALLEL])
def test_ordinary_elements_next_to_denormals_are_those_of_numpy_to_the_bit(elements, two_threads):
    rng = np.random.default_rng(0)
    param, grad = rng.standard_normal((2, elements), dtype=np.float32)
    buffer = grad.copy()
    tiny = rng.random(elements) < 0.5
    buffer[tiny] = TINY
    torch_param, opt = optimizer("SGD", param, grad, lr=0.25, momentum=0.5)
    opt.step()
    opt.state[torch_param]["momentum_buffer"].copy_(torch.from_numpy(buffer))
    torch_param.data.copy_(torch.from_numpy(param))
    opt.step()
    # Products with powers of 2 are exact, so it does not matter whether a kernel contracts them with a sum.
    buffer = np.float32(0.5) * np.where(tiny, np.float32(0), buffer) + grad
    param = param - np.float32(0.25) * buffer
    np.testing.assert_array_equal(opt.state[torch_param]["momentum_buffer"].numpy(), buffer)
    np.testing.assert_array_equal(torch_param.detach().numpy(), param)


@pytest.mark.parametrize("elements", [10, PARALLEL])
@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 1.0}])
def test_torch_keeps_its_denormals_in_every_thread(elements, options, two_threads):
    assert torch_keeps_denormals()
    _, opt = optimizer("AdamW", torch.ones(elements), torch.ones(elements), **options)
    for _ in range(3):
        opt.step()
        assert torch_keeps_denormals()


def test_a_flushing_mode_of_the_caller_is_kept(flushing):
    _, opt = optimizer("SGD", torch.ones(10), torch.ones(10), lr=0.1)
    opt.step()
    assert not (torch.full((10,), TINY) * 0.5).any()


def test_denormals_of_float16_parameters_are_kept():
    """They are ordinary numbers in float32, in which kernels compute."""
    every = torch.arange(-1023, 1024) * 2.0**-24
    param, opt = optimizer("SGD", every.half(), torch.zeros(len(every)).half(), lr=0.5)
    opt.step()
    assert torch.equal(param.detach().double(), every.double())
    param.grad = every.half()
    opt.step()
    assert torch.equal(param.detach(), (every.double() / 2).half())


def test_denormals_of_float16_gradients_count_in_norms():
    _, opt = optimizer("SGD", torch.ones(4).half(), torch.full((4,), 2.0**-24).half(), lr=0.5, clip_grad_norm=1.0)
    opt.step()
    assert float(opt.grad_norm) == 2.0**-23
