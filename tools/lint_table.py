"""Write docs/lint.md: every check, what it finds of the planted mistakes, and what it says to well-known set-ups.

python tools/lint_table.py [--check]
"""

import sys
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "lint.md"
sys.path.insert(0, str(ROOT / "tests"))

from fallline.linting import CHECKS  # noqa: E402
from plants import PLANTS, lint, planted  # noqa: E402
from setups import SETUPS  # noqa: E402

HEAD = """# The linter

`fl.lint(model, optimizer, scheduler, total_steps)` and `fallline lint FILE:OBJECT` find known mistakes before the hours
are spent. Nothing is trained and nothing is changed; the schedule is not guessed at, a copy of it is run over the whole
training. `ignore=["decayed-norms"]` silences a check. Written by `make pages`.

Each mistake is planted into every one of {count} well-known set-ups that it fits; *found* says in how many it is found
(recall: {recall}). *Said to untouched* counts the findings on the {count} as published, {said} in all, at most one
each, {errors} of them errors. If all of those are taken to be wrong (each is true, but the run went well), the
precision of a finding over this page is {precision:.0%}.

| check | severity | it is wrong when | found | said to untouched | source |
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
    head += "\n\n## The set-ups\n\nRe-expressed from their published hyperparameters "
    return (
        head + "([tests/setups.py](../tests/setups.py)).\n\n| set-up | finding |\n|---|---|\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(render(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render():
        sys.exit("docs/lint.md is stale; run: make pages")
