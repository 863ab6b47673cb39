"""What is known of optimizers and schedules comes out of the lab on handwritten digits."""

import statistics

import pytest

import fallline as fl
from fallline.lab.analysis.verdicts import Verdict

pytestmark = pytest.mark.slow


# One test per study, because workers of pytest-xdist would otherwise run the same study twice.


def test_sgd_wants_a_larger_learning_rate_than_adam_and_lion_a_smaller_one(tmp_path):
    """The learning rate that each optimizer wants when nothing else is searched."""
    arms = ["sgd", "momentum", "adam", "adamw", "lion"]
    study = fl.compare("digits", arms, trials=8, seeds=2, jobs=2, out=tmp_path)
    assert all(search.edge is None for search in study.searches.values())  # every optimum is interior
    rates = {arm: search.points[search.best]["lr"] for arm, search in study.searches.items()}
    for arm in ("sgd", "momentum"):
        assert 3 <= rates[arm] / rates["adam"] <= 100
    assert 2 <= rates["adam"] / rates["lion"] <= 30


def test_a_constant_rate_is_worse_than_the_best_decay_or_fails_and_a_ranking_in_mid_run_flips(tmp_path):
    """Until 40 % of the run steps are ahead of a cosine, whose rate is still high; at the end they are not."""
    study = fl.compare("digits", ["adam"], ["cosine", "constant", "step", "linear"], seeds=32, jobs=2, out=tmp_path)
    assert study.results["adam + constant"].verdict in (Verdict.WORSE, Verdict.FAILED)
    assert study.leaderboard()[0]["arm"] != "adam + constant"

    def validation(arm, row):
        return statistics.mean(o.curve[row]["val_loss"] for o in study.confirmation(arm))

    gaps = [validation("adam + step", row) - validation("adam + cosine", row) for row in range(20)]
    assert min(gaps[6:12]) < 0 < gaps[-1]
    figure = study.figures()["validation"].to_json()
    assert "learning rate not decayed yet: do not compare here" in figure


def test_a_linear_decay_is_equivalent_to_a_cosine_and_steps_are_not_better(tmp_path):
    """Three searches of 32 points, 32 seeds with a split each."""
    names = ["cosine", "step", "linear"]
    study = fl.compare("digits", ["adam"], names, trials=32, searches=3, seeds=32, margin=0.1, jobs=2, out=tmp_path)
    assert study.results["adam + linear"].verdict is Verdict.EQUIVALENT
    assert study.results["adam + step"].verdict is not Verdict.BETTER
    assert all(row["interior"] for row in study.leaderboard())
