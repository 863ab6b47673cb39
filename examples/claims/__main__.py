"""Run the scripts of this folder and write the table of their results into README.md.

python examples/claims                   # all claims
python examples/claims muon winners_curse
python examples/claims --table           # only write the table
python examples/claims --check           # only check that the table shows the results
"""

import re
import runpy
import sys
from pathlib import Path

from verdict import FOLDER, results, show

README = FOLDER / "README.md"
SHARED = {"__main__", "verdict", "scaled_digits"}  # modules that are not claims


def scripts() -> list[str]:
    """Return the names of the scripts, one per claim."""
    return sorted({path.stem for path in FOLDER.glob("*.py")} - SHARED)


def table() -> str:
    """Return the results as a table in Markdown."""
    lines = ["| claim | source | what we found | n | 95 % interval | verdict |", "|---|---|---|--:|---|---|"]
    for row in results():
        low, high = (show(row[end], row["unit"]) for end in ("low", "high"))
        cells = (
            f"[{row['claim']}]({row['name']}.py)",
            row["source"],
            row["found"],
            row["n"] or "–",
            f"{low.removesuffix(row['unit']).strip()} to {high}" if row["n"] else "–",
            f"**{row['verdict']}**",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """Return the page with its table replaced by that of the results."""
    return re.sub(r"^\| claim \|.*\n(\|.*\n)*", lambda _: table(), page, count=1, flags=re.MULTILINE)


def main(arguments: list[str]) -> int:
    """Run the named scripts, or all, and write the table."""
    page = README.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        return int(with_table(page) != page)
    if arguments != ["--table"]:
        for name in arguments or scripts():
            runpy.run_path(str(FOLDER / f"{Path(name).stem}.py"), run_name="__main__")
            print()
    README.write_text(with_table(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
