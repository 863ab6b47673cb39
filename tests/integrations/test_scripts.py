"""Scripts that were written without the lab in mind, each compared as it stands, and with five changed lines."""

import difflib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fallline as fl
from fallline.lab import load
from support.killing import finished, wait_until

SCRIPTS = Path(__file__).parents[2] / "examples" / "scripts"
TORCHRUN = Path(sys.executable).with_name("torchrun")
NAMES = ("nanogpt", "ddp", "trainer_gpt2", "lightning_mlp")
NEEDS = {"trainer_gpt2": ("transformers", "accelerate"), "lightning_mlp": ("lightning",)}
TRAINER = " --output_dir out/{trial} --max_steps 10 --use_cpu --report_to none --save_strategy no --disable_tqdm True"
ARGUMENTS = {
    "nanogpt": " --steps 20",
    "ddp": " --epochs 1",
    "trainer_gpt2": TRAINER + " --logging_steps 2",
    "lightning_mlp": " --epochs 1",
}
OPTIONS = " --optimizer {optimizer} --lr {lr} --seed {seed}"
SMALL = {"trials": 1, "seeds": 2, "jobs": 2}
OPTIMIZERS = ["adamw@lr=3e-3", "rmsprop@lr=3e-3"]  # without a range that the study may extend


def command_of(name, changed):
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install {library}")
    if name == "ddp" and not TORCHRUN.exists():
        # PyTorch's own wheels install it, but a distribution may package torch without its console scripts.
        pytest.skip("torchrun is not next to the interpreter")
    launch = f"{TORCHRUN} --nproc_per_node 2" if name == "ddp" else sys.executable
    script = f"{name}{'_trial' if changed else ''}.py"
    shutil.copy(SCRIPTS / script, script)  # a study belongs to the code of the folder
    return f"{launch} {script}" + ARGUMENTS[name]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("name", NAMES)
def test_at_most_five_lines_are_changed(name):
    before, after = ((SCRIPTS / f"{name}{end}.py").read_text().splitlines() for end in ("", "_trial"))
    changes = [line for line in difflib.ndiff(before, after) if line[2:].strip()]
    counts = [sum(line.startswith(sign) for line in changes) for sign in "+-"]
    assert 0 < max(counts) <= 5
    assert not [line for line in before if "fallline" in line.lower()]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[1:])  # the first one is below
def test_a_script_is_compared_with_five_changed_lines(name):
    settings = {"skip": "deterministic,seed,lr"}
    study = fl.compare(command=command_of(name, True), optimizers=OPTIMIZERS, settings=settings, **SMALL)
    assert len(study.record.comparisons) == 1
    for arm in (row["arm"] for row in study.leaderboard()):
        losses = [outcome.metrics["val_loss"] for outcome in study.confirmation(arm)]
        assert len(set(losses)) == 2  # the seed reaches the script
        assert name == "ddp" or all(outcome.curve for outcome in study.confirmation(arm))  # ddp logs nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_compared_without_a_change(name):
    options = {"optimizers": OPTIMIZERS}
    settings = {"skip": "deterministic,seed,lr"}
    arguments = OPTIONS
    if name == "trainer_gpt2":
        options = {"optimizers": ["adamw_torch", "adafactor"], "search": "lr=1e-4..1e-2", "metric": "eval_loss"}
        settings["metric_file"] = "out/{trial}/eval_results.json:eval_loss"
        arguments = " --optim {optimizer} --learning_rate {lr} --seed {seed}"
    study = fl.compare(command=command_of(name, False) + arguments, settings=settings, **options, **SMALL)
    assert len({row["arm"] for row in study.leaderboard()}) == 2
    assert not [trial for trial in study.trials if study.outcome(trial).failure]


@pytest.mark.slow
def test_a_study_that_is_killed_resumes_with_the_numbers_of_two_processes(tmp_path):
    command = command_of("nanogpt", True)
    words = [sys.executable, "-m", "fallline", "compare", "--command", command, "--optimizers", ",".join(OPTIMIZERS)]
    words += ["--trials", "1", "--seeds", "2", "--skip-checks", "deterministic,seed,lr"]
    folder = tmp_path / "killed"
    with subprocess.Popen([*words, "-j", "1", "--out", str(folder)], start_new_session=True) as process:
        wait_until(lambda: len(finished(folder)) >= 2, process, 300)
        os.killpg(process.pid, signal.SIGKILL)
    before = len(finished(folder))
    for place, jobs in ((folder, "1"), (tmp_path / "whole", "2")):
        subprocess.run([*words, "-j", jobs, "--out", str(place)], check=True, timeout=600)
    one, two = load(folder), load(tmp_path / "whole")
    assert 2 <= before < len(finished(folder)) == len(finished(tmp_path / "whole"))
    for arm in OPTIMIZERS:
        assert [o.metrics for o in one.confirmation(arm)] == [o.metrics for o in two.confirmation(arm)]


@pytest.mark.slow
def test_all_processes_of_torchrun_end_at_the_time_limit(tmp_path):
    from fallline.lab.command import run_process

    hang = "import os, time; open(f'{os.getpid()}.pid', 'w').close(); time.sleep(600)"
    (tmp_path / "hang.py").write_text(hang)
    command_of("ddp", False)  # skips without torchrun
    done = run_process([str(TORCHRUN), "--nproc_per_node", "2", "hang.py"], timeout=20)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert done.timed_out and len(pids) == 2
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
