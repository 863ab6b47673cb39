"""Print random sentences of the project's prose, for a check by a new reader.

python tools/sentences.py [COUNT] [SEED]

The sentences come from README and docs, from the help of the commands, from error messages and from the texts of the
report, an equal number from each. Generated reports and pages of output are left out.
"""

import ast
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "fallline"
COMMANDS = (
    "compare",
    "report",
    "exercise",
    "reproduce",
    "race",
    "landscape",
    "lr-range",
    "lint",
    "schedules",
    "data",
    "gate",
)


def sentences(text: str) -> list[str]:
    """Split prose into sentences of at least four words."""
    found = re.split(r"(?<=[.!?])\s+(?=[A-Z`\[])", " ".join(text.split()))
    return [part for part in found if len(re.findall(r"[A-Za-z]{2,}", part)) >= 4]


def documents() -> Iterator[str]:
    """Yield the sentences of the hand-written pages, without code and tables."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")):
        text = re.sub(r"```.*?```|^\|.*?$|^#.*?$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
        for block in re.split(r"\n\s*\n|^\s*[-*] |^\s*\d+\. ", text, flags=re.M):
            yield from sentences(block)


def helps() -> Iterator[str]:
    """Yield the sentences of every command's --help."""
    for command in COMMANDS:
        words = [sys.executable, "-m", "fallline", command, "--help"]
        text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        for block in re.split(r"\n(?=.*?--?[a-z])|\n\s*\n", re.sub(r"[│╭╮╰╯─]", "", text)):
            yield from sentences(block)


def strings(node: ast.AST) -> Iterator[str]:
    """Yield the string literals below a node except docstrings, with ‹expression› for each value that is filled in."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(p.value) if isinstance(p, ast.Constant) else f"‹{ast.unparse(p.value)}›" for p in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def trees(folder: Path) -> Iterator[ast.Module]:
    """Yield the syntax trees of the modules in a folder."""
    for path in sorted(folder.rglob("*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"))


def errors() -> Iterator[str]:
    """Yield the messages of the exceptions and warnings that the sources raise."""
    for tree in trees(SOURCES):
        for node in ast.walk(tree):
            is_warning = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("warn")
            for text in strings(node) if isinstance(node, ast.Raise) or is_warning else ():
                yield from sentences(text)


def report() -> Iterator[str]:
    """Yield the texts of the report: the string literals of `lab/report` and `lab/analysis`."""
    for folder in ("report", "analysis"):
        for tree in trees(SOURCES / "lab" / folder):
            for text in strings(tree):
                yield from sentences(text)


def main(count: int = 50, seed: int = 0) -> None:
    """Print `count` sentences, an equal number of each kind."""
    draw = random.Random(seed)
    kinds = (documents, helps, errors, report)
    for index, kind in enumerate(kinds):
        found = sorted(set(kind()))
        share = count // len(kinds) + (index < count % len(kinds))
        for sentence in draw.sample(found, share):
            print(f"[{kind.__name__}] {sentence}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
