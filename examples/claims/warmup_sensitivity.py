"""Claim: warm-up makes a post-norm transformer less sensitive to its learning rate (Xiong 2020; Wortsman 2023).

python examples/claims/warmup_sensitivity.py      # 4 minutes

Measured: the sensitivity of Wortsman et al., which is the mean over learning rates, on a logarithmic axis, of the loss
minus the lowest loss. A post-norm transformer is trained on text for 150 steps of AdamW at 4 learning rates, without
warm-up and with one of 10 % of the steps. A failed run counts as the loss of a model that ignores its input;
if the first run at a learning rate fails, the lab runs no others there, and all of them count as failed.
"""

from verdict import Claim, interval, record, study

from fallline.lab.analysis.sensitivity import sensitivity

CLAIM = Claim(
    "warmup_sensitivity",
    "Warm-up lowers the sensitivity of a post-norm transformer to its learning rate",
    "Xiong et al. 2020, arXiv:2002.04745; Wortsman et al. 2023, arXiv:2309.14322",
    "with warm-up, the sensitivity between 1e-3 and 3e-2 changes by less than 0",
    high=0.0,
    unit="nats",
)
RATES, WARMUPS, SEEDS = (1e-3, 3e-3, 1e-2, 3e-2), (0, 0.1), 6


def main() -> str:
    """Train at every learning rate with and without warm-up and return the verdict."""
    arms = [f"adamw@lr={rate:g}" for rate in RATES]
    options = {"vary": {"warmup": WARMUPS}, "steps": 150, "trials": 1, "seeds": SEEDS, "seed": 1}
    found = study("warmup", "text-post", arms, **options)
    start = found.spec.learning.trivial_loss()

    def excess(warmup: float, seed: int) -> float:
        losses = [found.confirmed(f"{arm}, warmup={warmup:g}")[seed] for arm in arms]
        result = sensitivity(RATES, losses, start)
        return result.excess if result else 0.0

    changes = [excess(WARMUPS[1], seed) - excess(WARMUPS[0], seed) for seed in range(SEEDS)]
    return record(CLAIM, interval(changes), "with warm-up, the mean excess of the loss changes by {}")


if __name__ == "__main__":
    main()
