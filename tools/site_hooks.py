"""Hooks of MkDocs: pages outside docs/ on the site, links between them, folders in the navigation."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from site_markdown import GitHubMarkdown

ROOT = Path(__file__).resolve().parent.parent
# The README is the home page; the studies' reports and the rules of the project have their paths of the repository.
OUTSIDE = {"README.md": "index.md"} | {name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "STYLE.md")}
REPORTS = (".md", ".svg", ".png", ".html")


class Site:
    """What the hooks share: which file of the repository is where on the site, and the page being rendered."""

    def __init__(self) -> None:
        self.address: dict[Path, str] = {}
        self.source = ROOT / "README.md"
        self.page = "index.md"
        self.repository = ""

    def resolve(self, link: str) -> str | None:
        """Return the link from the current page; None for a file of the repository that is not on the site."""
        path, mark, anchor = unquote(link).partition("#")
        target = (self.source.parent / path).resolve()
        found = self.address.get(target) or self.address.get(target / "README.md")
        if found:
            return os.path.relpath(found, Path(self.page).parent).replace(os.sep, "/") + mark + anchor
        if ROOT in target.parents and target.exists():
            return f"{self.repository}/blob/main/{target.relative_to(ROOT)}" if self.repository else None
        return link  # leads nowhere: MkDocs reports it


SITE = Site()


def on_config(config: MkDocsConfig) -> None:
    """Read Markdown as GitHub does."""
    SITE.repository = (config.repo_url or "").rstrip("/")
    config.markdown_extensions.append(GitHubMarkdown(SITE.resolve))  # type: ignore[arg-type]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages and pictures from outside docs/, and expand the folders of the navigation."""
    outside = dict(OUTSIDE)
    for path in sorted((ROOT / "examples").rglob("*")):
        if path.suffix in REPORTS:
            name = path.relative_to(ROOT).as_posix()
            # report.md becomes report.html, so the report that is HTML already goes into a folder of its own.
            outside[name] = name if path.suffix != ".html" else str(Path(name).parent / "html" / path.name)
    for path, address in outside.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "assets/STIXTwoMath-Regular.ttf", abs_src_path=math_font()))
    SITE.address = {Path(file.abs_src_path).resolve(): file.src_uri for file in files if file.abs_src_path}
    config.nav = expand(config.nav, [file.src_uri for file in files.documentation_pages()])


def math_font() -> str:
    """Return the path of STIX Two Math (SIL Open Font License), which ziamath contains."""
    spec = find_spec("ziamath")
    assert spec and spec.origin
    return str(Path(spec.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf")


def expand(entries: list[Any], pages: list[str]) -> list[Any]:
    """Replace each `folder/` of the navigation by the pages in it, its README first."""
    expanded: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            ((title, inside),) = entry.items()
            if isinstance(inside, str):
                inside = expand([inside], pages) if inside.endswith("/") else inside
            else:
                inside = expand(inside, pages)
            expanded.append({title: inside})
        elif entry.endswith("/"):
            found = [page for page in pages if page.startswith(entry) and "/" not in page.removeprefix(entry)]
            expanded += sorted(found, key=lambda page: (not page.endswith("README.md"), page))
        else:
            expanded.append(entry)
    return expanded


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Remember the page that is rendered next, from which its links start; a comment before the title hides it."""
    SITE.source, SITE.page = Path(str(page.file.abs_src_path)), page.file.src_uri
    return re.sub(r"\A<!--.*?-->\s*", "", markdown, flags=re.DOTALL)
