"""The page about several studies with the same arms on different tasks."""

from fallline.lab.report.survey.page import write_survey

__all__ = ["write_survey"]
