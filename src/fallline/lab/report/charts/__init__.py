"""The figures of a report, as Vega-Lite charts: one function a figure, one file a theme.

Every chart has a parameter `hidden`, the list of arms not to draw; the page's legend sets it in all charts at once.
"""

from typing import Any

from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.charts.curves import curves, strip
from fallline.lab.report.charts.differences import differences
from fallline.lab.report.charts.sharpness import sharpness
from fallline.lab.report.charts.static import static
from fallline.lab.report.charts.targets import time_to_target
from fallline.lab.report.charts.traces import norms
from fallline.lab.report.charts.tuning import budget, hyperparameters, learning_rates


def figures(study: StudyResults) -> dict[str, Any]:
    """Return the figures that a study gives rise to, by name, in the order of the report."""
    found = {
        "differences": differences(study),
        "learning-rates": learning_rates(study),
        "validation": curves(study, "val"),
        "training": curves(study, "train"),
        "strip": strip(study),
        "time-to-target": time_to_target(study),
        "gradient-norm": norms(study, "grad_norm"),
        "update-norm": norms(study, "update_norm"),
        "sharpness": sharpness(study),
        "budget-trials": budget(study, "trials"),
        "budget-seconds": budget(study, "seconds"),
        **hyperparameters(study),
    }
    return {name: chart for name, chart in found.items() if chart is not None}


def static_figures(study: StudyResults) -> dict[str, Any]:
    """Return the same figures for files and notebooks: of a fixed width, with a legend in the picture."""
    return {name: static(chart) for name, chart in figures(study).items()}
