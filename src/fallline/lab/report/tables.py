"""Tables of a report, built once as records and then written as HTML, Markdown or CSV."""

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
    """A list of records, one per row.

    Example:
        >>> Records([{"arm": "adam", "lr": 0.01}])[0]["lr"]
        0.01
    """

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one column per key.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise MissingExtraError(
                "to_pandas: pandas must be installed, but it is not; run pip install pandas, or use the list of records"
            ) from None
        return pandas.DataFrame(list(self))


class Cell(NamedTuple):
    """The content of a cell.

    Attributes:
        text: the first line.
        small: text below it, in a smaller font.
        style: "", "bad" for failures, or "tuned" for hyperparameters that were searched.
    """

    text: str
    small: str = ""
    style: str = ""


@dataclass(frozen=True)
class Column:
    r"""A column of a table as readers see it.

    Attributes:
        title: the title; "\n" starts a new line.
        cell: returns the content of a cell from the record of the row.
        kind: "number" (aligned right), "text" (aligned left), "words" (text that wraps) or "arm" (shown with its mark).
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
        name: name of the table and of the file to which it is exported.
        records: all values, unrounded, for the export.
        columns: the columns that readers see.
        note: explanation below the table.
        folded: if the table is collapsed at first, the line that expands it; "" to show the table at once.
        rows: the rows that readers see, if they differ from the records.
    """

    name: str
    records: Records
    columns: tuple[Column, ...]
    note: str = ""
    folded: str = ""
    rows: Records | None = None

    @property
    def visible_records(self) -> Records:
        """The rows that readers see."""
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
    for row in table.visible_records:
        cells = [column(row) for column in table.columns]
        lines.append([plain(f"{cell.text} ({cell.small})" if cell.small else cell.text) for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_csv(records: Records) -> str:
    r"""Return records as CSV with a header line; missing values and NaN are empty.

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
