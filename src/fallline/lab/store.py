"""The folder of a study: plain files, each written whole or not at all.

study.json           the specification, versions and machine
trials/ID/trial.json a trial's specification and outcome     trials/ID/costs.json  its time and memory
ledger.jsonl         one line a finished trial, in the order in which they finished
results.csv          all outcomes, decided by the seeds alone     costs.csv  all times and memory
"""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fallline.errors import StudyError
from fallline.lab.spec import Spec
from fallline.lab.trial import Costs, Outcome, Trial


class Store:
    """Reads and writes the folder of one study.

    Raises:
        StudyError: the folder cannot be created or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            (folder / "trials").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise StudyError(
                f"out: the study's folder must be writable, got {str(folder)!r} ({error.strerror}); choose another"
            ) from None

    def claim(self, spec: Spec, analysis: Mapping[str, Any], manifest: Mapping[str, Any], fork: bool) -> None:
        """Bind the folder to a specification, or check that it is already bound to this one.

        Args:
            spec: decides the numbers; a folder holds one.
            analysis: baseline and margin, which decide no number and may change from call to call.
            manifest: versions and machine, kept from the first call.
            fork: bind a folder that is bound to another specification anew; equal trials are reused.

        Raises:
            StudyError: the folder holds a study of another specification and `fork` is False.
        """
        path = self.folder / "study.json"
        stored = _read(path)
        if stored is not None and Spec.from_json(stored["spec"]).digest() != spec.digest():
            old, new = stored["spec"], spec.to_json()
            changes = "; ".join(f"{k}: {old[k]} -> {v}" for k, v in new.items() if old[k] != v)
            if not fork:
                raise StudyError(
                    f"out: {str(self.folder)!r} holds a study with another specification ({changes}); choose another "
                    "--out, or pass --fork to go on with the new one and reuse the trials that are equal"
                )
            path.rename(self.folder / f"study-{len(list(self.folder.glob('study-*.json'))) + 1}.json")
            stored = None
        kept = manifest if stored is None else stored["manifest"]
        text = json.dumps({"spec": spec.to_json(), "analysis": analysis, "manifest": kept}, indent=1)
        write_atomically(path, text)

    def save(self, trial: Trial, outcome: Outcome, costs: Costs) -> None:
        """Write a finished trial; its folder appears in one step, complete."""
        target = self.folder / "trials" / trial.id
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
        try:
            record = {"trial": asdict(trial), "outcome": asdict(outcome)}
            (draft / "trial.json").write_text(json.dumps(record, indent=1))
            (draft / "costs.json").write_text(json.dumps(asdict(costs), indent=1))
            if target.exists():  # damaged, or finished by another process in the meantime: the content is the same
                shutil.rmtree(target)
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        line = json.dumps({"id": trial.id, "arm": trial.arm, "stage": trial.stage, "failure": outcome.failure})
        with (self.folder / "ledger.jsonl").open("a") as ledger:
            ledger.write(line + "\n" if ledger.tell() == 0 or self._ledger_is_whole() else "\n" + line + "\n")

    def _ledger_is_whole(self) -> bool:
        return (self.folder / "ledger.jsonl").read_bytes().endswith(b"\n")

    def outcome(self, trial: Trial) -> Outcome | None:
        """Return the stored outcome of a trial, or None when there is none that can be read."""
        record = _read(self.folder / "trials" / trial.id / "trial.json")
        return (
            Outcome(**record["outcome"])
            if record and record["trial"] == json.loads(json.dumps(asdict(trial)))
            else None
        )

    def costs(self, trial: Trial) -> Costs | None:
        """Return the stored costs of a trial, or None."""
        record = _read(self.folder / "trials" / trial.id / "costs.json")
        return Costs(**record) if record else None

    def write_tables(self, trials: Iterable[Trial]) -> None:
        """Write results.csv and costs.csv for these trials, in an order that does not depend on how they were run."""
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
        write_atomically(self.folder / "results.csv", _csv(results))
        write_atomically(self.folder / "costs.csv", _csv(costs))


def read_study(folder: Path) -> dict[str, Any]:
    """Return specification and manifest of the study in a folder.

    Raises:
        StudyError: there is none.
    """
    stored = _read(folder / "study.json")
    if stored is None:
        raise StudyError(
            f"DIR: must be the folder of a study (with a study.json), got {str(folder)!r}; "
            "`fallline compare --out DIR` makes one"
        )
    return stored


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that it is never seen half written."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")
    try:
        with os.fdopen(handle, "w", newline="") as file:
            file.write(text)
        Path(draft).chmod(0o644)  # mkstemp keeps the file to its owner; a study's folder is there to be shared
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
