"""Write the golden files, or with `--check` compare those on disk with what the oracles compute now."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # run as a file, the folder on the path is this one, not the one `oracles` is in
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from oracles import cases, golden, torch_twin
from oracles.golden import Golden
from oracles.problem import RECORDED, STEPS, Case

ROUNDING = 1e-15  # relative: a few units in the last place
README = f"""# Golden trajectories

One file a case: the parameters of a run of {STEPS} steps after steps {", ".join(map(str, RECORDED))}, and the
optimizer's state after the last, in float64. Every backend is held to them. **Generated: do not edit.** `tests/oracles`
holds what made them; none of it imports fallline.

- Made by: a plain NumPy transcription of the update rule (SGD's is `tests/oracles/sgd.py`, and so on).
- Confirmed by: `torch.optim` in float64, to {torch_twin.TOLERANCE:g} relative for every element of trajectory and
  state, before anything is written. "With the decay by hand": torch's optimizer without decay, and one multiplication
  before its step. "—": torch cannot express the case (a closed form in `tests/optimizers/test_oracles.py` for RMSprop).
- Inputs: `tests/oracles/problem.py`. Gradients do not depend on the parameters; float32 holds every input exactly.
- Read one: `from oracles import golden; g = golden.load("adamw_default")`, then `g.trajectory[60]["matrix"]`,
  `g.state["matrix"]["exp_avg"]`, `g.case.config`. In the .npz: `trajectory/<parameter>` (a row a recorded step),
  `state/<parameter>/<key>`, and `about` (JSON in UTF-8: case, recorded steps, confirmed by).
- Make them anew: `python tests/oracles/make.py`; the same content gives the same bytes. With `--check` it writes
  nothing and exits 1 where a file differs by more than {ROUNDING:g} relative.
- Add an optimizer: one module in `tests/oracles` with `update`, `LR`, `CASES` and, where torch has it, `TORCH` (which
  class has which decay mode); then make them anew.

In the column run, lrs: a learning rate a step is set; late: one parameter has no gradient before step 11 and at steps
20 to 24.

| case | class | keywords | run | made by | confirmed by |
|---|---|---|---|---|---|
"""


def compute(case: Case) -> Golden:
    """Return the record of a case; raise ValueError if torch can express it and disagrees."""
    ours = cases.run(case)
    theirs = torch_twin.run(case, cases.oracle_of(case))
    if theirs is None:
        return ours
    if not (worst := golden.difference(ours, theirs)) <= torch_twin.TOLERANCE:
        raise ValueError(
            f"{case.name}: oracle and {theirs.confirmed_by[0]} differ by {worst:.1e}; one of them is wrong"
        )
    return replace(ours, confirmed_by=ours.confirmed_by + theirs.confirmed_by)


def readme(goldens: list[Golden]) -> str:
    """Return the text of the README beside the goldens."""
    return README + "".join(_row(record) for record in goldens)


def complaints(goldens: list[Golden], folder: Path = golden.FOLDER) -> list[str]:
    """Return what on disk differs from these records, a line each."""
    found = [f"{name}: no such case" for name in golden.names(folder) if name not in {g.case.name for g in goldens}]
    for record in goldens:
        name = record.case.name
        if name not in golden.names(folder):
            found.append(f"{name}: no such file")
            continue
        stored = golden.load(name, folder)
        if (stored.case, stored.confirmed_by) != (record.case, record.confirmed_by):
            found.append(f"{name}: the file is of another case or confirmation")
        if not (worst := golden.difference(record, stored)) <= ROUNDING:
            found.append(f"{name}: differs by {worst:.1e}")
    text = folder / "README.md"
    if not text.exists() or text.read_text(encoding="utf-8") != readme(goldens):
        found.append("README.md: is not what the records say")
    return found


def write(goldens: list[Golden], folder: Path = golden.FOLDER) -> None:
    """Write every record and the README, and remove the files of cases that are gone."""
    folder.mkdir(exist_ok=True)
    for name in set(golden.names(folder)) - {record.case.name for record in goldens}:
        (folder / f"{name}.npz").unlink()
    for record in goldens:
        golden.save(record, folder)
    (folder / "README.md").write_text(readme(goldens), encoding="utf-8", newline="\n")


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    goldens = [compute(case) for case in cases.CASES.values()]
    if check:
        found = complaints(goldens)
        print("\n".join(found) or f"{len(goldens)} goldens are what the oracles compute")
        return 1 if found else 0
    write(goldens)
    confirmed = sum(len(record.confirmed_by) > 1 for record in goldens)
    print(f"wrote {len(goldens)} goldens to {golden.FOLDER}; torch confirmed {confirmed}")
    return 0


def _row(record: Golden) -> str:
    case = record.case
    keywords = ", ".join(f"{key}={value!r}" for key, value in case.config.items())
    special = ", ".join(["lrs"] * (case.lrs is not None) + ["late"] * case.late)
    made, *confirmed = record.confirmed_by
    return f"| {case.name} | {case.optimizer} | {keywords} | {special} | {made} | {', '.join(confirmed) or '—'} |\n"


if __name__ == "__main__":
    sys.exit(main())
