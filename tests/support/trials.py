"""A trial whose reports a test reads, as a study would."""

import json

import fallline as fl
from fallline.lab.run.live_trial import VARIABLE
from fallline.lab.run.run_record import RunRecordFile

OPTIONS = {"lr": 0.01, "weight_decay": 0.1}
DESCRIPTION = {"arm": "adamw", "optimizer": "adamw", "schedule": "cosine", "warmup": 0.1, "seed": 5, "options": OPTIONS}


def trial_in(folder, monkeypatch, **changes):
    """Return a trial of a study that describes it in a folder; scripts that are run get the same."""
    folder.mkdir(exist_ok=True)
    (folder / "trial.json").write_text(json.dumps(DESCRIPTION | changes))
    monkeypatch.setenv(VARIABLE, str(folder / "trial.json"))
    return fl.trial()


def read_reports(folder):
    """Return the entries of `log`, of `result` and of failures, in the order of the reports."""
    entries = RunRecordFile(folder).read().entries
    return tuple([entry[kind] for entry in entries if kind in entry] for kind in ("log", "result", "failure"))
