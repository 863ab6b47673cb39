"""Claim: at large batches, tuned Adam matches or exceeds LAMB (Nado et al. 2021).

python examples/claims/lamb_large_batch.py      # 2 minutes

Measured: the test loss of LAMB and of AdamW on digits in 100 steps of 512 images, nearly half of the training set, each
with 16 search points for its learning rate and weight decay.
"""

from verdict import Claim, change, record, study

CLAIM = Claim(
    "lamb_large_batch",
    "At large batches, tuned AdamW matches or exceeds LAMB",
    "Nado et al. 2021, arXiv:2102.06356",
    "the change of the test loss from LAMB to AdamW is below +5 %",
    high=5.0,
)


def main() -> str:
    """Tune both optimizers, compare them on 64 seeds and return the verdict."""
    options = {"settings": {"batch_size": 512}, "steps": 100, "trials": 16, "seeds": 64, "seed": 1}
    found = study("large-batch", "digits", ["lamb", "adamw"], **options)
    return record(CLAIM, change(found.results["adamw"]), "test loss {} with AdamW")


if __name__ == "__main__":
    main()
