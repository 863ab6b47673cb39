"""A study meets what disks and people do to it: no room, two at once, other arms, a kill in mid-run."""

import contextlib
import json
import subprocess
import sys

import pytest

import fallline as fl
from fallline.errors import StudyError
from fallline.lab.storage.store import read_lines
from support.killing import finished, kill, wait_until
from support.terminals import without_progress

pytestmark = pytest.mark.slow
WORDS = [sys.executable, "-c", "from fallline.cli import main; main()", "compare", "digits"]
SIZE = {"steps": 60, "trials": 2, "seeds": 2}
WORDS += [word for key, value in SIZE.items() for word in (f"--{key}", str(value))]
ARMS = ["momentum", "sam(adam)"]


def command(folder, *more, arms=ARMS):
    return [*WORDS, "--optimizers", ",".join(arms), "--out", str(folder), *more]


def call(folder, *more, **options):
    return subprocess.run(command(folder, "-j", "2", *more, **options), capture_output=True, text=True, check=False)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("trials/*/*")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    study = fl.compare("digits", ARMS, out=tmp_path_factory.mktemp("undisturbed"), jobs=0, **SIZE)
    return (study.store.folder / "results.csv").read_bytes()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    done = subprocess.run(made, capture_output=True, text=True, check=False) if sys.platform == "linux" else None
    if done is None or done.returncode != 0:
        # Only a disk of one's own can be filled without harm to the machine, and only root may mount one. What follows
        # from a full disk is also tested without it, by writes that fail.
        pytest.skip(f"no small disk can be mounted here, which takes root: {done.stderr.strip() if done else ''}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("more", [[], ["--checkpoint-every", "20"]], ids=["trials", "checkpoints"])
def test_a_disk_that_is_really_full_is_one_sentence_and_costs_nothing(small_disk, undisturbed, more):
    ballast, folder = small_disk / "ballast", small_disk / "study"
    folder.mkdir()
    room = 40 if more else 24  # kB: for the specification and a trial or two; or for half of a checkpoint
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for _ in range(300 - room):
            file.write(b"x" * 1024)
    done = call(folder, *more)
    (said,) = without_progress(done.stderr)
    assert done.returncode == 2 and said.startswith(
        f"fallline: out: the study must be written to '{folder}', got No space left on device"
    )
    for path in finished(folder):
        assert json.loads((path / "trial.json").read_text())["outcome"]["curve"]
    assert not list(folder.rglob("*.pt"))  # half a checkpoint takes no room
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    done = call(folder, *more)
    assert done.returncode == 0, done.stderr
    assert (folder / "results.csv").read_bytes() == undisturbed and not list(folder.rglob(".draft*"))


def test_two_at_once_on_one_folder_end_as_one_would(tmp_path, undisturbed):
    folder = tmp_path / "study"
    words = command(folder, "-j", "0")
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert (folder / "results.csv").read_bytes() == undisturbed
    ledger = [json.loads(line)["id"] for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert sorted(ledger) == sorted(path.name for path in finished(folder)) and not list(folder.rglob(".draft*"))


def test_a_run_killed_after_a_checkpoint_goes_on_to_the_same_bytes(tmp_path, undisturbed):
    folder = tmp_path / "study"
    words = command(folder, "-j", "2", "--checkpoint-every", "10")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: list(folder.glob("checkpoints/[!.]*.pt")), process)
    kill(process, "all")
    kept = {path.stem for path in folder.glob("checkpoints/[!.]*.pt")}
    assert kept - {path.name for path in finished(folder)}  # a run was cut off after it had been saved
    done = call(folder, "--checkpoint-every", "10")
    assert done.returncode == 0, done.stderr
    assert (folder / "results.csv").read_bytes() == undisturbed
    assert list((folder / "checkpoints").iterdir()) == [] and not list(folder.rglob(".draft*"))


def test_another_arm_changes_no_byte_of_what_was_run(tmp_path):
    def study(arms, **options):
        return fl.compare("digits", arms, out=tmp_path, jobs=0, **SIZE, **options)

    study(ARMS)
    before = contents(tmp_path)
    with pytest.raises(StudyError, match=r"another specification \(lion: added\)"):
        study([*ARMS, "lion"])
    assert contents(tmp_path) == before
    wider = study(["lion", *ARMS], fork=True)
    after = contents(tmp_path)
    kept = [name for name in after if "items.npy" not in str(name)]  # of confirmation runs alone
    assert after.items() >= before.items() and len(kept) == 2 * len(wider.trials)


def test_what_is_deleted_or_cut_off_is_made_again(tmp_path, undisturbed):
    def study():
        fl.compare("digits", ARMS, out=tmp_path, jobs=0, **SIZE)

    study()
    first, second, *_ = sorted(finished(tmp_path))
    (first / "trial.json").unlink()
    whole = (second / "trial.json").read_text()
    (second / "trial.json").write_text(whole[: len(whole) // 2])
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(ledger.read_text()[:-30])
    (tmp_path / "results.csv").unlink()
    study()
    assert (tmp_path / "results.csv").read_bytes() == undisturbed
    assert (second / "trial.json").read_text() == whole
    assert {line["id"] for line in read_lines(ledger)} == {path.name for path in finished(tmp_path)}
