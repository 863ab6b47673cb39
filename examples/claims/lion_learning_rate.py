"""Claim: the best learning rate of Lion is 3 to 10 times smaller than that of AdamW (Chen et al. 2023, section 5).

python examples/claims/lion_learning_rate.py      # 2 minutes

Measured: the learning rate that a search of 16 points selects on digits, without weight decay. The search is repeated
8 times with other points and other training seeds; all searches validate on the same images.
"""

import math

from verdict import Claim, Interval, interval, record, study

CLAIM = Claim(
    "lion_learning_rate",
    "The best learning rate of Lion is 3 to 10 times smaller than that of AdamW",
    "Chen et al. 2023, arXiv:2302.06675",
    "best learning rate of AdamW divided by that of Lion is between 3 and 10",
    low=3.0,
    high=10.0,
    unit="times",
)
SEARCHES = 8


def ratio_of_best_rates(larger: str, smaller: str) -> Interval:
    """Return the ratio of the learning rates selected for two optimizers without weight decay, over the searches."""
    arms = [f"{name}@weight_decay=0" for name in (larger, smaller)]
    ratios = []
    for seed in range(1, SEARCHES + 1):
        found = study(f"rates-{larger}-{smaller}-{seed}", "digits", arms, trials=16, seeds=2, seed=seed)
        best = {row["arm"]: row["lr"] for row in found.leaderboard()}
        ratios.append(math.log(best[arms[0]] / best[arms[1]]))
    return interval(ratios, math.exp)


def main() -> str:
    """Search both learning rates 8 times and return the verdict."""
    return record(CLAIM, ratio_of_best_rates("adamw", "lion"), "that of AdamW is {} that of Lion")


if __name__ == "__main__":
    main()
