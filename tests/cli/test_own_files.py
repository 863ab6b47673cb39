"""Errors in the user's files and in what the user types: one sentence with the place and the remedy."""

import pytest
import torch

import fallline as fl
from fallline.errors import ArgumentError, ArgumentTypeError, ArgumentWarning, LossError, StudyError
from fallline.lab.race import race
from fallline.lab.specify import specify
from fallline.lab.tasks import find_task
from fallline.problems import Problem

TASK = """
import fallline, torch

@fallline.task(steps=40)
class Mine:
    START
    def model(self):
        return torch.nn.Linear(3, 1)

    def batches(self, split, generator):
        while split == "train":
            yield torch.randn(8, 3, generator=generator)
        yield torch.ones(8, 3) if split == "val" else torch.zeros(8, 3)

    def loss(self, model, batch):
        return (model(batch) - batch.sum(1, keepdim=True)).square().mean()ITEM
"""
FILES = {
    "mine.py": TASK.replace("START", "").replace("ITEM", ""),
    "two.py": TASK.replace("START", "").replace("ITEM", "") + "\n\nclass Other(Mine):\n    pass\n",
    "item.py": TASK.replace("START", "").replace("ITEM", ".item()"),
    "start.py": TASK.replace("START", "def __init__(self): self.x = undefined").replace("ITEM", ""),
    "syntax.py": "x = 1\n\ny = (x,\n",
    "imports.py": "import syntax\n",
    "exits.py": "import sys\n\nsys.exit('usage: exits.py DATA')\n",
    "lacks.py": "import nosuchpackage\n",
    "optimizer.py": "import torch\n\nclass Bad(torch.optim.SGD):\n    def __init__(self, params, lr=0.1): {}['x']\n",
    "schedule.py": "def words(steps, warmup_steps):\n    return lambda k: 'a'\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


SYNTAX = "got SyntaxError: '(' was never closed (syntax.py, line 3: y = (x,); fix it"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compare", "two.py"], "got two.py:Mine, two.py:Other; pass two.py:Mine"),
        (["compare", "schedule.py"], "got none; `fallline new-task` writes one"),
        (["compare", "mine"], "got 'mine'; did you mean mine.py?"),
        (["compare", "mine.py:mine"], "must define 'mine', got 'mine.py:mine'; did you mean Mine?"),
        (["compare", ":Mine"], "must be FILE.py:NAME or package.module:NAME, got ':Mine'; name the file"),
        (["compare", "nofile.py"], "nofile.py must be a file, got 'nofile.py'; relative paths"),
        (["compare", "syntax.py"], SYNTAX),
        (["lr-range", "imports.py:Mine"], SYNTAX),
        (["lint", "syntax.py:setup"], SYNTAX),
        (["compare", "syntax:Mine"], SYNTAX),
        (["compare", "--schedules", "syntax.py:f"], SYNTAX),
        (["landscape", "exits.py:Mine"], "got SystemExit: usage: exits.py DATA (exits.py, line 3); fix it"),
        (["data", "lacks.py:Mine"], "ModuleNotFoundError: No module named 'nosuchpackage' (lacks.py, line 1)"),
        (["compare", "item.py:Mine"], "return the tensor, not loss.item()"),
        (["compare", "start.py:Mine"], "got NameError: name 'undefined' is not defined (start.py, line 6); fix it"),
        (["data", "start.py:Mine"], "got NameError: name 'undefined' is not defined (start.py, line 6); fix it"),
        (["compare", "--optimizers", "optimizer.py:Bad"], "cannot be built (KeyError: 'x' (optimizer.py, line 4))"),
        (["compare", "--optimizers", "schedule.py:words"], "got a function; try torch.optim:NAdam"),
        (["compare", "--schedules", "schedule.py:words"], "must return numbers, got 'a' at step 0"),
        (["compare", "--optimizers", "adam(lr=0.1)"], "got 'adam(lr=0.1)'; write hyperparameters after an @"),
        (["compare", "--optimizers", "adam@LR=1"], "got 'adam@LR=1'; did you mean lr?"),
        (["compare", "--optimizers", "torch.optim.NAdam"], "did you mean torch.optim:NAdam?"),
        (
            ["compare", "--optimizers", "optimizer.py"],
            "name the class in it, as in optimizer.py:Mine",
        ),
        (
            ["compare", "--schedules", "schedule.py"],
            "name the function in it, as in schedule.py:mine",
        ),
        (["lint", "schedule.py"], "must name the set-up in the file, got 'schedule.py'; try schedule.py:setup"),
        (["compare", "--optimizers", "SDG"], "got 'SDG'; did you mean sgd?"),
        (
            ["schedules", "cosine()"],
            "must be (total_steps, min_lr, min_lr_ratio), got a call that does not fit (missing",
        ),
        (["schedules", "cosine(1,2,3,4,5)"], "got a call that does not fit (too many positional arguments)"),
        (["schedules", "cosine(x)"], "(x is not a number, a text or a list)"),
        (["schedules", "cosine(*[1])"], "(*[1] is not a number, a text or a list)"),
        (["schedules", "cosine(**{})"], "(** is not supported)"),
        (["schedules", "cosine(100"], "('(' was never closed)"),
        (["schedules", "cosine(total_steps=1, total_steps=2)"], "(total_steps is given twice)"),
        (["schedules", "warmup(9).after(cosine(9))"], "only .then joins two schedules"),
        (["report", "my study"], "`fallline compare --out 'my study'` creates one"),
    ],
)
def test_an_error_is_a_sentence_that_names_the_place(fallline, folder, words, sentence):
    code, out, err = fallline(*words)
    last = err.splitlines()[-1]
    assert (code, out) == (2, "") and last.startswith("fallline: ") and sentence in last
    assert not any(word in err for word in ("__init__", "Traceback", "0x", "<unknown>", " object at "))


