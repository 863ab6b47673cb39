"""Which random numbers the trials of a study share and which they must not, and where extensions look."""

import dataclasses
import itertools
import math

import pytest
import torch

from fallline.lab.design.arms import make_arms
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.spec import Spec
from fallline.lab.design.trial import Trial
from fallline.lab.run.trial import start
from fallline.lab.search.trials import confirm, trials_again, tune, tuning_trials
from fallline.lab.tasks import Digits


def tuned(study, loss):
    """Return the searches of a study whose trials have an invented validation loss."""
    known = {}
    while missing := [trial for trial in tune(study, known)[0] if trial.id not in known]:
        known |= {trial.id: Outcome(None, {"val_loss": loss(trial)}, []) for trial in missing}
    return tune(study, known)[1]


def spec(*optimizers, **options):
    arms = make_arms(optimizers or ["adam"], ["cosine"])
    return Spec("digits", 40, arms, **{"trials": 8, "seeds": 3, **options})


def valley(trial):
    return 1 + math.log10(trial.options["lr"] / 3e-3) ** 2


def endless(trial):
    """Fall for ever, so that every round extends the range."""
    return 100 - math.log10(trial.options["lr"])


def by_stage(study):
    (search,) = tuned(study, valley).values()
    stages = {
        "tune": tuning_trials(study, search),
        "again": trials_again(study, search),
        "confirm": confirm(study, search),
    }
    return search, {stage: {trial.seed for trial in trials} for stage, trials in stages.items()}


def test_every_stage_has_seeds_of_its_own_and_all_follow_from_the_studys():
    seen = [by_stage(spec(searches=2, seed=seed)) for seed in (0, 1)]
    assert [{stage: len(seeds) for stage, seeds in found.items()} for _, found in seen] == 2 * [
        {"tune": 2, "again": 2, "confirm": 3}  # a seed a search, two more for its finalists, three fresh ones
    ]
    everything = [seeds for _, found in seen for seeds in found.values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(everything, 2))
    points = [{point["lr"] for point in search.points[1:]} for search, _ in seen]
    assert points[0].isdisjoint(points[1])


def test_what_is_confirmed_is_the_selected_configuration():
    study = spec()
    (search,) = tuned(study, valley).values()
    assert search.best != 0
    for trial in confirm(study, search):
        assert trial.index == search.best and trial.options["lr"] == search.points[search.best]["lr"]


def test_extensions_draw_a_decade_further_with_points_of_their_own():
    (search,) = tuned(spec(), endless).values()  # 8 points from 1e-4 to 1e-1, then 4 in each of two decades more
    rounds = [[math.log10(p["lr"]) for p in search.points[a:b]] for a, b in ((1, 9), (9, 13), (13, 17))]
    ends = [(-4, -1), (-1, 0), (0, 1)]
    assert all(low <= x <= high for xs, (low, high) in zip(rounds, ends, strict=True) for x in xs)
    assert len(search.points) == 17
    places = [[(x - low) / (high - low) for x in xs] for xs, (low, high) in zip(rounds, ends, strict=True)]
    for one, other in itertools.combinations(places, 2):  # no round repeats the unit cube of another
        assert all(abs(x - y) > 1e-6 for x, y in itertools.product(one, other))


def test_arms_share_the_points_of_extensions_too():
    places = []
    for search in tuned(spec("adam", "momentum"), endless).values():  # both are extended upwards, twice
        (dimension,) = search.arm.space.dimensions_for(8, {}, {})
        ends = [(1, 9, dimension.low, dimension.high), (9, 13, dimension.high, 10 * dimension.high)]
        ends.append((13, 17, 10 * dimension.high, 100 * dimension.high))
        rates = [(math.log(p["lr"] / a) / math.log(b / a)) for i, k, a, b in ends for p in search.points[i:k]]
        places.append(rates)
    assert places[0] == pytest.approx(places[1], abs=1e-9)


def test_every_search_has_points_of_its_own():
    (search,) = tuned(spec(searches=3, trials=16), valley).values()
    drawn = [(point["lr"], point["weight_decay"]) for point in search.points[1:]]
    assert len(set(drawn)) == len(drawn) == 48


def extended_momentum(loss, least=0.7, most=0.995):
    """Return the search of a momentum alone, 1 − μ in log, and its momenta by round."""
    study = spec(f"momentum@momentum={least}..{most}@lr=0.1@weight_decay=0", trials=16)
    (search,) = tuned(study, lambda trial: loss(trial.options["momentum"])).values()
    momenta = [point["momentum"] for point in search.points]
    return search.ranges[0], momenta[1:17], momenta[17:25], momenta[25:]


def test_a_momentum_is_extended_upwards_by_decades_of_its_distance_from_1():
    dimension, _, second, third = extended_momentum(lambda momentum: 2 - momentum)
    assert len(second) == len(third) == 8
    assert all(1 - 5e-3 <= momentum <= 1 - 5e-4 for momentum in second)
    assert all(1 - 5e-4 <= momentum <= 1 - 5e-5 for momentum in third)
    assert (dimension.low, dimension.high) == pytest.approx((5e-5, 0.3))


def test_a_momentum_is_extended_downwards_to_0_and_no_further():
    dimension, _, second, third = extended_momentum(lambda momentum: 1 + momentum)
    assert (dimension.low, dimension.high) == pytest.approx((5e-3, 0.999))  # not to 3, a momentum of −2
    assert all(0.001 <= momentum <= 0.7 for momentum in second) and min(second) < 0.1
    assert len({round(momentum, 9) for momentum in third}) == 8  # nothing is left beyond: inside, not all at one end
    assert all(0.001 <= momentum <= 0.995 for momentum in third)


def test_an_extension_never_narrows_a_range_that_the_user_gave():
    dimension, *rounds = extended_momentum(lambda momentum: 1 + momentum, least=0.0001)
    assert (dimension.low, dimension.high) == pytest.approx((5e-3, 0.9999))
    assert all(0.0001 <= momentum <= 0.995 for momenta in rounds for momentum in momenta)


def streams(monkeypatch, arm="momentum", seed=7):
    """Return the seeds of initialisation, data order and dropout of a trial."""
    seen = {}

    class Spy(Digits):
        def model(self):
            seen["init"] = torch.initial_seed()
            return super().model()

        def batches(self, split, generator):
            seen["data"] = generator.initial_seed()
            return super().batches(split, generator)

    monkeypatch.setattr("fallline.lab.run.trial.get_task", lambda name, **settings: Spy(**settings))
    start(Trial("tune", "digits", arm, "sgd", "cosine", 40, 0, seed, {"lr": 0.1}))
    return {**seen, "dropout": torch.initial_seed()}


def test_initialisation_data_and_dropout_have_separate_streams_common_to_all_arms(monkeypatch):
    found = streams(monkeypatch)
    assert len(set(found.values())) == 3
    assert streams(monkeypatch, arm="another") == found
    assert set(found.values()).isdisjoint(streams(monkeypatch, seed=8).values())


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Trial)])
def test_no_two_specifications_of_a_trial_have_one_id(name):
    trial = Trial("tune", "digits", "adam", "adam", "cosine", 40, 0, 7, {"lr": 0.1})
    value = getattr(trial, name)
    changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value} "
    if isinstance(value, dict):
        changed = {**value, "another": "value"}
    assert dataclasses.replace(trial, **{name: changed}).id != trial.id
    assert dataclasses.replace(trial).id == trial.id
