"""Optimizers racing on a surface: what ravine, saddle and plateau mean, in two dimensions."""

from fallline.lab.race.result import FORMATS, Race, race
from fallline.lab.race.runs import ARMS, Run

__all__ = ["ARMS", "FORMATS", "Race", "Run", "race"]
