"""Claim: SAM ends at flatter points than its base optimizer (Foret et al. 2020).

python examples/claims/sam_sharpness.py      # 1 minute

Measured: the largest eigenvalue of the Hessian of the training loss after 1,500 steps of SGD with momentum, with SAM at
the paper's default ρ = 0.05 and without, on the network of examples/landscape/sam_is_flatter.py. Both runs of a seed
have the same initialization, batches and number of steps.
"""

import math

from verdict import Claim, Comparison, interval, landscape_example, record

CLAIM = Claim(
    "sam_sharpness",
    "SAM ends at flatter points than its base optimizer",
    "Foret et al. 2020, arXiv:2010.01412",
    "with SAM at ρ = 0.05, the change of the sharpness at the end is below 0",
    high=0.0,
)
SEEDS, RHO = 12, 0.05


def main() -> str:
    """Train from each seed with and without SAM and return the verdict."""
    train = landscape_example("sam_is_flatter").train
    ratios = [math.log(train(RHO, seed)[1] / train(0.0, seed)[1]) for seed in range(SEEDS)]
    return record(CLAIM, interval(ratios, Comparison.percent), "sharpness {} with SAM")


if __name__ == "__main__":
    main()
