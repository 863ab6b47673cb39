"""Claim: Muon reaches a lower loss than tuned AdamW in the same number of steps (Wen et al. 2025).

python examples/claims/muon.py      # 4 minutes

Measured: the test loss of AdamW and of Muon on a pre-norm transformer after 200 steps on text, each with 8 search
points for its learning rates.
"""

from verdict import Claim, change, record, study

import fallline as fl

CLAIM = Claim(
    "muon",
    "Muon reaches a lower loss than tuned AdamW in the same number of steps",
    "Wen et al. 2025, arXiv:2509.02046",
    "the change of the test loss from AdamW to Muon is below 0",
    high=0.0,
)


def against_adamw(arm: str) -> fl.lab.Study:
    """Return the study of AdamW and another arm on text over 12 seeds; all of these studies share their AdamW runs."""
    return study("text", "text", ["adamw", arm], steps=200, trials=8, seeds=12, seed=1)


def main() -> str:
    """Tune both optimizers, compare them and return the verdict."""
    return record(CLAIM, change(against_adamw("muon").results["muon"]), "test loss {} with Muon")


if __name__ == "__main__":
    main()
