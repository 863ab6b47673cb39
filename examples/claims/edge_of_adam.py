"""Claim: full-batch Adam drives its preconditioned sharpness to 38/lr and holds it there (Cohen et al. 2022).

python examples/claims/edge_of_adam.py      # 1 minute

Measured: the largest eigenvalue of the Hessian divided by Adam's denominator, as a fraction of 38/lr (β1 = 0.9), every
250 of 4,000 steps at lr 2e-3, on the tanh network and the 400 digits of examples/landscape/adam_edge.py, from 8
initializations. The quantity is the mean over the second half of a run.
"""

from statistics import mean

from verdict import Claim, interval, landscape_example, record

CLAIM = Claim(
    "edge_of_adam",
    "Full-batch Adam drives its preconditioned sharpness to 38/lr",
    "Cohen et al. 2022, arXiv:2207.14484",
    "preconditioned sharpness · lr / 38 in the second half of the run is between 0.9 and 1.1",
    low=0.9,
    high=1.1,
    unit="of 38/lr",
)
SEEDS = 8


def main() -> str:
    """Train from each seed and return the verdict."""
    example = landscape_example("adam_edge")
    runs = [example.along(seed) for seed in range(SEEDS)]
    return record(CLAIM, interval([mean(run[len(run) // 2 :]) for run in runs]), "the sharpness stays at {}")


if __name__ == "__main__":
    main()
