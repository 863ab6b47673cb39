"""The landscape of a loss, measured: surfaces, paths, learning rate ranges, and scalars while a training runs."""

from fallline.landscape.lr_range import LRRange, lr_range
from fallline.landscape.surface import Surface, surface
from fallline.landscape.trajectory import Trajectory, trajectory

__all__ = ["LRRange", "Surface", "Trajectory", "lr_range", "surface", "trajectory"]
