"""Claim: a ranking in the middle of a run can flip before its end, because learning rates decay (Wen et al. 2025).

python examples/claims/rankings_flip.py      # 1 minute

Measured: the validation loss of Adam with a step decay (×0.1 at 30, 60 and 90 % of the steps) and with a cosine on
digits, both tuned. Step decay should be ahead at 40 % of the run, where its rate has fallen and that of the cosine has
not, and behind at the end. Both must hold, so the interval is that of the smaller of the two gaps, from two intervals
of 97.5 % each.
"""

import math

from verdict import Claim, Comparison, Interval, interval, record, show, study

CLAIM = Claim(
    "rankings_flip",
    "A ranking in mid-run flips before the end, because learning rates decay",
    "Wen et al. 2025, arXiv:2509.02046",
    "the validation loss of the cosine is higher at 40 % of the run, and that of step decay at its end",
    low=0.0,
)
AT = 0.4


def main() -> str:
    """Compare the two schedules at both points on 32 seeds and return the verdict."""
    found = study("flip", "digits", ["adam"], ["cosine", "step"], trials=16, seeds=32, seed=1)

    def gaps(step: float) -> list[float]:
        """Return log(step decay / cosine) of the validation loss at a step, by seed."""
        runs = zip(*(found.confirmation(f"adam + {name}") for name in ("step", "cosine")), strict=True)
        losses = ([next(r["val_loss"] for r in run.curve if r["step"] >= step) for run in pair] for pair in runs)
        return [math.log(a / b) for a, b in losses]

    middle = interval([-gap for gap in gaps(AT * found.spec.steps)], Comparison.percent, 0.975)
    end = interval(gaps(found.spec.steps), Comparison.percent, 0.975)
    both = Interval(middle.n, *(min(getattr(middle, k), getattr(end, k)) for k in ("estimate", "low", "high")))
    gap_at_40, gap_at_end = (show(str(gap.estimate), "%") for gap in (middle, end))
    text = (
        f"cosine against step decay {gap_at_40} at 40 % of the run; step decay against cosine {gap_at_end} at its end"
    )
    return record(CLAIM, both, text)


if __name__ == "__main__":
    main()
