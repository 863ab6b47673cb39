"""Claim: a tuned optimizer never underperforms one that it can imitate, as Adam can momentum (Choi et al. 2019).

python examples/claims/adam_includes_momentum.py      # 2 minutes

Measured: the test loss of SGD with momentum and of Adam on digits-cnn, each with 64 search points. With that many the
lab searches Adam's eps too, which Adam needs in order to imitate momentum, although only up to 1e-5.
"""

from verdict import Claim, change, record, study

CLAIM = Claim(
    "adam_includes_momentum",
    "Tuned Adam never underperforms tuned momentum",
    "Choi et al. 2019, arXiv:1910.05446",
    "the change of the test loss from momentum to Adam is below +5 %",
    high=5.0,
)


def main() -> str:
    """Tune both optimizers, compare them on 16 seeds and return the verdict."""
    found = study("adam-momentum", "digits-cnn", ["momentum", "adam"], trials=64, seeds=16, seed=1)
    return record(CLAIM, change(found.results["adam"]), "test loss {} with Adam")


if __name__ == "__main__":
    main()
