"""Run the code of some pages and write its output and figures.  python tools/pages.py [--check].

The ```python blocks of a page run one after the other in a temporary folder. The output of each is written to the
```text block below it, and the figures that they save are written next to the page.
"""

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
METHOD = DOCS / "landscape" / "method.md"  # what is computed, without code to run
LANDSCAPE = tuple(page for page in sorted((DOCS / "landscape").glob("*.md")) if page != METHOD)
_FOLDERS = ("how-to", "scale")
UNDRAWN = (
    DOCS / "tutorial.md",
    DOCS / "sam.md",
    *(page for folder in _FOLDERS for page in sorted((DOCS / folder).glob("*.md"))),
)
_BLOCK = re.compile(r"(```python\n(.*?)```\n)(?:\n```text\n.*?```\n)?", re.DOTALL)


def render(page: Path, folder: Path) -> str:
    """Return a page with the current output of its code, which saves its figures in `folder`."""
    names: dict[str, object] = {"__name__": "__main__"}

    def run(match: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(match[2], page.name, "exec"), names)
        return match[1] + (f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else "")

    before = Path.cwd()
    os.chdir(folder)
    try:
        return _BLOCK.sub(run, page.read_text(encoding="utf-8"))
    finally:
        os.chdir(before)


def main(check: bool) -> None:
    """Write the pages and their pictures, or exit with an error if a page is stale."""
    for page in (*LANDSCAPE, *UNDRAWN):
        with tempfile.TemporaryDirectory() as name:
            text = render(page, Path(name))
            if check and text != page.read_text(encoding="utf-8"):
                sys.exit(f"{page.relative_to(DOCS.parent)} is stale; run: make pages")
            for picture in () if check else Path(name).glob("*.svg"):
                (page.parent / picture.name).write_bytes(picture.read_bytes())
        if not check:
            page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main("--check" in sys.argv)
