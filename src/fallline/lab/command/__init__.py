"""Commands of the user: fill in their placeholders, run them, and read the metrics that they report."""

from fallline.lab.command.metrics import Source
from fallline.lab.command.process import Finished, run_process
from fallline.lab.command.template import Command

__all__ = ["Command", "Finished", "Source", "run_process"]
