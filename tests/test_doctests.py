"""The examples in docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import fallline

MODULES = [module.name for module in pkgutil.walk_packages(fallline.__path__, "fallline.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    failures, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failures == 0


def test_there_are_examples():
    found = sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES)
    assert found > 40
