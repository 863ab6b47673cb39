"""The landscape of a loss, measured: surfaces, paths, learning rate ranges, and scalars while a training runs."""

from fallline.landscape.lr_range import LRRange, lr_range
from fallline.landscape.monitor import Monitor
from fallline.landscape.sinks import tensorboard
from fallline.landscape.surface import Surface, surface
from fallline.landscape.trajectory import Trajectory, trajectory

__all__ = ["LRRange", "Monitor", "Surface", "Trajectory", "lr_range", "surface", "tensorboard", "trajectory"]
