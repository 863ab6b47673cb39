"""The report of a study: one HTML file that opens from disk without a network."""

import functools
import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import vl_convert
from markupsafe import Markup

from fallline.errors import StudyError
from fallline.lab.report import charts
from fallline.lab.report.content import content
from fallline.lab.report.paste import best_code
from fallline.lab.store import write_atomically

if TYPE_CHECKING:
    from fallline.lab.study import Study

__all__ = ["best_code", "write_report"]


def write_report(study: "Study", path: Path) -> Path:
    """Write the report of a finished study as one HTML file and return its path.

    Raises:
        StudyError: the file cannot be written.
    """
    figures = {name: _json(chart.to_dict()) for name, chart in _figures(study).items() if chart is not None}
    text = _template().render(**content(study), figures=figures, javascript=_javascript())
    try:
        write_atomically(path, text)
    except OSError as error:
        raise StudyError(
            f"report: the file must be writable, got {str(path)!r} ({error.strerror}); pass another path"
        ) from None
    return path


def _figures(study: "Study") -> dict[str, Any]:
    return {
        "differences": charts.differences(study),
        "learning-rates": charts.learning_rates(study),
        "validation": charts.curves(study, "val"),
        "training": charts.curves(study, "train"),
        "strip": charts.strip(study) if any(search.best is not None for search in study.searches.values()) else None,
    }


def _template() -> jinja2.Template:
    folder = files("fallline.lab.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "p": _p_value, "unbroken": _unbroken, "breakable": _breakable}
    return environment.get_template("page.html.j2")


def _number(value: float, form: str, unit: str = "") -> str:
    """Return a number with a true minus sign and its unit, or a dash when there is none."""
    return "–" if math.isnan(value) else f"{value:{form}}{unit}".replace("-", "−")


def _p_value(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _unbroken(sentence: str) -> str:
    """Return a sentence whose numbers keep their units and equals signs on their line."""
    return sentence.replace(" %", "\u00a0%").replace(" = ", "\u00a0=\u00a0")


def _breakable(arm: str) -> Markup:
    """Return an arm's name, escaped, that may break before what was fixed of it."""
    return Markup("<wbr>@").join(arm.split("@"))


@functools.cache
def _javascript() -> str:
    """Return Vega, Vega-Lite and vega-embed in one script that sets `window.vegaEmbed`."""
    script = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    return script.replace("</script", "<\\/script")


def _json(chart: Mapping[str, Any]) -> str:
    # Inside <script>, "</script" ends the element and "<!--" changes how it ends, whatever the JSON says.
    return json.dumps(chart, allow_nan=False).replace("<", "\\u003c")
