"""Which of the user's files a trial depends on, and that no trial is stored whose code is not the study's."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fallline as fl
from fallline.errors import StudyError
from fallline.lab.run.reproduce import reproduce
from fallline.lab.user_code.sources import imports_for, sources_of
from support.projects import HELPER, TINY, outcomes, project, write_task

__all__ = ["project"]

WAYS = {
    "at the top": {"head": "import helper"},
    "in batches": {"batches": "import helper", "loss": "import sys; helper = sys.modules['helper']"},
    "in loss": {"loss": "import helper"},
    "from a name": {"loss": "import importlib; helper = importlib.import_module('hel' + 'per')"},
}


@pytest.mark.parametrize("way", ["at the top", *(pytest.param(way, marks=pytest.mark.slow) for way in list(WAYS)[1:])])
@pytest.mark.parametrize("task", ["mine.py:Mine", pytest.param("mine:Mine", marks=pytest.mark.slow)])
def test_a_helper_edited_between_two_runs_is_refused_and_a_fork_reuses_nothing(project, way, task):
    write_task(project, **WAYS[way])
    study = fl.compare(task, jobs=0, out="study", **TINY)
    before = outcomes("study")
    assert set(study.trials[0].sources) == {"mine.py", "helper.py"}
    fl.compare(task, jobs=0, out="study", **{**TINY, "seeds": 2})  # nothing was edited
    (project / "helper.py").write_text("FACTOR = 2\n")  # in the same second, and as long as before
    with pytest.raises(StudyError, match=r"another specification \(helper.py: edited\); .*--fork"):
        fl.compare(task, jobs=0, out="study", **TINY)
    assert outcomes("study") == before
    forked = fl.compare(task, jobs=0, out="study", fork=True, **TINY)
    assert not {trial.id for trial in forked.trials} & set(before)
    assert forked.confirmed("momentum") != study.confirmed("momentum")
    found = reproduce("study", study.trials[0].id)
    assert not found.equal and "helper.py has changed" in found.changes


def test_a_file_of_the_same_name_in_another_folder_is_another_task(tmp_path, monkeypatch):
    for folder, helper in (("one", "first_helper"), ("two", "second_helper")):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        (tmp_path / folder / f"{helper}.py").write_text("FACTOR = 1\n")
        (tmp_path / folder / "mine.py").write_text("class Mine:\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
        with imports_for("mine.py:Mine"):
            importlib.import_module(helper)  # by its name, so that mine.py does not show it
        assert set(sources_of("mine.py:Mine")) == {"mine.py", f"{helper}.py"}


def edit_in_the_first_trial(folder):
    """Return a statement of a loss that edits helper.py once, and puts nothing back."""
    (folder / "once").touch()
    return (
        "import helper, pathlib; p = pathlib.Path(__file__).parent; "
        "model.training and TRIALS and (p / 'once').exists() and "
        "((p / 'once').unlink(), (p / 'helper.py').write_text('FACTOR = 2'))"
    ).replace("TRIALS", "(p / 'study' / 'trials').exists() and (p / 'study' / 'study.json').exists()")


@pytest.mark.parametrize("jobs", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_helper_edited_while_a_trial_runs_is_refused_and_the_trial_is_not_stored(project, jobs):
    write_task(project, loss=edit_in_the_first_trial(project))
    with pytest.raises(StudyError, match=r"code of the study changed while it ran: helper.py was edited\. Trial"):
        fl.compare("mine.py:Mine", jobs=jobs, out="study", **TINY)
    assert outcomes("study") == {} and not (project / "once").exists()
    (project / "helper.py").write_text(HELPER)
    fl.compare("mine.py:Mine", jobs=jobs, out="study", **TINY)
    assert outcomes("study")


@pytest.mark.slow
def test_a_script_that_has_imported_the_helper_itself_gives_the_identity_of_the_command_line(project):
    write_task(project, head="import helper")
    words = "--optimizers momentum --steps 40 --trials 2 --seeds 2 -j 1 --out study"
    command = [sys.executable, "-m", "fallline", "compare", "mine.py:Mine", *words.split()]
    subprocess.run(command, check=True, capture_output=True)
    before = outcomes("study")
    (project / "run.py").write_text(
        "import helper, mine, fallline\nif __name__ == '__main__':\n"
        f"    fallline.compare('mine.py:Mine', jobs=1, out='study', **{TINY})"
    )
    subprocess.run([sys.executable, "run.py"], check=True, capture_output=True)
    assert outcomes("study") == before


def test_a_module_that_was_edited_after_the_user_had_imported_it_is_refused(project, monkeypatch):
    """Here the process has the old function under a name of which the file has a new one."""
    monkeypatch.syspath_prepend(str(project))
    write_task(project, head="import helper")
    (project / "helper.py").write_text("FACTOR = 1\ndef f():\n    return 1\n")
    import helper  # noqa: F401 - as a script or notebook would

    for edited in ("FACTOR = 1\ndef f():\n    return 2\n", "FACTOR = 3\ndef f():\n    return 1\n"):
        (project / "helper.py").write_text(edited)
        with pytest.raises(StudyError, match=r"helper\.py was edited after it was imported; restart this process"):
            sources_of("mine.py:Mine")


def test_an_optimizer_and_a_schedule_bring_their_helpers_and_other_arms_do_not(project):
    (project / "steps.py").write_text("from torch.optim import SGD\n")
    (project / "own.py").write_text("import steps\nclass Mine(steps.SGD):\n    pass\n")
    (project / "shape.py").write_text("def flat(steps, ramp):\n    return lambda k: 1.0\n")
    arms = {"optimizers": ["own.py:Mine", "momentum"], "schedules": ["shape.py:flat"]}
    study = fl.compare("digits", jobs=0, out="study", **{**TINY, **arms})
    own, momentum = ({t.id for t in study.trials if t.arm.startswith(name)} for name in ("own", "momentum"))
    assert set(study.trials[0].sources) == {"own.py", "steps.py", "shape.py"}
    (project / "steps.py").write_text("from torch.optim import SGD  # edited\n")
    with pytest.raises(StudyError, match=r"\(steps.py: edited\)"):
        fl.compare("digits", jobs=0, out="study", **{**TINY, **arms})
    again = fl.compare("digits", jobs=0, out="study", fork=True, **{**TINY, **arms})
    assert momentum <= {t.id for t in again.trials} and not own & {t.id for t in again.trials}


def test_packages_relative_imports_namespaces_and_links(project):
    (project / "pack" / "deep").mkdir(parents=True)  # deep is a namespace: it has no __init__.py
    (project / "elsewhere.py").write_text("X = 1")
    (project / "pack" / "link.py").symlink_to(project / "elsewhere.py")
    (project / "pack" / "__init__.py").write_text("from typing import TYPE_CHECKING\n")
    (project / "pack" / "deep" / "leaf.py").write_text("from ..link import X\nfrom . import twig")
    (project / "pack" / "deep" / "twig.py").write_text("def f():\n    import never.there, pack.lazy\n")
    (project / "pack" / "lazy.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack import typed\n"
    )
    (project / "pack" / "typed.py").write_text("")
    write_task(project, head="from pack.deep import leaf; import helper")
    expected = {"mine.py", "helper.py", "elsewhere.py"}
    expected |= {f"pack/{name}.py" for name in ("__init__", "deep/leaf", "deep/twig", "lazy")}
    assert set(sources_of("mine.py:Mine")) == expected
    assert set(sources_of(f"{project}/mine.py:Mine")) == expected
    assert sources_of("torch.optim:SGD") == sources_of("digits") == {}


def test_moving_the_project_changes_no_identity_and_outside_of_it_paths_are_whole(project, monkeypatch):
    (project / "a").mkdir()
    write_task(project / "a", head="import helper")
    monkeypatch.chdir(project / "a")
    before = sources_of("mine.py:Mine")
    monkeypatch.chdir(project)
    (project / "a").rename(project / "b")
    monkeypatch.chdir(project / "b")
    sys.modules.pop("helper")
    assert sources_of("mine.py:Mine") == before
    monkeypatch.chdir("/")
    whole = sources_of(f"{project}/b/mine.py:Mine")
    assert set(whole) == {f"{str(project)[1:]}/b/{name}.py" for name in ("mine", "helper")}
    (project / "c").mkdir()
    monkeypatch.chdir(project / "c")
    assert set(sources_of(f"{project}/b/mine.py:Mine")) == {f"{project}/b/{name}.py" for name in ("mine", "helper")}


def test_a_study_of_another_torch_is_refused_and_can_be_forked(project):
    study = fl.compare("digits", jobs=0, out="study", **TINY)
    path = project / "study" / "study.json"
    record = json.loads(path.read_text())
    now = record["spec"]["versions"]["torch"]
    record["spec"]["versions"]["torch"] = "1.13.0"
    path.write_text(json.dumps(record))
    with pytest.raises(StudyError, match=rf"\(torch: 1\.13\.0 -> {now[:4]}.*--fork"):
        fl.compare("digits", jobs=0, out="study", **TINY)
    again = fl.compare("digits", jobs=0, out="study", fork=True, **TINY)
    assert [t.id for t in again.trials] == [t.id for t in study.trials]
    assert study.trials[0].versions.keys() == {"torch", "fallline"}


def test_a_study_of_a_former_version_is_recognised(project, fallline):
    fl.compare("digits", jobs=0, out="study", **TINY)
    path = project / "study" / "study.json"
    record = json.loads(path.read_text())
    assert record.pop("format") == 2
    path.write_text(json.dumps(record))
    said = "of an earlier version of Fallline, and this version cannot read its trials; use that version"
    with pytest.raises(StudyError, match=f"^out: 'study' holds a study {said}"):
        fl.compare("digits", jobs=0, out="study", **TINY)
    code, out, err = fallline("report", "study")
    assert (code, out) == (2, "") and said in err and "Traceback" not in err
    path.write_text(json.dumps({**record, "format": 3}))
    with pytest.raises(StudyError, match="a later version"):
        fl.compare("digits", jobs=0, out="study", fork=True, **TINY)


def test_the_folder_of_a_study_without_a_name_does_not_depend_on_the_code(project):
    write_task(project, head="import helper")
    fl.compare("mine.py:Mine", jobs=0, **TINY)
    (project / "helper.py").write_text("FACTOR = 2\n")
    with pytest.raises(StudyError, match=r"helper\.py: edited"):
        fl.compare("mine.py:Mine", jobs=0, **TINY)
    assert len(list(Path("fallline-runs").iterdir())) == 1
