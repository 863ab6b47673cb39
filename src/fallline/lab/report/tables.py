"""Tables, built once as records; the page, Markdown and CSV differ only in how they write them down."""

import csv
import importlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from fallline.errors import MissingExtraError
from fallline.lab.report.text import plain

Row = Mapping[str, Any]


class Records(list[dict[str, Any]]):
    """A list of records, one a row.

    Example:
        >>> Records([{"arm": "adam", "lr": 0.01}])[0]["lr"]
        0.01
    """

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a column for every key.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise MissingExtraError(
                "to_pandas: pandas must be installed, and is not; pip install pandas, or use the records as they are"
            ) from None
        return pandas.DataFrame(list(self))


class Cell(NamedTuple):
    """What a reader sees in a cell.

    Attributes:
        text: the first line.
        small: further lines below it, smaller.
        style: "", "bad" for failures, "tuned" for what was searched.
    """

    text: str
    small: str = ""
    style: str = ""


@dataclass(frozen=True)
class Column:
    r"""A column of a table as people read it.

    Attributes:
        title: its head; "\n" breaks it.
        cell: what stands in it, from the record of the row.
        kind: "number" (to the right), "text" (to the left), "words" (text in several lines), "arm" (with its mark).
    """

    title: str
    cell: Callable[[Row], Cell | str]
    kind: str = "number"

    def __call__(self, row: Row) -> Cell:
        """Return the cell of a row."""
        found = self.cell(row)
        return found if isinstance(found, Cell) else Cell(found)


@dataclass(frozen=True)
class Table:
    """Records and how they are shown.

    Attributes:
        name: of the file it is exported to.
        records: all values, unrounded: what is exported.
        columns: what people see of them.
        note: what they should know, below the table.
        folded: when it is long or for few: the line that opens it; "" to show it at once.
        rows: what people see, where that is arranged otherwise than the records.
    """

    name: str
    records: Records
    columns: tuple[Column, ...]
    note: str = ""
    folded: str = ""
    rows: Records | None = None

    @property
    def shown(self) -> Records:
        """What people see."""
        return self.records if self.rows is None else self.rows


ARM = Column("arm", lambda row: str(row["arm"]), "arm")


def to_markdown(table: Table) -> str:
    """Return the rows of a table as Markdown.

    Example:
        >>> print(to_markdown(Table("t", Records([{"arm": "adam"}]), (ARM,))))
        | arm |
        | :-- |
        | adam |
    """
    lines = [
        [plain(column.title.replace("\n", " ")) for column in table.columns],
        ["--:" if column.kind == "number" else ":--" for column in table.columns],
    ]
    for row in table.shown:
        cells = [column(row) for column in table.columns]
        lines.append([plain(f"{cell.text} ({cell.small})" if cell.small else cell.text) for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_csv(records: Records) -> str:
    r"""Return records as CSV with a line of names; what there is none of is empty.

    Example:
        >>> to_csv(Records([{"arm": "adam", "lr": 0.01, "p": float("nan")}]))
        'arm,lr,p\nadam,0.01,\n'
    """
    columns = list(dict.fromkeys(key for row in records for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in records:
        writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
    return text.getvalue()
