"""The perturbation of SAM and ASAM as an update rule; `fallline.SAM` uses it to wrap another optimizer."""

from typing import Any

from fallline.rules.ranges import NON_NEGATIVE
from fallline.rules.rule import ALL, Norm, rule


@rule(
    state={"original": None},
    ranges={"rho": NON_NEGATIVE},
    formula="e = ρ·g/‖g‖  (adaptive: ρ·p²·g/‖p·g‖);  the gradient at p + e updates p",
    source="Foret et al. 2021, arXiv:2010.01412v3, algorithm 1; Kwon et al. 2021, arXiv:2102.11600v3, algorithm 1",
    global_norms=1,
)
def sam(param: Any, grad: Any, original: Any, *, rho: Any, adaptive: bool, norm: Norm) -> tuple[Any, ...]:
    """Move by rho along the gradient, approximately to the largest loss in the neighborhood, and save the parameter.

    State:   original: like param, its value before the perturbation. Needed only between the two phases of a step.
    Hyper:   rho: length of the perturbation, >= 0, in param units; relative to the parameters if adaptive.
    Follows: Foret et al. 2021, arXiv:2010.01412v3, equation 2 with p = 2; adaptive: Kwon et al. 2021,
             arXiv:2102.11600v3, equation 4 with T = |param|.
    Differs: 1e-12 is added to the norm, so that a gradient of 0 gives no perturbation. The norm is over all parameters
             of all groups. The adaptive form has no η in T, and treats biases like weights unless the options of their
             group differ. It is not adaptive in the sense of Adam: no running means, bias correction, `step` or decay.
    """
    if adaptive:
        slope = param * grad  # its norm equals that of |param|·grad
        return param + (rho / (norm(slope, ALL) + 1e-12)) * (param * slope), param
    return param + (rho / (norm(grad, ALL) + 1e-12)) * grad, param
