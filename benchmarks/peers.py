"""Other Python implementations of optimizers, and the calls of torch that replace one call of Fallline."""

import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parents[1] / ".peers"
# Optimizer to (module, class, keywords) of each implementation.
PEERS: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "LAMB": [
        ("pytorch_optimizer", "Lamb", {}),
        ("torch_optimizer", "Lamb", {}),
        ("timm.optim.lamb", "Lamb", {"max_grad_norm": None}),
        ("timm.optim.lamb", "Lamb", {"max_grad_norm": None, "foreach": True}),
    ],
    "Lion": [
        ("pytorch_optimizer", "Lion", {}),
        ("lion_pytorch", "Lion", {}),
        ("timm.optim.lion", "Lion", {"foreach": False}),
        ("timm.optim.lion", "Lion", {"foreach": True}),
    ],
    "Muon": [("torch.optim", "Muon", {}), ("timm.optim.muon", "Muon", {})],
    "Adafactor": [
        ("torch.optim", "Adafactor", {"foreach": False}),
        ("torch.optim", "Adafactor", {"foreach": True}),
        ("pytorch_optimizer", "AdaFactor", {}),
    ],
    "SOAP": [("pytorch_optimizer", "SOAP", {"precondition_frequency": 10})],
}


def peers(name: str, params: list[torch.nn.Parameter]) -> dict[str, Callable[[], object]]:
    """Return the step of every installed public implementation of an optimizer, at its fastest settings."""
    steps: dict[str, Callable[[], object]] = {}
    for module, cls, options in PEERS.get(name, []):
        try:
            made = construct(module, cls, params, options)
        except (ImportError, TypeError) as error:
            warnings.warn(f"{module}.{cls}: must be installed to be compared with, got {error}", stacklevel=2)
            continue
        suffix = {True: " foreach", False: " loop", None: ""}[options.get("foreach")]
        steps[module.partition(".")[0] + suffix] = made.step
    return steps


def construct(module: str, cls: str, params: list[torch.nn.Parameter], options: dict[str, Any]) -> Any:
    """Return an optimizer of a class of a module, which may be installed only in .peers."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
        os.environ["PATH"] += os.pathsep + str(FOLDER / "bin")  # DeepSpeed compiles its optimizer with ninja
    return getattr(_load(module), cls)(params, lr=1e-5, **options)


def _load(module: str) -> types.ModuleType:
    """Import a module; import only the optimizers of timm, because its models need torchvision."""
    if module.startswith("timm.") and "timm" not in sys.modules:
        spec = importlib.util.find_spec("timm")
        if spec is None or not spec.submodule_search_locations:
            raise ImportError("timm is not installed")
        for name, folder in (("timm", ""), ("timm.optim", "optim")):
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = [str(Path(spec.submodule_search_locations[0], folder))]
    return importlib.import_module(module)


def clip_step_average(params: list[torch.nn.Parameter]) -> Callable[[], None]:
    """Return clipping, an AdamW step and an average of the parameters in torch: three calls, each the fastest."""
    optimizer = torch.optim.AdamW(params, lr=1e-4, fused=True)
    averages = [p.detach().clone() for p in params]

    @torch.no_grad()
    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()
        torch._foreach_lerp_(averages, [p.detach() for p in params], 0.001)

    return step
