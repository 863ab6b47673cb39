"""The code of the how-to guides on other libraries runs as it stands, under a trial that it reports to."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.trials import read_reports, trial_in

GUIDES = Path(__file__).parents[2] / "docs" / "how-to"
NEEDS = {
    "huggingface": ("transformers", "accelerate"),
    "lightning": ("lightning",),
    "accelerate": ("accelerate",),
    "skorch": ("skorch",),
    "fastai": ("fastai.basics",),
}
ROWS = {"summary.csv": "epoch,train_loss,eval_loss,eval_top1", "results.csv": "epoch,lr/pg0,metrics/mAP50-95(B)"}
# A program that takes any options and writes the file of timm or of Ultralytics.
STUB = f"""#!{sys.executable}
import pathlib, random, re, sys
words = " ".join(sys.argv[1:])
place = re.search(r"--output (\\S+) --experiment (\\S+)|project=(\\S+) name=(\\S+)", words).groups()
folder = pathlib.Path(*filter(None, place))
folder.mkdir(parents=True, exist_ok=True)
random.seed(words.replace(folder.name, ""))
for name, head in {ROWS!r}.items():
    values = [str(random.random()) for _ in head.split(",")]
    (folder / name).write_text("\\n".join([head, ",".join(values), ",".join(values)]) + "\\n")
"""


def blocks_of(page):
    """Return the blocks of code of a page, without those of a shell."""
    found = re.findall(
        r"^```\n(.*?)^```", (GUIDES / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [block for block in found if not block.startswith("fallline ")], [
        b for b in found if b.startswith("fallline ")
    ]


def needs(page):
    for library in NEEDS[page]:
        pytest.importorskip(library, reason=f"{library} is not installed, so docs/how-to/{page}.md was not run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # advice of the libraries on loaders and loggers
@pytest.mark.parametrize("page", NEEDS)
def test_the_code_of_a_page_runs_and_reports(page, tmp_path, monkeypatch, capsys):
    needs(page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    trial_in(tmp_path / "trial", monkeypatch)
    names = {"__name__": "__main__"}
    blocks, _ = blocks_of(page)
    assert blocks
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), names)
    logs, (result,), failures = read_reports(tmp_path / "trial")
    assert "val_loss" in result and not failures
    steps = [row["step"] for row in logs if "train_loss" in row]
    assert steps == sorted(steps) and steps[-1] == names["trial"].total_steps
    if page == "huggingface":
        assert "[]" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_of_accelerate_train_as_one(tmp_path, monkeypatch):
    needs("accelerate")
    monkeypatch.chdir(tmp_path)
    code = blocks_of("accelerate")[0][0]
    assert "shuffle=True" in code  # how accelerate shuffles depends on the number of processes
    (tmp_path / "train.py").write_text(code.replace("shuffle=True", "shuffle=False"))
    results, logs = [], []
    for count in (1, 2):
        trial_in(tmp_path / str(count), monkeypatch)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        subprocess.run([*launch, "train.py"], env=environment, check=True, timeout=300)
        log, (result,), _ = read_reports(tmp_path / str(count))
        results.append(result["val_loss"])
        logs.append([row["step"] for row in log])
    assert logs[0] == logs[1] == list(range(1, 25))  # 3 epochs of 16 batches, two per step; only rank 0 reports
    assert results[0] == pytest.approx(results[1], rel=1e-4)  # sums of float32 in another order


@pytest.mark.parametrize("number", [0, 1], ids=["timm", "ultralytics"])
def test_the_commands_for_timm_and_ultralytics_are_accepted(number, fallline, tmp_path, monkeypatch):
    """Not the scripts: a stub writes files of their form."""
    monkeypatch.chdir(tmp_path)
    for name in ("yolo", "train.py"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]))
    _, commands = blocks_of("timm-ultralytics")
    command = commands[number].replace("\\\n", "").replace("/tmp/yolo", str(tmp_path / "yolo-runs"))
    code, out, err = fallline(*shlex.split(command)[1:], "--trials", "1", "--seeds", "2", "-j", "0")
    assert code == 0, err
    assert "report: " in out
