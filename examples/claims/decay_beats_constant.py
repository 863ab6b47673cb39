"""Claim: a learning rate that decays beats a constant one (Defazio et al. 2023).

python examples/claims/decay_beats_constant.py      # 4 minutes

Measured: the test loss of Adam on digits-diffusion with a constant rate, a cosine and a linear decay, each with its
learning rate tuned. The same study serves shapes_of_decay_tie.py.
"""

from verdict import Claim, change, record, study

import fallline as fl

CLAIM = Claim(
    "decay_beats_constant",
    "A learning rate that decays to 0 beats a constant one",
    "Defazio et al. 2023, arXiv:2310.07831",
    "the change of the test loss from a tuned constant rate to a tuned linear decay is below 0",
    high=0.0,
)


def schedules() -> fl.lab.Study:
    """Return the study of three schedules over 16 seeds."""
    return study("decay", "digits-diffusion", ["adam"], ["constant", "cosine", "linear"], trials=8, seeds=16, seed=1)


def main() -> str:
    """Compare the schedules and return the verdict."""
    found = schedules().compare_with("adam + constant")
    return record(CLAIM, change(found["adam + linear"]), "test loss {} with the decay")


if __name__ == "__main__":
    main()
