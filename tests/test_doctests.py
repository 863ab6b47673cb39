"""The examples in docstrings run and give what they say, and are where a user looks for them."""

import doctest
import importlib
import pkgutil

import pytest

import fallline
from fallline.errors import MissingExtraError
from fallline.optimizers import OPTIMIZERS

MODULES = [module.name for module in pkgutil.walk_packages(fallline.__path__, "fallline.")]
LOOKED_UP = ["fallline.optimizers.create", *(cls.__module__ for cls in OPTIMIZERS.values())]
for package in (fallline.schedules, fallline.recipes):
    LOOKED_UP += [module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
WITHOUT = {"fallline.plotting", "fallline.group_values"}  # internal


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    try:
        module = importlib.import_module(name)
    except MissingExtraError as error:
        # An adapter imports its library, which only the extra `clients` installs; its own tests need it as well.
        assert name.startswith("fallline.integrations.")
        pytest.skip(str(error))
    failures, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failures == 0


@pytest.mark.parametrize("name", LOOKED_UP)
def test_what_a_user_constructs_has_an_example(name):
    found = doctest.DocTestFinder().find(importlib.import_module(name))
    assert any(each.examples for each in found) != (name in WITHOUT)
