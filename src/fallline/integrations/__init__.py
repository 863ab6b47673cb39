"""Adapters to other training libraries, imported at first use because each needs its library."""

from importlib import import_module
from typing import Any

LIBRARIES = ("fastai", "huggingface", "lightning", "skorch")


def __getattr__(name: str) -> Any:
    if name not in LIBRARIES:
        raise AttributeError(f"module 'fallline.integrations' has no attribute {name!r}")
    return import_module(f"fallline.integrations.{name}")


def __dir__() -> list[str]:
    return list(LIBRARIES)
