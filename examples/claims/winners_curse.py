"""Claim: the run by which a configuration was selected looks better than the configuration is (Cawley and Talbot 2010).

python examples/claims/winners_curse.py      # 2 minutes

Measured: the validation loss of the best of 32 trials of Adam on breast-cancer, and that of the same configuration on
two fresh training seeds. The search is repeated 16 times with other points and seeds. The validation set stays the
same, so that only the luck of the training seed is measured.
"""

import math
from statistics import mean

from verdict import Claim, Comparison, interval, record, study

CLAIM = Claim(
    "winners_curse",
    "The run by which a configuration was selected looks better than the configuration is",
    "Cawley and Talbot 2010, JMLR 11:2079–2107",
    "the change of the validation loss from the selecting run to runs on fresh seeds is above 0",
    low=0.0,
)
SEARCHES = 16


def regret(seed: int) -> float:
    """Return log(fresh / selecting) of the validation loss of the best trial of a search."""
    found = study(f"curse-{seed}", "breast-cancer", ["adam"], trials=32, seeds=2, seed=seed)
    winner = found.searches["adam"].finalists[0]  # the best by its first run; the others are those on fresh seeds
    runs = [trial for trial in found.trials if trial.stage == "tune" and trial.index == winner]
    selecting, *fresh = (found.outcome(trial).metrics["val_loss"] for trial in runs)
    return math.log(mean(fresh) / selecting)


def main() -> str:
    """Search 16 times and return the verdict."""
    changes = [regret(seed) for seed in range(1, SEARCHES + 1)]
    return record(CLAIM, interval(changes, Comparison.percent), "validation loss {} on fresh seeds")


if __name__ == "__main__":
    main()
