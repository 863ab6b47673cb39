"""Run the code of the pages on the landscape, and write what it prints and draws.  python tools/pages.py [--check].

A page's ```python blocks run one after the other, in a folder of their own; what each prints is the ```text block below
it, if there is one, and the pictures they save stand beside the page.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "landscape"
PAGES = tuple(sorted(path.name for path in FOLDER.glob("*.md")))
_BLOCK = re.compile(r"(```python\n(.*?)```\n)(?:\n```text\n.*?```\n)?", re.DOTALL)


def render(page: str, folder: Path) -> str:
    """Return a page with what its code prints now; the code saves its pictures in `folder`."""
    names: dict[str, object] = {"__name__": "__main__"}

    def run(match: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(match[2], page, "exec"), names)
        return match[1] + (f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else "")

    before = Path.cwd()
    os.chdir(folder)
    try:
        return _BLOCK.sub(run, (FOLDER / page).read_text(encoding="utf-8"))
    finally:
        os.chdir(before)


def main(check: bool) -> None:
    """Write the pages and their pictures, or exit with an error if a page is stale."""
    for page in PAGES:
        with tempfile.TemporaryDirectory() as name:
            text = render(page, Path(name))
            if check and text != (FOLDER / page).read_text(encoding="utf-8"):
                sys.exit(f"docs/landscape/{page} is stale; run: make docs")
            for picture in () if check else Path(name).iterdir():
                (FOLDER / picture.name).write_bytes(picture.read_bytes())
        if not check:
            (FOLDER / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main("--check" in sys.argv)
