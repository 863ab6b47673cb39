"""What a report is made of, whatever it is written as: sections of paragraphs, tables, figures, lists and code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.tables import Table


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: its sentences.
        lead: words before them, in bold.
        note: whether it only explains, and is set smaller.
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
    """Code or a command to paste."""

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
        caption: how to read them.
        legend: whether their arms are named, and can be hidden, above them.
        beside: whether they stand side by side where there is room.
    """

    kind: ClassVar[str] = "figures"
    charts: Mapping[str, Any]
    caption: str
    legend: bool = True
    beside: bool = False


Block = Text | Bullets | Code | Tabled | Figures


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading."""

    title: str
    blocks: Sequence[Block]


def tabulate(*tables: Table | None) -> list[Block]:
    """Return tables as blocks, without those that are None."""
    return [Tabled(table) for table in tables if table is not None]


@dataclass(frozen=True)
class Topic:
    """A topic of the report of a study, by the functions that return its parts.

    Attributes:
        section: its part of the page; None where the study has nothing for it.
        tables: its tables; None for each that the study has nothing for.
        figures: its figures as Vega-Lite charts, by name.
    """

    section: Callable[[StudyResults], Section | None]
    tables: Callable[[StudyResults], Sequence[Table | None]] = lambda _: ()
    figures: Callable[[StudyResults], Mapping[str, Any]] = lambda _: {}


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        headline: the answer in one line.
        subject: what was asked, in one line.
        arms: in the order that decides their colours, dashes and marks.
        means: an arm and its result each, best first.
        answer: by how much, and how sure, in a sentence; empty where nothing is compared.
        verdicts: an arm and a sentence each.
        notes: how to read the sentences.
        warnings: what to know before trusting the numbers.
        sections: the rest.
        name: for the files that a reader saves figures to.
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

    @property
    def charts(self) -> dict[str, Any]:
        """Every figure, by name."""
        blocks = [block for section in self.sections for block in section.blocks]
        return {name: c for block in blocks if isinstance(block, Figures) for name, c in block.charts.items()}

    @property
    def tables(self) -> list[Table]:
        """Every table."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block.table for block in blocks if isinstance(block, Tabled)]
