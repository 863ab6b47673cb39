"""The decorator, and how a class is found again in other processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.lab.tasks import Digits, Task, get_task
from fallline.lab.tasks.custom import name_of
from fallline.lab.user_code.code_digest import _constant
from fallline.lab.user_code.import_path import is_here, load_object, path_of
from fallline.lab.user_code.sources import sources_of

METHODS = """
    def model(self):
        return torch.nn.Linear(1, 1)
    def batches(self, split, generator):
        yield torch.zeros(2, 1)
    def loss(self, model, batch):
        return model(batch).sum()
"""
FILE = f"""
import torch, fallline
@fallline.task(steps=30, batch_size=2)
class Mine:{METHODS}
"""


class Plain:
    def model(self):
        return torch.nn.Linear(1, 1)

    def batches(self, split, generator):
        yield torch.zeros(2, 1)

    def loss(self, model, batch):
        return model(batch).sum()


def own(cls=Plain, **arguments):
    return fl.task(**{"steps": 30, **arguments})(cls)


def test_a_decorated_class_is_a_task_with_what_was_given():
    mine = own(precision="bfloat16", accumulate=2, unit="nats", batch_size=4, augment=False)
    assert issubclass(mine, Task) and issubclass(mine, Plain)
    assert (mine.name, mine.__name__, mine.__qualname__, mine.__module__) == ("Plain", "Plain", "Plain", __name__)
    assert (mine.steps, mine.metric, mine.mode, mine.precision) == (30, "val_loss", "min", "bfloat16")
    assert (mine.accumulate, mine.unit) == (2, "nats")
    assert mine.settings == {"batch_size": 4, "augment": False}
    assert mine().size(torch.zeros(5, 1)) == 5 and mine().evaluate(None, None) == {}


def test_the_summary_is_the_first_line_of_the_docstring():
    class Spirals(Plain):
        """Three spirals.

        More.
        """

    assert own(Spirals).summary == "Three spirals"
    assert own(Spirals, summary="Two").summary == "Two"
    assert own().summary == "Plain"


def test_settings_are_attributes_before_init_runs():
    class Prepared(Plain):
        def __init__(self):
            super().__init__()
            self.twice = 2 * self.batch_size

    prepared = own(Prepared, batch_size=4)
    assert prepared().twice == 8
    assert (prepared(batch_size=5).twice, prepared(batch_size=5).batch_size) == (10, 5)

    class Further(prepared):
        pass

    further = own(Further, width=1.0)
    assert further.settings == {"batch_size": 4, "width": 1.0}
    assert further(batch_size=6, width=2).twice == 12
    assert type(further(width=2).width) is float


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batchsize": 4}, "task Plain: its settings are batch_size, got batchsize=4; did you mean batch_size?"),
        ({"batch_size": 4.0}, "task Plain: batch_size must be of type int, got batch_size=4.0"),
        ({"batch_size": True}, "task Plain: batch_size must be of type int, got batch_size=True"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ArgumentError, match=message):
        own(batch_size=8)(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 19}, "steps must be an int >= 20, got steps=19"),
        ({"steps": 1e3}, "steps must be an int >= 20, got steps=1000.0"),
        ({"accumulate": 0}, "accumulate must be an int >= 1, got accumulate=0"),
        ({"metric": "accuracy"}, "metric must be a validation metric, got metric='accuracy'; pass \"val_accuracy\""),
        ({"metric": "test_dice"}, "got metric='test_dice'; pass \"val_dice\""),
        ({"metric": "val_"}, "metric must be \"val_\" followed by a name, got metric='val_'"),
        ({"metric": "val_dice"}, "got mode=None with metric='val_dice'; pass mode=\"max\" if larger values are better"),
        ({"mode": "maximum"}, 'mode must be "min" or "max", got mode=\'maximum\''),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
        ({"loss": 3}, "a setting must not have the name of a task attribute, got 'loss'; rename it"),
        ({"name": "x"}, "got 'name'; rename it"),
        ({"widths": [1, 2]}, r"must be a bool, int, float or str, got widths=\[1, 2\]; pass a number or a name"),
    ],
)
def test_arguments_are_checked_before_the_class_is_seen(arguments, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=f"^task: .*{message}"):
        fl.task(**{"steps": 30, **arguments})


def test_steps_must_be_given():
    with pytest.raises(ArgumentTypeError, match=r"write @fallline\.task\(steps=2000\) above class Plain"):
        fl.task(Plain)
    with pytest.raises(ArgumentTypeError, match="steps must be given"):
        fl.task()(Plain)
    with pytest.raises(ArgumentTypeError, match="must decorate a class, got 3"):
        fl.task(steps=30)(3)


class Lossless:
    model, batches = Plain.model, Plain.batches


class Greedy(Plain):
    def batches(self, split):
        return super().batches(split, None)


class Sized(Plain):
    def size(self, model, batch):
        return 1


class Configured(Plain):
    def __init__(self, width):
        self.width = width


class Static(Plain):
    width = 3

    @staticmethod
    def loss(model, batch):
        return model(batch).sum()

    @classmethod
    def model(cls):
        return torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (
            Lossless,
            {},
            r"must have the methods model, batches, loss, got no loss; write def loss\(self, model, batch\)",
        ),
        (Greedy, {}, r"batches must take \(self, split, generator\), got batches\(self, split\); the lab passes"),
        (Sized, {}, r"size must take \(self, batch\), got size\(self, model, batch\)"),
        (Configured, {}, r"__init__ must take \(self\), got __init__\(self, width\)"),
        (
            Static,
            {"width": 4},
            r"a setting must not be defined in the class too, got 'width'; keep @fallline.task\(width",
        ),
        (Plain, {"metric": "val_dice", "mode": "max"}, r'got no such method; add one that returns \{"dice": …\}'),
    ],
)
def test_methods_are_checked(cls, arguments, message):
    with pytest.raises(ArgumentError, match=f"^task {cls.__name__}: .*(?:{message})"):
        own(cls, **arguments)


def test_methods_may_be_static():
    assert own(Static)().loss(torch.nn.Identity(), torch.ones(2)) == 2.0


def test_a_file_is_found_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.py").write_text(FILE)
    mine = load_object("task", "sub/mine.py:Mine")
    assert name_of(mine) == "sub/mine.py:Mine"
    monkeypatch.chdir(tmp_path / "sub")
    assert name_of(mine) == "mine.py:Mine"
    monkeypatch.chdir("/")
    assert name_of(mine) == f"{(tmp_path / 'sub' / 'mine.py').relative_to('/')}:Mine"
    assert get_task(name_of(mine), batch_size=5).batch_size == 5


def test_built_in_and_importable_classes_have_names():
    assert name_of(Digits) == "digits" and name_of("any text") == "any text"
    assert path_of(torch.optim.NAdam) == "torch.optim.nadam:NAdam"
    assert load_object("task", path_of(Task)) is Task
    with pytest.raises(
        ArgumentTypeError,
        match=r"decorated with @fallline.task or a function .*, got <class 'test_custom_task.Plain'>; decorate",
    ):
        name_of(Plain)


def test_what_a_function_defines_is_known_here_only():
    first = own()  # its name leads to the class without the decorator
    text = name_of(first)
    assert text == "here:Plain" and is_here(text) and not is_here("mine.py:Plain")
    assert type(get_task(text)) is first
    with pytest.raises(ArgumentError, match="got 'here:Elsewhere' in another process; pass jobs=0, or move it"):
        get_task("here:Elsewhere")


def test_a_cell_that_is_run_again_replaces_the_class_and_changes_its_digest():
    def cell(factor, offset=0):
        source = "class Cell(Plain):\n def loss(self, model, batch):\n  return FACTOR * model(batch).sum()\n"
        space = {"Plain": Plain, "__name__": "nowhere"}
        exec("\n" * offset + source.replace("FACTOR", str(factor)), space)
        mine = own(space["Cell"])
        return mine, sources_of(name_of(mine))[name_of(mine)]

    (_, one), (again, same), (changed, other) = cell(3), cell(3, offset=5), cell(4)
    assert again is not changed and type(get_task("here:Cell")) is changed
    assert one == same != other


def test_the_digest_of_a_set_does_not_depend_on_its_order():
    one, other = frozenset([0, 8]), frozenset([8, 0])  # the same slot of the hash table
    assert repr(one) != repr(other) and _constant(one) == _constant(other) != _constant(frozenset([0]))


def test_a_file_with_a_mistake_is_one_sentence_with_its_line(tmp_path):
    file, before = tmp_path / "mine.py", set(sys.modules)
    for text, message in (
        (FILE + "\nspam", r"must run without an error, got NameError: name 'spam' is not defined \(mine.py, line 13\)"),
        (FILE.replace("steps=30", "steps=3"), "task: steps must be an int >= 20, got steps=3"),
    ):
        file.write_text(text)
        with pytest.raises(ArgumentError, match=message):
            get_task(f"{file}:Mine")
    assert not [name for name in set(sys.modules) - before if name.startswith("mine_")]


def test_a_file_may_import_its_neighbour_in_a_method(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "neighbour_of_mine.py").write_text("import torch\nNet = torch.nn.Identity")
    (tmp_path / "mine.py").write_text(
        FILE.replace("return torch.nn.Linear(1, 1)", "import neighbour_of_mine as n; return n.Net()")
    )
    assert isinstance(get_task(f"{tmp_path}/mine.py:Mine").model(), torch.nn.Identity)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["mine.py"], "mine.py:Mine"),
        (["-m", "mine"], "mine:Mine"),
        (["-m", "package.mine"], "package.mine:Mine"),
        (["-c", "from package.mine import Mine; from fallline.lab.tasks.custom import *; print(name_of(Mine))"], None),
        (["-c", FILE + "\nfrom fallline.lab.tasks.custom import *; print(name_of(Mine))"], "here:Mine"),
    ],
    ids=["script", "module", "package", "imported", "prompt"],
)
def test_the_name_is_found_again_in_another_process(tmp_path, command, text):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    for folder in (tmp_path, tmp_path / "package"):
        (folder / "mine.py").write_text(
            FILE + "\nif __name__ == '__main__':\n    from fallline.lab.tasks.custom import *\n    print(name_of(Mine))"
        )
    run = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    source = {"env": {"PYTHONPATH": str(Path(fl.__file__).parents[1]), "PATH": ""}}
    found = subprocess.run([sys.executable, *command], **run, **source).stdout.strip()
    assert found == (text or "package.mine:Mine")
    load = "import sys; sys.path.remove(''); from fallline.lab.tasks import get_task; "
    load += "print(get_task(sys.argv[1], batch_size=3).batch_size)"
    again = subprocess.run([sys.executable, "-c", load, found], **run, **source)
    assert again.stdout == "3\n" or (text == "here:Mine" and "pass jobs=0" in again.stderr)
