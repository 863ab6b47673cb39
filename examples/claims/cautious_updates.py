"""Claim: cautious updates speed up AdamW (Liang et al. 2024).

python examples/claims/cautious_updates.py      # 4 minutes, or 2 after muon.py

Measured: the test loss of AdamW with and without `cautious=True` on a pre-norm transformer after 200 steps on text,
each with 8 search points for its learning rate.
"""

from muon import against_adamw
from verdict import Claim, change, record

CLAIM = Claim(
    "cautious_updates",
    "Cautious updates lower the loss of AdamW in the same number of steps",
    "Liang et al. 2024, arXiv:2411.16085",
    "the change of the test loss from AdamW to cautious AdamW is below 0",
    high=0.0,
)
ARM = "adamw@cautious=True"


def main() -> str:
    """Tune both optimizers, compare them and return the verdict."""
    return record(CLAIM, change(against_adamw(ARM).results[ARM]), "test loss {} with cautious updates")


if __name__ == "__main__":
    main()
