"""What the site needs so that pages written for GitHub look the same there: formulas, lists and links.

GitHub's Markdown differs from Python-Markdown, which MkDocs uses, in three points: formulas (`$x$`, `` $`x`$ ``,
`$$…$$`, and blocks of ```` ```math ````), lists (they may follow a paragraph directly, and two spaces nest), and links
(relative to the repository, of which the site contains a part).
"""

import logging
import re
from collections.abc import Callable
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor
from markdown.treeprocessors import Treeprocessor

LOG = logging.getLogger("mkdocs.site_markdown")  # warnings of this logger fail a strict build

FENCE = re.compile(r"^( *)(`{3,}|~{3,})\s*(\w*)")
ITEM = re.compile(r"^( *)([-*+]|\d+\.) +")
# Code spans come first: a dollar sign inside them is no formula.
INLINE = re.compile(
    r"\$`(?P<github>[^`]+)`\$"
    r"|(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)"
    r"|\$\$(?P<display>.+?)\$\$"
    r"|(?<![\\\w$])\$(?P<dollar>[^\s$`](?:[^$`]*[^\s$`\\])?)\$(?![\w$])",
    re.DOTALL,
)


class Formulas(Preprocessor):
    """Replace LaTeX by MathML, which browsers render without a script."""

    def run(self, lines: list[str]) -> list[str]:
        """Convert fenced blocks of math, and formulas in the text between fenced blocks of code."""
        done: list[str] = []
        text: list[str] = []
        rest = iter(lines)
        for line in rest:
            opening = FENCE.match(line)
            if not opening:
                text.append(line)
                continue
            done, text = done + self._inline(text), []
            block = [line]
            for inside in rest:
                block.append(inside)
                if inside.strip() == opening[2]:
                    break
            if opening[3] == "math":
                done += ["", opening[1] + self._stash("\n".join(block[1:-1]), "block"), ""]
            else:
                done += block
        return done + self._inline(text)

    def _inline(self, lines: list[str]) -> list[str]:
        return INLINE.sub(self._formula, "\n".join(lines)).split("\n") if lines else []

    def _formula(self, match: re.Match[str]) -> str:
        if match["ticks"]:
            return match[0]
        if match["display"]:
            return "\n\n" + self._stash(match["display"], "block") + "\n\n"
        return self._stash(match["github"] or match["dollar"], "inline")

    def _stash(self, latex: str, display: str) -> str:
        # The converter does not know `aligned`; within a block `align*` is the same.
        mathml = convert(latex.strip().replace("{aligned}", "{align*}"), display=display)
        if "\\" in mathml or "<mi>&</mi>" in mathml:  # what it does not know, it leaves as it is
            LOG.warning("Formula not converted: %s", latex.strip())
        if display == "block":
            mathml = f'<div class="formula">{mathml}</div>'
        return str(self.md.htmlStash.store(mathml))


class Lists(Preprocessor):
    """Indent what belongs to a list item by four spaces a level, and set lists off from paragraphs."""

    def run(self, lines: list[str]) -> list[str]:
        """Return the lines as Python-Markdown expects them."""
        done: list[str] = []
        columns: list[int] = []  # where the text of each open list item begins, from the outermost inwards
        fence = ""  # the mark that ends the current block of code, if any
        after_code = False
        shift = 0
        for line in lines:
            item, opening = ITEM.match(line), FENCE.match(line)
            after_text = bool(done and done[-1].strip())
            if fence:
                fence, after_code = ("", True) if line.strip() == fence else (fence, False)
            elif line.strip():
                indent = len(line) - len(line.lstrip(" "))
                if item and (after_code or (not columns and after_text and item[2] in "-*+1.")):
                    done.append("")
                after_code = False
                if item or opening or not after_text:  # any other line may continue the paragraph before it
                    columns = [column for column in columns if column <= indent]
                shift = 4 * len(columns) - columns[-1] if columns and indent >= columns[-1] else 0
                if item:
                    columns.append(len(item[0]))
                fence = opening[2] if opening else ""
            done.append(" " * shift + line if line.strip() else line)
        return done


class Links(Treeprocessor):
    """Point links at the site's pages before MkDocs checks them."""

    def __init__(self, md: Markdown, resolve: Callable[[str], str | None]) -> None:
        super().__init__(md)
        self.resolve = resolve

    def run(self, root: Element) -> None:
        """Rewrite every relative link; one that leads to no page of the site becomes plain text."""
        for element in root.iter():
            attribute = {"a": "href", "img": "src"}.get(element.tag)
            address = element.get(attribute) if attribute else None
            if not attribute or not address or re.match(r"[a-z]+:|#|/|&#", address):
                continue
            target = self.resolve(address)
            if target is None:
                element.tag = "span"
                del element.attrib[attribute]
            else:
                element.set(attribute, target)


class GitHubMarkdown(Extension):
    """The extension; `resolve` maps a link to one within the site, or to None."""

    def __init__(self, resolve: Callable[[str], str | None]) -> None:
        super().__init__()
        self.resolve = resolve

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the parts: formulas and lists before fenced code (25), links before MkDocs' own check (0)."""
        md.preprocessors.register(Lists(md), "github_lists", 29)
        md.preprocessors.register(Formulas(md), "github_formulas", 28)
        md.treeprocessors.register(Links(md, self.resolve), "github_links", 5)
