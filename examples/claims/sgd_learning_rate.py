"""Claim: SGD with momentum needs a far larger learning rate than Adam (Goyal et al. 2017; Kingma and Ba 2014).

python examples/claims/sgd_learning_rate.py      # 2 minutes

Measured: the learning rate that a search of 16 points selects on digits, as in lion_learning_rate.py. The published
settings, 0.1 and 0.001, differ by a factor of 100, but for other networks; the criterion asks for a factor above 10.
"""

from lion_learning_rate import ratio_of_best_rates
from verdict import Claim, record

CLAIM = Claim(
    "sgd_learning_rate",
    "SGD with momentum needs a learning rate 100 times that of Adam (0.1 against 0.001)",
    "Goyal et al. 2017, arXiv:1706.02677; Kingma and Ba 2014, arXiv:1412.6980",
    "best learning rate of SGD with momentum divided by that of Adam is above 10",
    low=10.0,
    unit="times",
)


def main() -> str:
    """Search both learning rates 8 times and return the verdict."""
    return record(CLAIM, ratio_of_best_rates("momentum", "adam"), "that of momentum is {} that of Adam")


if __name__ == "__main__":
    main()
