"""The landscape of a loss, measured: surfaces, paths, learning rate ranges, and scalars while a training runs."""

from fallline.landscape.surface import Surface, surface
from fallline.landscape.trajectory import Trajectory, trajectory

__all__ = ["Surface", "Trajectory", "surface", "trajectory"]
