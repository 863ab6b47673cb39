"""Race optimizers on a surface in two dimensions, to show what ravine, saddle and plateau mean."""

from fallline.lab.race.result import FORMATS, Race, race
from fallline.lab.race.runs import ARMS, Run

__all__ = ["ARMS", "FORMATS", "Race", "Run", "race"]
