"""The ledger only grows, survives a killed writer, and has one writer at a time."""

import os
import platform
import subprocess
import sys

import pytest

from fallline.errors import GateError
from fallline.lab.gate.ledger import LEDGER, Ledger, lock_session


def test_records_are_appended_and_read_again(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append("run", series=0, value=1.5)
    first = (tmp_path / LEDGER).read_bytes()
    Ledger(tmp_path).append("run", series=1, value=None)
    assert (tmp_path / LEDGER).read_bytes().startswith(first)
    assert Ledger(tmp_path).find("run", series=1) == [{"kind": "run", "series": 1, "value": None}]


def test_the_partial_line_of_a_killed_writer_is_ignored(tmp_path):
    Ledger(tmp_path).append("run", value=1)
    with (tmp_path / LEDGER).open("a") as file:
        file.write('{"kind": "run", "val')
    Ledger(tmp_path).append("run", value=2)
    assert [record["value"] for record in Ledger(tmp_path).find("run")] == [1, 2]
    assert '{"kind": "run", "val\n' in (tmp_path / LEDGER).read_text()


@pytest.mark.parametrize("line", ["hello", '{"value": 1}', '{"kind": "run", "value": }', "[1]"])
def test_a_damaged_line_is_an_error(tmp_path, line):
    (tmp_path / LEDGER).write_text('{"kind": "run"}\n' + line + "\n")
    with pytest.raises(GateError, match=r"Line 2 of the ledger .* is damaged, so the error budget that is left is unk"):
        Ledger(tmp_path)


HOLDER = """
import sys, pathlib
from fallline.lab.gate.ledger import lock_session
with lock_session(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(GateError, match=rf"is in use by process {holder.pid} on "), lock_session(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    assert (tmp_path / "lock").read_text() == f"{platform.node()} {holder.pid}"  # stale
    with lock_session(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{platform.node()} {os.getpid()}"
    assert (tmp_path / "lock").read_text() == ""


def test_the_lock_of_another_machine_is_respected(tmp_path):
    (tmp_path / "lock").write_text("another-host 17")
    with (
        pytest.raises(GateError, match=r"in use by process 17 on another-host. Wait .* delete"),
        lock_session(tmp_path),
    ):
        pass
    assert (tmp_path / "lock").read_text() == "another-host 17"


def test_two_locks_in_one_process_exclude_each_other(tmp_path):
    with lock_session(tmp_path), pytest.raises(GateError, match=r"in use by process"), lock_session(tmp_path):
        pass
