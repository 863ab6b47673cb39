"""Running a command: its exit, its output, its time limit, and that nothing outlives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fallline.errors import ArgumentError
from fallline.lab.command import run_process

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and process groups are those of POSIX")


def python(code):
    return [sys.executable, "-c", code]


def is_running(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return stat.rpartition(")")[2].split()[0] != "Z"  # a zombie is not running
    except FileNotFoundError:
        return False


def wait_until(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def test_output_exit_code_environment_and_folder(tmp_path):
    code = "import os, sys; print(os.environ['A'], os.getcwd()); print('why', file=sys.stderr); sys.exit(3)"
    done = run_process(python(code), environment={"A": "b"}, folder=tmp_path)
    assert done.stdout == f"b {tmp_path}\n"
    assert (done.code, done.problem, done.last_lines) == (3, "ended with exit code 3", "why")


def test_a_command_that_reads_its_input_gets_none():
    assert run_process(python("import sys; print(repr(sys.stdin.read()))"), timeout=20).stdout == "''\n"


def test_a_missing_program_and_a_folder_that_is_no_program(tmp_path):
    with pytest.raises(ArgumentError, match="got 'no-such-program', which does not exist"):
        run_process(["no-such-program"])
    with pytest.raises(ArgumentError, match="which cannot be run"):
        run_process([str(tmp_path)])


@POSIX
def test_a_signal_is_named():
    done = run_process(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"))
    assert done.problem == "was ended by signal SIGSEGV"


@POSIX
@pytest.mark.slow
def test_a_time_limit_ends_the_command_and_its_children(tmp_path):
    pid = tmp_path / "pid"
    code = (
        "import subprocess, sys, time;"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(pid)!r}, 'w').write(str(child.pid)); print('begun', flush=True); time.sleep(60)"
    )
    done = run_process(python(code), timeout=3)
    assert done.timed_out
    assert "exceeded its time limit" in done.problem
    assert done.stdout == "begun\n"
    assert wait_until(lambda: not is_running(pid.read_text()))


@POSIX
def test_children_that_are_left_behind_are_killed(tmp_path):
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    done = run_process(python(code))
    assert done.code == 0
    assert wait_until(lambda: not is_running(int(done.stdout)))


@POSIX
@pytest.mark.slow
def test_the_command_dies_with_the_process_that_started_it(tmp_path):
    pid = tmp_path / "pid"
    inner = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    outer = f"from fallline.lab.command import run_process; run_process([{sys.executable!r}, '-c', {inner!r}])"
    process = subprocess.Popen(python(outer))
    assert wait_until(lambda: pid.exists() and pid.read_text(), 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not is_running(int(pid.read_text())))


def test_the_middle_of_a_long_output_is_left_out():
    done = run_process(python("print('begin'); print('x' * 10_000_000); print('val_loss 0.5')"))
    assert done.stdout.startswith("begin\n")
    assert done.stdout.endswith("val_loss 0.5\n")
    assert "bytes left out" in done.stdout
    assert len(done.stdout) < 5_000_000
