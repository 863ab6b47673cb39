"""`fallline report`: write the report of one study in several formats, or a profile of several studies."""

from collections.abc import Sequence
from pathlib import Path

from fallline.cli import show
from fallline.errors import ArgumentError

PROFILE = "profile.html"


def write(folders: Sequence[Path], formats: Sequence[str], out: Path | None) -> None:
    """Write the report of one study or the profile of several studies, and print the paths."""
    from fallline.lab.report.formats import check_formats, write_formats
    from fallline.lab.report.profile import write_profile
    from fallline.lab.study import load

    check_formats(formats)
    studies = [load(folder) for folder in folders]
    if len(studies) > 1:
        if list(formats) != ["html"]:
            raise ArgumentError(
                f"format: a profile of several studies must be html, got {', '.join(formats)}; leave it out"
            )
        show.path("profile", write_profile([study.record for study in studies], (out or Path()) / PROFILE))
        return
    show.verdict(studies[0])
    for path in write_formats(studies[0].record, out or folders[0], formats):
        show.path("report" if path.suffix == ".html" else path.suffix[1:], path)
