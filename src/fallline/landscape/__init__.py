"""Loss landscape measurements: curvature with error bounds, surfaces, trajectories, lr range tests, monitoring."""

from fallline.landscape.lr_range.lr_range import LRRange, lr_range
from fallline.landscape.monitor.monitor import Monitor
from fallline.landscape.monitor.sinks import tensorboard
from fallline.landscape.operators.base import Dense, Operator
from fallline.landscape.operators.gauss_newton import GaussNewton
from fallline.landscape.operators.hessian import Hessian
from fallline.landscape.operators.preconditioned import Preconditioned
from fallline.landscape.progress import Step
from fallline.landscape.spectrum.critical_point import Point, classify_point
from fallline.landscape.spectrum.critical_sharpness import CriticalSharpness, critical_sharpness
from fallline.landscape.spectrum.density import Density, spectral_density
from fallline.landscape.spectrum.eigsh import Eigen, eigsh
from fallline.landscape.spectrum.sharpness import Sharpness, sharpness
from fallline.landscape.spectrum.trace import Trace, trace
from fallline.landscape.surface.surface import Surface, surface
from fallline.landscape.surface.trajectory import Trajectory, trajectory

# The solvers are methods of every operator too: `H.eigsh(3)` is `eigsh(H, 3)`. They build on the operators, so they are
# added here and not there.
for _solver in (classify_point, eigsh, sharpness, spectral_density, trace):
    setattr(Operator, _solver.__name__, _solver)

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
