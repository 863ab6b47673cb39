"""Claim: SAM improves generalization over its base optimizer in the same number of steps (Foret et al. 2020).

python examples/claims/sam_generalizes.py      # 3 minutes

Measured: the test loss of SGD with momentum with and without SAM on digits-cnn, each with 32 search points for its
learning rate, weight decay, momentum and ρ. As in the paper, both make the same number of steps, although a step of SAM
takes two gradients.
"""

from verdict import Claim, change, record, study

CLAIM = Claim(
    "sam_generalizes",
    "SAM improves generalization in the same number of steps",
    "Foret et al. 2020, arXiv:2010.01412",
    "the change of the test loss from tuned momentum to tuned SAM around it is below 0",
    high=0.0,
)


def main() -> str:
    """Tune both optimizers, compare them on 16 seeds and return the verdict."""
    found = study("sam", "digits-cnn", ["momentum", "sam(momentum)"], trials=32, seeds=16, seed=1, equal="steps")
    return record(CLAIM, change(found.results["sam(momentum)"]), "test loss {} with SAM")


if __name__ == "__main__":
    main()
