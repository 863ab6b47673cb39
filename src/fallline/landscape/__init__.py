"""The landscape: what curvature a model stands on, each number with its error."""

from fallline.landscape.critical import CriticalSharpness, critical_sharpness
from fallline.landscape.density import Density, spectral_density
from fallline.landscape.eigen import Eigen, eigsh
from fallline.landscape.gauss_newton import GaussNewton
from fallline.landscape.hessian import Hessian
from fallline.landscape.operators import Dense, Operator, Step
from fallline.landscape.point import Point, classify_point
from fallline.landscape.preconditioned import Preconditioned
from fallline.landscape.sharpness import Sharpness, sharpness
from fallline.landscape.trace import Trace, trace

__all__ = [
    "CriticalSharpness",
    "Dense",
    "Density",
    "Eigen",
    "GaussNewton",
    "Hessian",
    "Operator",
    "Point",
    "Preconditioned",
    "Sharpness",
    "Step",
    "Trace",
    "classify_point",
    "critical_sharpness",
    "eigsh",
    "sharpness",
    "spectral_density",
    "trace",
]
