"""What all adapters have in common: without its library, an adapter says how to install it."""

import importlib
import sys

import pytest

import fallline as fl
from fallline.errors import MissingExtraError

PACKAGES = {"fastai": "fastai", "huggingface": "transformers", "lightning": "lightning.pytorch", "skorch": "skorch"}


@pytest.mark.parametrize("name", PACKAGES)
def test_without_its_library_an_adapter_says_how_to_install_it(name, monkeypatch):
    for module in [PACKAGES[name], f"{PACKAGES[name]}.callback.schedule"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"fallline.integrations.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"^{name}: .* not installed; run pip install {PACKAGES[name][:6]}"):
        importlib.import_module(f"fallline.integrations.{name}")


def test_adapters_are_found_by_name():
    assert dir(fl.integrations) == sorted(PACKAGES)
    with pytest.raises(AttributeError, match="no attribute 'keras'"):
        fl.integrations.keras  # noqa: B018
