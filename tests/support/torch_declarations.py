"""What the tests of PyTorch's optimizers declare: good inputs, bad inputs and schedulers of each class.

They stand in `torch.testing._internal.common_optimizers`, which ships with torch. It imports the whole of torch's test
framework, and that a package we do not need, for decorators of tests we do not run; stand-ins serve as well.
"""

import copy
import importlib.util
import sys
from typing import Any
from unittest import mock

import pytest
import torch

from fallline.optimizers import OPTIMIZERS

_INTERNAL = "torch.testing._internal"


def _load() -> Any:
    decorators = ("common_device_type", "common_methods_invocations", "common_utils")
    stand_ins = {f"{_INTERNAL}.{name}": mock.MagicMock(_TestParametrizer=object) for name in decorators}
    with mock.patch.dict(sys.modules, stand_ins):
        spec = importlib.util.find_spec(f"{_INTERNAL}.common_optimizers")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


COMMON = _load()
SUITES = ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adamax", "RAdam")
INFOS = {info.name: info for info in COMMON.optim_db if info.name in SUITES}
OURS = {name: OPTIMIZERS[name.lower()] for name in INFOS}


def inputs(info: Any, capturable: bool = False) -> dict[str, dict[str, Any]]:
    """Return the keywords by description: those declared for the CPU, or that ask for CUDA graphs.

    What is declared for other devices is not particular to them, but for `capturable`: tensor lr and betas.
    """
    declared = [each for device in ("cpu", "cuda", "mps") for each in info.optim_inputs_func(device=device)]
    asked = {each.desc: each.kwargs for each in declared}
    if capturable:
        return {desc: kwargs for desc, kwargs in asked.items() if kwargs.get("capturable")}
    return {desc: {k: v for k, v in kwargs.items() if k != "capturable"} for desc, kwargs in asked.items()}


def error_inputs(info: Any) -> list[Any]:
    """Return the inputs that must fail on the CPU."""
    return info.optim_error_inputs_func(device="cpu", dtype=torch.float32)


def torch_loop(info: Any, params: Any, **kwargs: Any) -> torch.optim.Optimizer:
    """Return torch's class with its implementation of a tensor at a time; tensor options are its own copies."""
    plain = {flag: False for flag in ("foreach", "fused") if flag in info.supported_impls}
    return info.optim_cls(params, **copy.deepcopy(kwargs), **plain)


EVERY_INFO = pytest.mark.parametrize("info", INFOS.values(), ids=INFOS)
EVERY_INPUT = pytest.mark.parametrize(
    ("info", "kwargs"),
    [pytest.param(i, kwargs, id=f"{i.name}-{desc}") for i in INFOS.values() for desc, kwargs in inputs(i).items()],
)
