"""Optimizers racing on a surface: what ravine, saddle and plateau mean, in two dimensions."""

from fallline.lab.race.runs import ARMS, FORMATS, Race, Run, race

__all__ = ["ARMS", "FORMATS", "Race", "Run", "race"]
