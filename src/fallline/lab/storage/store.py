"""Read and write the folder of a study, which contains plain files that are written atomically.

study.json           the specification, versions and machine
trials/ID/trial.json specification and outcome of a trial    trials/ID/costs.json  its time and memory
trials/ID/items.npy  selection metric and hash of every test item of a confirmation run, see `evaluation.ITEM`
trials/ID/traceback.txt   traceback of the error that the trial raised
trials/ID/output.txt      what the command of the trial printed
ledger.jsonl         one line per finished trial, in the order in which they finished
results.csv          all outcomes, determined by the seeds alone     costs.csv  all times and memory
checkpoints/ID.pt    last checkpoint of an unfinished long run
.draft-HOST-PID-…    a file that a process is writing; the next call removes drafts that a killed process has left
"""

import contextlib
import csv
import errno
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from fallline.errors import StudyError
from fallline.lab.design.outcome import OUTPUT, TRACEBACK, Costs, Outcome
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.storage.atomic_files import draft_prefix, remove_abandoned, write_atomically
from fallline.lab.storage.spec_changes import difference
from fallline.lab.storage.study_file import FORMAT, read_json, read_spec, read_study


class Store:
    """Reads and writes the folder of one study.

    Args:
        folder: folder of the study.
        writable: create the folder and check that it is writable; pass False to only read a study.

    Raises:
        StudyError: the folder cannot be created or is not writable.
    """

    def __init__(self, folder: Path, writable: bool = True) -> None:
        self.folder = folder
        if not writable:
            return
        try:
            (folder / "trials").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise StudyError(
                f"out: the study's folder must be writable, got {str(folder)!r} ({error.strerror}); choose another"
            ) from None

    def claim(
        self,
        spec: Spec,
        analysis: Mapping[str, Any],
        manifest: Mapping[str, Any],
        fork: bool,
        described: Mapping[str, Any] | None = None,
    ) -> bool:
        """Bind the folder to a specification, or check that it is bound to this one; return whether it was forked.

        Args:
            spec: the specification, which determines all outcomes; a folder holds one.
            analysis: baseline and margin, which do not affect the outcomes and may change between calls.
            manifest: versions and machine; the manifest of the first call is kept.
            fork: rebind a folder that is bound to another specification; equal trials are reused.
            described: the information about the user's files that a report needs, see `describe`.

        Raises:
            StudyError: the folder holds a study with another specification and `fork` is False, or a study of an
                incompatible version of this package.
        """
        path = self.folder / "study.json"
        stored = read_study(self.folder, "out") if path.exists() else None
        differs = stored is not None and read_spec(self.folder).digest() != spec.digest()
        if stored is not None and differs:
            if not fork:
                raise StudyError(
                    f"out: {str(self.folder)!r} holds a study with another specification "
                    f"({difference(stored['spec'], spec.to_json())}); choose another --out, or pass --fork to continue "
                    "with the new specification and reuse the trials that are equal"
                )
            # Copy, do not rename: other processes may do the same and must find a specification at any time.
            number = len(list(self.folder.glob("study-*.json"))) + 1
            self.write(f"study-{number}.json", json.dumps(stored, indent=1))
            stored = None
        kept = manifest if stored is None else stored["manifest"]
        record = {"format": FORMAT, "spec": spec.to_json(), "analysis": analysis, "manifest": kept}
        record |= {"described": described} if described else {}
        self.write(path.name, json.dumps(record, indent=1))
        with writing(self.folder):
            self._clean_up()
        return differs

    def write(self, name: str, text: str) -> None:
        """Replace a file of the study atomically.

        Raises:
            StudyError: the file cannot be written; the old file is unchanged.
        """
        with writing(self.folder):
            write_atomically(self.folder / name, text)

    def save(self, trial: Trial, outcome: Outcome, costs: Costs, traceback: str = "", output: str = "") -> None:
        """Write the folder of a finished trial atomically.

        The traceback of an error that the trial raised is stored next to its outcome, in traceback.txt, and the output
        of a command in output.txt. If another process has finished the same trial in the meantime, its files are kept,
        because the numbers are the same.

        Raises:
            StudyError: the trial cannot be written.
        """
        with writing(self.folder):
            if self._write(trial, outcome, costs, {TRACEBACK: traceback, OUTPUT: output}):
                self._append_to_ledger(trial, outcome)
        (self.folder / "checkpoints" / f"{trial.id}.pt").unlink(missing_ok=True)

    def _write(self, trial: Trial, outcome: Outcome, costs: Costs, texts: Mapping[str, str]) -> bool:
        """Write a trial if it is not stored yet, and return whether it was written."""
        target = self.folder / "trials" / trial.id
        draft = Path(tempfile.mkdtemp(prefix=draft_prefix(), dir=target.parent))
        try:
            record = {"trial": asdict(trial), "outcome": outcome.to_json()}
            if outcome.items is not None:
                np.save(draft / "items.npy", outcome.items, allow_pickle=False)
            (draft / "trial.json").write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")
            (draft / "costs.json").write_text(json.dumps(asdict(costs), indent=1), encoding="utf-8")
            for name, text in texts.items():
                if text:
                    (draft / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            draft.chmod(0o755)  # mkdtemp makes it private to its owner, but study folders are shared
            while self.outcome(trial) is None:
                if target.exists():  # damaged
                    _move_away(target)
                try:
                    draft.rename(target)
                    return True
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process was faster
                        raise
            return False
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def _append_to_ledger(self, trial: Trial, outcome: Outcome) -> None:
        """Append a line to the ledger in a single write, so that lines of several processes do not mix."""
        line = json.dumps({"id": trial.id, "arm": trial.arm, "stage": trial.stage, "failure": outcome.failure}) + "\n"
        with (self.folder / "ledger.jsonl").open("ab+", buffering=0) as ledger:
            if ledger.seek(0, os.SEEK_END) > 0:
                ledger.seek(-1, os.SEEK_END)
                line = line if ledger.read(1) == b"\n" else "\n" + line  # a killed process left a partial line
            ledger.write(line.encode())

    def _clean_up(self) -> None:
        """Remove the drafts of killed processes, and add finished trials that are missing from the ledger."""
        for place in (self.folder, self.folder / "trials", self.folder / "checkpoints"):
            remove_abandoned(place)
        for path in (self.folder / "checkpoints").glob("*.pt"):
            if (self.folder / "trials" / path.stem / "trial.json").exists():
                path.unlink(missing_ok=True)
        noted = {line.get("id") for line in read_lines(self.folder / "ledger.jsonl")}
        for path in sorted((self.folder / "trials").glob("[!.]*/trial.json")):
            record = read_json(path) if path.parent.name not in noted else None
            if record is not None:
                with contextlib.suppress(KeyError, TypeError):  # written by another version of this library
                    self._append_to_ledger(Trial(**record["trial"]), Outcome.from_json(record["outcome"]))

    def outcome(self, trial: Trial) -> Outcome | None:
        """Return the stored outcome of a trial, or None if there is none or it cannot be read."""
        record = read_json(self.folder / "trials" / trial.id / "trial.json")
        if record is None or record.get("trial") != json.loads(json.dumps(asdict(trial))):
            return None
        try:
            return Outcome.from_json(record["outcome"])
        except (AttributeError, KeyError, TypeError):
            return None

    def log(self, trial: Trial) -> Path:
        """Return the path of the traceback of a trial that raised an error, or of the output of its command."""
        folder = self.folder / "trials" / trial.id
        return next((folder / name for name in (TRACEBACK, OUTPUT) if (folder / name).exists()), folder / TRACEBACK)

    def discard(self, trial: Trial) -> None:
        """Remove a finished trial, so that it will be run again."""
        with writing(self.folder):
            _move_away(self.folder / "trials" / trial.id)

    def has(self, trial: Trial) -> bool:
        """Return whether an outcome of a trial is stored, without reading it."""
        return (self.folder / "trials" / trial.id / "trial.json").exists()

    def items(self, trial: Trial) -> np.ndarray | None:
        """Return the test items (n,) of a confirmation run, of dtype `evaluation.ITEM`; None if none are stored."""
        try:
            return np.asarray(np.load(self.folder / "trials" / trial.id / "items.npy", allow_pickle=False))
        except (OSError, ValueError):
            return None

    def checkpoint(self, trial: Trial) -> Path:
        """Return the path of a trial's checkpoint and create its folder; `save` removes the checkpoint."""
        path = self.folder / "checkpoints" / f"{trial.id}.pt"
        path.parent.mkdir(exist_ok=True)
        return path

    def costs(self, trial: Trial) -> Costs | None:
        """Return the stored costs of a trial, or None if they cannot be read."""
        record = read_json(self.folder / "trials" / trial.id / "costs.json")
        try:
            return Costs(**record) if record is not None else None
        except TypeError:
            return None

    def write_tables(self, trials: Iterable[Trial]) -> None:
        """Write results.csv and costs.csv for these trials, in an order that does not depend on the execution order."""
        ordered = sorted(trials, key=lambda t: (t.stage != "tune", t.arm, t.index, t.seed))
        results, costs = [], []
        for trial in ordered:
            outcome = self.outcome(trial)
            if outcome is None:
                continue
            options = {f"option.{k}": json.dumps(v) for k, v in sorted(trial.options.items())}
            head = {k: getattr(trial, k) for k in ("id", "stage", "arm", "optimizer", "schedule", "index", "seed")}
            failure = outcome.failure or {}
            failed = {"failure": failure.get("state", ""), "failed_at": failure.get("step", "")}
            results.append({**head, **options, **failed, **outcome.metrics})
            spent = self.costs(trial)
            costs.append({"id": trial.id, "arm": trial.arm, **(asdict(spent) if spent else {})})
        self.write("results.csv", _csv(results))
        self.write("costs.csv", _csv(costs))


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError within a block into a StudyError that tells the user what to do."""
    try:
        yield
    except OSError as error:
        raise unwritten(folder, error) from error


def unwritten(folder: Path, error: OSError) -> StudyError:
    """Return the error for a file of a study that could not be written."""
    return StudyError(
        f"out: the study must be written to {str(folder)!r}, got {error.strerror or error}; "
        "free up disk space and rerun the same command to resume"
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSONL file; skip lines that are truncated, or corrupted on a network drive."""
    records = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def _move_away(target: Path) -> None:
    """Remove a damaged trial atomically."""
    trash = Path(tempfile.mkdtemp(prefix=draft_prefix(), dir=target.parent))
    with contextlib.suppress(FileNotFoundError):  # another process was first
        target.rename(trash / target.name)
    shutil.rmtree(trash, ignore_errors=True)


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows)
    return text.getvalue()
