"""Runs the Python of the pages in docs/landscape, which draws their pictures; `--check` tells whether those are stale.

python tools/pages.py [--check] [NAME…]

The blocks of a page are one program, run in an empty folder; every picture that it saves belongs beside the page.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "landscape"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def program(page: Path) -> str:
    """Return the Python blocks of a page as one program."""
    return "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))


def draw(page: Path) -> dict[str, bytes]:
    """Run a page and return the pictures it saved, by file name."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-W", "error", "-c", program(page)], cwd=folder, check=True)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.svg"))}


def main(names: list[str], check: bool) -> None:
    """Write the pictures of all pages or of those named, or only compare them."""
    for page in sorted(FOLDER.glob("*.md")):
        if names and page.stem not in names:
            continue
        for name, picture in draw(page).items():
            path = FOLDER / name
            if not check:
                path.write_bytes(picture)
            elif not path.exists() or path.read_bytes() != picture:
                sys.exit(f"docs/landscape/{name} is stale; run: make docs")


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--check"], "--check" in sys.argv)
