"""Write the report of a study: one HTML file that works without a network, or its parts in other formats."""

from pathlib import Path

from altair.utils.schemapi import debug_mode

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.formats import FORMATS, cannot_write, write_formats
from fallline.lab.report.notebook import figures, summary_html, tables
from fallline.lab.report.render import to_html
from fallline.lab.report.survey import write_survey
from fallline.lab.report.tables import Records
from fallline.lab.report.tensorboard import to_tensorboard
from fallline.lab.report.topics import document
from fallline.lab.report.topics.reproduce import best_code
from fallline.lab.storage.atomic_files import write_atomically

__all__ = [
    "FORMATS",
    "Records",
    "best_code",
    "figures",
    "summary_html",
    "tables",
    "to_tensorboard",
    "write_formats",
    "write_report",
    "write_survey",
]


def write_report(study: StudyResults, path: Path) -> Path:
    """Write the report of a finished study as one HTML file and return its path.

    Raises:
        StudyError: the file cannot be written.
    """
    with debug_mode(False):  # altair's validation against the schema of Vega-Lite takes a fifth of the time
        text = to_html(document(study))
    try:
        write_atomically(path, text)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path
