"""Write docs/lint.md: every check, its recall on planted mistakes, and its findings on well-known set-ups.

python tools/lint_table.py [--check]
"""

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "lint.md"
sys.path.insert(0, str(ROOT / "tests"))

from fallline.linting import CHECKS  # noqa: E402
from support.plants import PLANTS, lint, planted  # noqa: E402
from support.setups import SETUPS  # noqa: E402

HEAD = """# The linter

`fl.lint(model, optimizer, scheduler, total_steps)` and `fallline lint FILE:OBJECT` find known mistakes in a training
set-up before you start the training. The linter does not train and does not change anything. It runs a copy of the
schedule over the whole training to see its learning rates. `ignore=["decayed-norms"]` disables a check. This page is
written by `make pages`.

`total_steps` is the number of optimizer steps of the whole training. It stays the same when the script loads a
checkpoint and continues. The checks look into SAM, DataParallel, DDP, FSDP, `torch.compile`, `SequentialLR`,
`ChainedScheduler`, and the objects that accelerate and Lightning put around an optimizer or a scheduler. What they
cannot look into is reported as `not-inspected`.

To measure the recall, each mistake was planted into each of {count} well-known set-ups where it is possible. The column
*found* shows in how many of them the check found it (in total {recall}). The column *unmodified set-ups* counts the
findings on the {count} set-ups as published: {said} in all, at most one per set-up, {errors} of them errors. Each of
these findings is true, but the published run went well. If all of them are counted as wrong, the precision over this
page is {precision:.0%}.

| check | severity | wrong if | found | unmodified set-ups | source |
|---|---|---|--:|--:|---|
"""


def render() -> str:
    """Return the text of the page."""
    warnings.simplefilter("ignore")  # torch's, of one of the planted mistakes
    untouched = {name: lint(make()) for name, make in SETUPS.items()}
    said = [finding for found in untouched.values() for finding in found]
    rows, hits, all_tried = [], 0, 0
    for id, check in CHECKS.items():
        tried = [[f.id for f in lint(s)] for own, plant, fits in PLANTS if own == id for _, s in planted(plant, fits)]
        found = f"{sum(id in ids for ids in tried)} of {len(tried)}"
        hits, all_tried = hits + sum(id in ids for ids in tried), all_tried + len(tried)
        count = sum(finding.id == id for finding in said)
        rows.append(
            f"| `{id}` | {check.severity} | {check.false_positives} | {found} | {count or '–'} | {check.source} |"
        )
    lines = [
        f"| {make.__doc__.rstrip('.')} | {', '.join(f'`{f.id}`' for f in untouched[name]) or '–'} |"
        for name, make in SETUPS.items()
    ]
    errors = sum(finding.severity == "error" for finding in said) or "none"
    head = HEAD.format(
        count=len(SETUPS),
        said=len(said),
        errors=errors,
        recall=f"{hits} of {all_tried}",
        precision=hits / (hits + len(said)),
    )
    head += "\n".join(rows)
    head += "\n\n## The set-ups\n\nThe set-ups are reconstructed from their published hyperparameters "
    return (
        head
        + "([tests/support/setups.py](../tests/support/setups.py)).\n\n"
        + "| set-up | finding |\n|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(render(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render():
        sys.exit("docs/lint.md is stale; run: make pages")