def test_names_may_be_written_in_any_case(fallline, folder):
    arms = ["AdamW", "SAM(Momentum)", "SGD@lr=0.1"]
    spec = specify("Digits", arms, ["Cosine"], baseline="ADAMW", trials=2, examined=True)
    assert spec.task == "digits" and [arm.name for arm in spec.arms] == ["adamw", "sam(momentum)", "sgd@lr=0.1"]
    assert spec == specify("digits", ["adamw", "sam(momentum)", "sgd@lr=0.1"], ["cosine"], trials=2, examined=True)
    assert type(fl.create_optimizer("LAMB", [torch.nn.Parameter(torch.zeros(2))])) is fl.LAMB
    assert find_task("DigitsCNN") == "digits-cnn"
    assert race("Ravine", ["SGD"], steps=20).runs[0].arm == "sgd"
    code, out, _ = fallline("schedules", "Warmup(9).then(Cosine(9))")
    assert code == 0 and "k=0: 0.1111" in out


def test_arms_of_a_study_may_be_written_in_any_case(study):
    assert study.confirmed("Momentum") == study.confirmed("momentum")
    with pytest.raises(ArgumentError, match=r"arm: must be one of momentum, adam, .*, got 'adm'; did you mean adam\?"):
        study.confirmation("adm")


def test_a_file_stands_for_its_only_task(fallline, folder):
    code, out, err = fallline("data", "mine.py")
    assert code == 0 and out.startswith("mine.py:Mine: Mine")
    assert err == "fallline: the task is mine.py:Mine, the only one in this file\n"


