"""What is known of optimizers and schedules comes out of the lab on handwritten digits."""

import statistics

import pytest

import fallline as fl
from fallline.lab.analysis.verdicts import Verdict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    """The learning rate that each optimizer wants when nothing else is searched."""
    arms = ["sgd", "momentum", "adam", "adamw", "lion"]
    study = fl.compare("digits", arms, trials=8, seeds=2, jobs=2, out=tmp_path_factory.mktemp("rates"))
    assert all(search.edge is None for search in study.searches.values())  # every optimum is interior
    return {arm: search.points[search.best]["lr"] for arm, search in study.searches.items()}


def test_sgd_wants_a_far_larger_learning_rate_than_adam(rates):
    for arm in ("sgd", "momentum"):
        assert 3 <= rates[arm] / rates["adam"] <= 100


def test_lion_wants_a_smaller_learning_rate_than_adam(rates):
    assert 2 <= rates["adam"] / rates["lion"] <= 30


@pytest.fixture(scope="module")
def schedules(tmp_path_factory):
    return fl.compare(
        "digits",
        ["adam"],
        ["cosine", "constant", "step", "linear"],
        seeds=32,
        jobs=2,
        out=tmp_path_factory.mktemp("schedules"),
    )


def test_a_constant_rate_is_worse_than_the_best_decay_or_fails(schedules):
    assert schedules.results["adam + constant"].verdict in (Verdict.WORSE, Verdict.FAILED)
    assert schedules.leaderboard()[0]["arm"] != "adam + constant"


@pytest.fixture(scope="module")
def decays(tmp_path_factory):
    """Three searches of 32 points, 32 seeds with a split each."""
    names, out = ["cosine", "step", "linear"], tmp_path_factory.mktemp("decays")
    return fl.compare("digits", ["adam"], names, trials=32, searches=3, seeds=32, margin=0.1, jobs=2, out=out)


def test_a_linear_decay_is_equivalent_to_a_cosine_within_10_percent_once_tuned(decays):
    assert decays.results["adam + linear"].verdict is Verdict.EQUIVALENT


def test_steps_are_not_better_than_a_cosine(decays):
    assert decays.results["adam + step"].verdict is not Verdict.BETTER


def test_every_optimum_among_the_decays_is_interior(decays):
    assert all(row["interior"] for row in decays.leaderboard())


def test_a_ranking_in_mid_run_flips(schedules):
    """Until 40 % of the run steps are ahead of a cosine, whose rate is still high; at the end they are not."""

    def validation(arm, row):
        return statistics.mean(o.curve[row]["val_loss"] for o in schedules.confirmation(arm))

    gaps = [validation("adam + step", row) - validation("adam + cosine", row) for row in range(20)]
    assert min(gaps[6:12]) < 0 < gaps[-1]
    figure = schedules.figures()["validation"].to_json()
    assert "learning rate not decayed yet: do not compare here" in figure
