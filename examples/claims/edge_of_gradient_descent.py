"""Claim: full-batch gradient descent drives the sharpness to 2/lr and holds it there (Cohen et al. 2021).

python examples/claims/edge_of_gradient_descent.py      # 1 minute

Measured: sharpness · lr / 2 every 250 of 3,000 steps at lr 0.5, on the tanh network and the 400 digits of
examples/landscape/edge_of_stability.py, from 8 initializations. The quantity is the mean over the second half of a run.
The paper sees the sharpness hover just above 2/lr.
"""

from statistics import mean

from verdict import Claim, interval, landscape_example, record

CLAIM = Claim(
    "edge_of_gradient_descent",
    "Full-batch gradient descent drives the sharpness to 2/lr",
    "Cohen et al. 2021, arXiv:2103.00065",
    "sharpness · lr / 2 in the second half of the run is between 0.9 and 1.1",
    low=0.9,
    high=1.1,
    unit="of 2/lr",
)
SEEDS, LR = 8, 0.5


def main() -> str:
    """Train from each seed and return the verdict."""
    example = landscape_example("edge_of_stability")
    runs = [example.along(LR, seed) for seed in range(SEEDS)]  # sharpness · lr
    ratios = [mean(run[len(run) // 2 :]) / 2 for run in runs]
    return record(CLAIM, interval(ratios), "the sharpness stays at {}")


if __name__ == "__main__":
    main()