@pytest.mark.filterwarnings("default::fallline.errors.ArgumentWarning")
def test_trials_are_rounded_to_a_power_of_two(fallline, tmp_path):
    _, _, err = fallline("compare", "--trials", "10", "--margin", "2")
    assert err.startswith("fallline: trials: 10 was rounded to 8; it must be a power of two")
    with pytest.warns(ArgumentWarning, match="100 was rounded to 128"):
        assert specify("digits", ["sgd"], ["cosine"], trials=100, examined=True).trials == 128
    size = {"steps": 40, "seeds": 2, "jobs": 0, "progress": False, "out": tmp_path}
    with pytest.warns(ArgumentWarning, match="3 was rounded to 4"), pytest.raises(ArgumentError, match="margin"):
        fl.compare("digits", ["sgd"], trials=3, margin=2, **size)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizers": "adamw"}, "optimizers: must be a list of names, got 'adamw'; pass \\['adamw'\\]"),
        ({"optimizers": [torch.optim.SGD]}, "optimizers: must be names or locations, got <class"),
        ({"schedules": None}, "schedules: must be a list of names, got None"),
        ({"trials": "x"}, "trials must be an int >= 1, got trials='x'"),
        ({"steps": "x"}, "steps must be an int >= 0, got steps='x'"),
        ({"horizon": "x"}, "horizon: must be in"),
        ({"margin": "x"}, "margin: must be in"),
        ({"baseline": 3}, "baseline: must be one of"),
        ({"vary": [1]}, "vary: must be a dict"),
        ({"vary": {"lr": 3}}, "vary: values of lr must be a list, got 3; pass \\[3\\]"),
        ({"settings": 3}, "settings: must be a dict"),
        ({"progress": 3}, "progress: must be True, False or a function, got 3"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(tmp_path, arguments, message):
    with pytest.raises((ArgumentError, ArgumentTypeError), match=message):
        fl.compare(**{"task": "digits", "jobs": 0, "out": tmp_path, "steps": 40, "progress": False, **arguments})


def test_a_loss_that_is_no_tensor_is_named_wherever_it_is_called():
    model, batch = torch.nn.Linear(2, 1), torch.ones(4, 2)
    optimizer = fl.SGD(model.parameters(), lr=0.1)

    def loss(model, batch):
        return model(batch).square().mean().item()

    for call in (
        lambda: fl.landscape.Hessian(model, loss, batch),
        lambda: fl.landscape.GaussNewton(model, loss, batch),
        lambda: fl.landscape.surface(model, loss, batch, n=3),
        lambda: fl.landscape.critical_sharpness(model, loss, batch, torch.ones(3)),
        lambda: fl.landscape.lr_range(model, optimizer, loss, [batch] * 20, steps=10),
    ):
        with pytest.raises(LossError, match=r"the loss must be a tensor, got \d.*; return the tensor, not loss.item"):
            call()
    surface = Problem("mine", lambda points: float(points.sum()), (1.0, 1.0), (), (), ((-1, 1), (-1, 1)))
    with pytest.raises(ArgumentTypeError, match=r"problem mine: function must return .*, got 2.0; return the tensor"):
        race(surface, ["sgd"])


@pytest.mark.slow
def test_a_loss_that_is_no_tensor_later_is_named_in_a_trial(folder):
    text = FILES["mine.py"].replace("def loss(self, model, batch):", "@change\n    def loss(self, model, batch):")
    change = (
        "import os\n\ndef change(loss):\n"
        "    return lambda self, m, b: 3.0 if os.environ.get('LATE') and m.training else loss(self, m, b)\n"
    )
    (folder / "late.py").write_text(change + text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fallline.lab.executors.in_process.as_in_a_worker", _late(patch))
        with pytest.raises(StudyError, match=r"got 3.0; return the tensor, not loss.item.*traceback is in"):
            fl.compare("late.py", ["sgd"], steps=40, trials=1, seeds=2, jobs=0, progress=False)


def _late(patch):
    from fallline.lab.isolation import as_in_a_worker

    def begin():
        patch.setenv("LATE", "1")
        return as_in_a_worker()

    return begin


@pytest.mark.parametrize(
    "words",
    [["lr-range", "--steps", "3"], ["compare", "--trials", "ten"], ["report", "nowhere"], ["race", "nope"]],
    ids=" ".join,
)
def test_every_command_prints_a_traceback_if_asked(fallline, words, monkeypatch):
    for extra, variable in (([], ""), (["--traceback"], ""), ([], "1")):
        monkeypatch.setenv("FALLLINE_TRACEBACK", variable)
        code, _, err = fallline(*words, *extra)
        assert code == 2 and err.splitlines()[-1].startswith("fallline: ")
        assert ("Traceback (most recent call last)" in err) == bool(extra or variable)


def test_the_traceback_is_an_option_of_all_commands(fallline):
    _, out, _ = fallline("--help")
    names = [line.split()[0] for line in out.partition("Commands:")[2].partition("Example")[0].strip().splitlines()]
    for name in names:
        assert "--traceback" in fallline(name, "--help")[1], name


def test_a_suggested_command_quotes_its_paths(fallline, tmp_path):
    (tmp_path / "a b").mkdir()
    code, out, _ = fallline("new-task", tmp_path / "a b" / "mine.py")
    place = f"'{tmp_path}/a b/mine.py:Mine'"
    assert code == 0 and f"next: fallline compare {place} --quick" in out
    assert f"fallline compare {place} " in (tmp_path / "a b" / "mine.py").read_text()
