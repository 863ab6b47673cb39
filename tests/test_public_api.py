"""What `import fallline` gives, and what it does not cost."""

import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from typing import get_type_hints

import pytest
import torch

import fallline
from fallline import errors, optimizers, schedules
from fallline.core.common_options import CommonOptions
from fallline.optimizers import OPTIMIZERS

EAGER = [name for name in fallline.__all__ if name not in fallline._LAZY]
HEAVY = ["numba", "scipy", "sklearn", "altair", "typer", "rich", "jinja2", "pandas", "pooch", "ray", "matplotlib"]


@pytest.mark.slow
def test_importing_fallline_imports_nothing_heavy():
    """In a new process, where torch alone takes over a second to import; compared with what torch brings along."""
    code = f"import json, sys, {{}}; print(json.dumps(sorted(set(sys.modules) & set({HEAVY}))))"
    loaded = [
        json.loads(subprocess.run([sys.executable, "-c", code.format(m)], capture_output=True, check=True).stdout)
        for m in ("torch", "fallline")
    ]
    assert loaded[0] == loaded[1]
    assert not {"numba", "typer", "altair"} & set(loaded[1])


def test_names_are_sorted_and_exist():
    def order(name):
        return not name.isupper(), not name[0].isupper(), name  # as ruff sorts __all__

    assert fallline.__all__ == sorted(set(fallline.__all__), key=order)
    assert all(hasattr(fallline, name) for name in EAGER)
    assert {cls.__name__ for cls in OPTIMIZERS.values()} < set(fallline.__all__)
    with pytest.raises(AttributeError, match="zebra"):
        fallline.zebra  # noqa: B018


def test_everything_public_is_documented():
    public = [getattr(fallline, name) for name in EAGER]
    public += [getattr(module, name) for module in (optimizers, schedules) for name in module.__all__]
    public += [value for value in vars(errors).values() if getattr(value, "__module__", None) == errors.__name__]
    for thing in public:
        if callable(thing) or inspect.ismodule(thing):
            assert thing.__doc__, thing
            methods = vars(thing).items() if inspect.isclass(thing) else ()
            for name, method in methods:
                if inspect.isfunction(method) and not name.startswith("_"):
                    assert method.__doc__, (thing, name)


@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizers_docstring_lists_its_arguments_in_order(cls):
    section = cls.__doc__.split("Args:")[1].split("Raises:")[0]
    listed = re.findall(r"^        (\w+): ", section, re.MULTILINE)
    common = re.findall(r"^        (\w+): ", CommonOptions.__doc__, re.MULTILINE)
    parameters = list(inspect.signature(cls).parameters)
    assert set(parameters) <= {*listed, *common}
    assert [name for name in parameters if name in listed] == listed
    assert "see `fallline.core.common_options.CommonOptions`" in section
    assert "Example:" in cls.__doc__ and "Raises:" in cls.__doc__


def test_the_options_of_every_optimizer_are_documented_in_order():
    listed = re.findall(r"^        (\w+): ", CommonOptions.__doc__, re.MULTILINE)
    assert listed == list(get_type_hints(CommonOptions))


@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_rule_says_what_it_is(cls):
    rule = cls.rule
    assert rule.formula and rule.source
    for section in ("State:", "Hyper:", "Follows:", "Differs:"):
        assert section in rule.function.__doc__
    assert all(key in rule.function.__doc__ for key in (*rule.state, *rule.arguments) if key != "first")


def test_optimizers_are_found_by_their_rules_names():
    found = {}
    for info in pkgutil.walk_packages(optimizers.__path__, "fallline.optimizers."):
        module = importlib.import_module(info.name)
        for cls in vars(module).values():
            if inspect.isclass(cls) and cls.__module__ == module.__name__ and hasattr(cls, "rule"):
                found[cls.rule.name] = cls
    assert found == OPTIMIZERS
    assert all(name == cls.__name__.lower() for name, cls in OPTIMIZERS.items())


def test_dir_lists_the_public_names_and_nothing_else():
    assert dir(fallline) == sorted(fallline.__all__)


def test_public_objects_have_one_line_each():
    model = torch.nn.Linear(3, 1)
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    H = fallline.landscape.Hessian(model, lambda model, batch: model(batch).square().mean(), [inputs])
    shown = [
        H,
        H.eigsh(2),
        H.trace(),
        H.sharpness(),
        H.spectral_density(),
        H.classify_point(),
        fallline.recipes.convnet(torch.nn.Conv2d(3, 8, 3), total_steps=100),
        fallline.schedules.cosine(10),
        fallline.trial(),
    ]
    for thing in shown:
        text = repr(thing)
        assert "\n" not in text and " object at 0x" not in text, text
        assert len(text) < 400, text


def test_the_solvers_are_methods_of_operators():
    H = fallline.landscape.Dense(torch.diag(torch.tensor([3.0, 1.0, -2.0])))
    assert torch.equal(H.eigsh(1).values, fallline.landscape.eigsh(H, 1).values)
    assert H.trace() == fallline.landscape.trace(H)
