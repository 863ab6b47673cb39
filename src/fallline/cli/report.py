"""`fallline report`: write the report of one study, or the page over several studies, in several formats."""

from collections.abc import Sequence
from pathlib import Path

from fallline.cli import show


def write(folders: Sequence[Path], formats: Sequence[str], out: Path | None) -> None:
    """Write the report of one study or the page over several studies, and print the paths."""
    from fallline.lab.report.formats import check_formats, write_formats
    from fallline.lab.report.survey import write_survey
    from fallline.lab.study import load

    check_formats(formats)
    studies = [load(folder) for folder in folders]
    if len(studies) > 1:
        paths = write_survey([study.record for study in studies], out or Path(), formats)
    else:
        show.verdict(studies[0])
        paths = write_formats(studies[0].record, out or folders[0], formats)
    for path in paths:
        show.path("report" if path.suffix == ".html" else path.suffix[1:], path)
