"""Claim: AdamW does not depend on the scale of the loss (Kingma and Ba 2014, section 2.1; Loshchilov and Hutter 2017).

python examples/claims/loss_scale.py      # half a minute

Measured: the test loss on digits after training with AdamW on the loss and on 1,024 times the loss, at the same
learning rate and with weight decay. A power of two leaves all roundings as they are, so that eps alone can make a
difference.
"""

from scaled_digits import ScaledDigits
from verdict import Claim, change, record, study

CLAIM = Claim(
    "loss_scale",
    "AdamW does not depend on the scale of the loss",
    "Kingma and Ba 2014, arXiv:1412.6980; Loshchilov and Hutter 2017, arXiv:1711.05101",
    "the change of the test loss when the training loss is multiplied by 1,024 is between −1 and +1 %",
    low=-1.0,
    high=1.0,
)
ARM = "adamw@lr=0.005@weight_decay=0.1"


def main() -> str:
    """Train at both scales on 16 seeds and return the verdict."""
    found = study("scale", ScaledDigits, [ARM], vary={"scale": [1.0, 1024.0]}, trials=1, seeds=16, seed=1)
    return record(CLAIM, change(found.results[f"{ARM}, scale=1024"]), "test loss {} at 1,024 times the scale")


if __name__ == "__main__":
    main()
