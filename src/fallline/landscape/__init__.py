"""The landscape of a loss, measured: curvature with its errors, surfaces, paths, learning rates, a running watch."""

from fallline.landscape.critical import CriticalSharpness, critical_sharpness
from fallline.landscape.density import Density, spectral_density
from fallline.landscape.eigen import Eigen, eigsh
from fallline.landscape.gauss_newton import GaussNewton
from fallline.landscape.hessian import Hessian
from fallline.landscape.lr_range import LRRange, lr_range
from fallline.landscape.monitor import Monitor
from fallline.landscape.operators import Dense, Operator
from fallline.landscape.point import Point, classify_point
from fallline.landscape.preconditioned import Preconditioned
from fallline.landscape.progress import Step
from fallline.landscape.sharpness import Sharpness, sharpness
from fallline.landscape.sinks import tensorboard
from fallline.landscape.surface import Surface, surface
from fallline.landscape.trace import Trace, trace
from fallline.landscape.trajectory import Trajectory, trajectory

__all__ = [
    "CriticalSharpness",
    "Dense",
    "Density",
    "Eigen",
    "GaussNewton",
    "Hessian",
    "LRRange",
    "Monitor",
    "Operator",
    "Point",
    "Preconditioned",
    "Sharpness",
    "Step",
    "Surface",
    "Trace",
    "Trajectory",
    "classify_point",
    "critical_sharpness",
    "eigsh",
    "lr_range",
    "sharpness",
    "spectral_density",
    "surface",
    "tensorboard",
    "trace",
    "trajectory",
]
