"""The page on training libraries names the versions that constraints.txt pins, and every test file has its row."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "libraries.md").read_text(encoding="utf-8")
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())


def test_the_page_names_the_pinned_versions():
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", PAGE, re.MULTILINE))
    assert {"torch": re.search(r"tested with torch ([\d.]+)\.", PAGE)[1], **rows} == PINS


def test_every_library_has_a_test_and_every_test_a_row():
    here, integrations = (
        {path.stem.removeprefix(prefix).replace("_", "-") for path in (ROOT / "tests" / folder).glob(f"{prefix}*.py")}
        for folder, prefix in (("clients", "test_"), ("integrations", "test_trial_under_"))
    )
    assert here - {"versions"} <= PINS.keys() - {"torch"} <= here | integrations
