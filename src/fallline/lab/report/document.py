"""The parts of a report, independent of its format: sections of paragraphs, tables, figures, lists and code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.tables import Table


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: the sentences of the paragraph.
        lead: words before the text, in bold.
        note: whether the paragraph is an explanatory note, which is shown in a smaller font.
    """

    kind: ClassVar[str] = "text"
    text: str
    lead: str = ""
    note: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Code or a command for copy and paste."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Tabled:
    """A table."""

    kind: ClassVar[str] = "table"
    table: Table


@dataclass(frozen=True)
class Figures:
    """Figures that share a legend and a caption.

    Attributes:
        charts: Vega-Lite charts, by name.
        caption: how to read the figures.
        legend: whether a legend above the figures names the arms and lets the reader hide them.
        beside: whether the figures are shown side by side if the page is wide enough.
    """

    kind: ClassVar[str] = "figures"
    charts: Mapping[str, Any]
    caption: str
    legend: bool = True
    beside: bool = False


Block = Text | Bullets | Code | Tabled | Figures


@dataclass(frozen=True)
class Section:
    """A section of a report."""

    title: str
    blocks: Sequence[Block]


def tabulate(*tables: Table | None) -> list[Block]:
    """Return tables as blocks, and leave out those that are None."""
    return [Tabled(table) for table in tables if table is not None]


@dataclass(frozen=True)
class Topic:
    """A topic of the report of a study, given by the functions that return its parts.

    Attributes:
        section: returns the section of the page, or None if the study has no data for it.
        tables: returns the tables, with None for each table that the study has no data for.
        figures: returns the figures as Vega-Lite charts, by name.
    """

    section: Callable[[StudyResults], Section | None]
    tables: Callable[[StudyResults], Sequence[Table | None]] = lambda _: ()
    figures: Callable[[StudyResults], Mapping[str, Any]] = lambda _: {}


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        headline: the answer in one line.
        subject: the question in one line.
        arms: names of the arms, in the order that determines their colours, dashes and marks.
        verdicts: pairs of an arm and a sentence about it.
        notes: how to read the sentences.
        warnings: what a reader needs to know before trusting the numbers.
        sections: the sections that follow.
        name: part of the name of the files to which a reader saves figures.
        means: pairs of an arm and its result, best first.
        answer: one sentence with the size and the certainty of the difference; empty if nothing is compared.
        code: a section with code for copy and paste, which follows the answer and the warnings, or None.
    """

    headline: str
    subject: str
    arms: Sequence[str]
    verdicts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    warnings: Sequence[str]
    sections: Sequence[Section]
    name: str = "study"
    means: Sequence[tuple[str, str]] = ()
    answer: str = ""
    code: Section | None = None

    @property
    def charts(self) -> dict[str, Any]:
        """All figures, by name."""
        blocks = [block for section in self.sections for block in section.blocks]
        return {name: c for block in blocks if isinstance(block, Figures) for name, c in block.charts.items()}

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block.table for block in blocks if isinstance(block, Tabled)]
