"""The list of trials: shared points, fresh seeds, extended ranges, and what is selected."""

import inspect
import math
from dataclasses import replace

import pytest

from fallline.errors import ArgumentError
from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.analysis.results import StudyResults
from fallline.lab.design.arms import make_arms
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.spaces import AXES, SPACES, sobol
from fallline.lab.design.spec import Spec
from fallline.lab.search.trials import confirm, trials_again, tune, tuning_trials
from fallline.optimizers import OPTIMIZERS

ALL = tuple(SPACES)


def spec(optimizers=("momentum", "adam"), schedules=("cosine",), **options):
    return Spec("digits", 40, make_arms(optimizers, schedules), **{"trials": 8, "seeds": 3, **options})


def outcomes(study, loss):
    """Run the tuning with an invented validation loss, a function of the trial (None or a state: failed)."""
    known = {}
    while True:
        trials, searches = tune(study, known)
        missing = [trial for trial in trials if trial.id not in known]
        if not missing:
            return known, searches
        for trial in missing:
            value = loss(trial)
            failed = value is None or isinstance(value, str)
            failure = {"state": value or "nonfinite", "step": 3, "cause": "invented"} if failed else None
            known[trial.id] = Outcome(failure, {"val_loss": 0.0 if failed else value}, [])


def valley(optimum):
    return lambda trial: 1 + math.log10(trial.options["lr"] / optimum) ** 2


def test_the_first_points_do_not_depend_on_how_many_are_drawn():
    assert sobol(5, 32)[:8] == sobol(5, 8)
    assert set(sobol(5, 1)[0]) == set(AXES)


def test_adding_or_reordering_arms_changes_no_trial_of_another_arm():
    def ids(study, arm):
        return [trial.id for trial in tune(study, {})[0] if trial.arm == arm]

    alone = ids(spec(["adam"]), "adam")
    assert ids(spec(["momentum", "adam", "adamw"]), "adam") == alone
    assert ids(spec(["adamw", "adam", "momentum"]), "adam") == alone


def test_arms_share_the_unit_cube():
    _, searches = tune(spec(ALL, trials=16), {})
    for axis in ("lr", "weight_decay"):
        columns = []
        for search in searches.values():
            (dimension,) = [d for d in search.ranges if d.axis == axis]
            columns.append([dimension.unit(point[dimension.name]) for point in search.points[1:]])
        for column in columns[1:]:
            assert column == pytest.approx(columns[0], abs=1e-9)


@pytest.mark.parametrize("arm", ALL)
def test_trial_0_is_the_documented_default_of_the_class(arm):
    space = SPACES[arm]
    defaults = inspect.signature(OPTIMIZERS[space.optimizer].__init__).parameters
    options = space.options(space.defaults)
    for name, value in options.items():
        if name in space.constant or (arm in ("momentum", "nesterov") and name == "momentum"):
            continue  # what makes these arms
        if name == "adamw_lr":
            assert defaults[name].default is None and value == min(3e-4, options["lr"])
            continue
        assert value == defaults[name].default, name


@pytest.mark.parametrize(
    ("trials", "expected"),
    [(8, ["lr"]), (16, ["lr", "weight_decay"]), (32, ["lr", "weight_decay", "beta1"])],
)
def test_dimensions_come_in_with_the_budget_and_move_no_point(trials, expected):
    _, searches = tune(spec(["adam"], trials=trials), {})
    search = searches["adam"]
    assert [d.name for d in search.ranges] == expected
    _, few = tune(spec(["adam"], trials=8), {})
    assert [p["lr"] for p in search.points[:9]] == [p["lr"] for p in few["adam"].points]


def test_with_64_trials_everything_is_searched():
    _, searches = tune(spec(["adamw"], trials=64), {})
    assert [d.name for d in searches["adamw"].ranges] == ["lr", "weight_decay", "beta1", "beta2", "eps", "warmup"]


def test_an_inner_optimum_extends_nothing():
    study = spec()
    _, searches = outcomes(study, valley(1e-2))
    assert all(len(s.points) == 9 and s.edge is None for s in searches.values())
    assert all(abs(math.log10(s.points[s.best]["lr"] / 1e-2)) < 0.4 for s in searches.values())


def test_an_optimum_at_the_edge_extends_that_side_and_gives_every_arm_as_many_trials():
    study = spec()
    _, searches = outcomes(study, lambda t: valley(7e-5 if t.arm == "adam" else 0.05)(t))
    adam, momentum = searches["adam"], searches["momentum"]
    assert len(adam.points) == len(momentum.points) > 9
    assert adam.ranges[0].low == pytest.approx(1e-5) and adam.ranges[0].high == pytest.approx(1e-1)
    assert momentum.ranges == SPACES["momentum"].dimensions[:1]
    assert adam.points[adam.best]["lr"] < 2e-4 and adam.edge is None


def test_an_optimum_with_nothing_tried_beyond_it_is_at_the_edge():
    study = spec(["momentum"])
    highest = max(point["lr"] for point in tune(study, {})[1]["momentum"].points)
    assert SPACES["momentum"].dimensions[0].unit(highest) < 0.9  # so the outer tenth alone would not tell
    _, searches = outcomes(study, valley(2.0))
    assert searches["momentum"].ranges[0].high == pytest.approx(10.0)


def test_a_range_is_extended_at_most_twice():
    study = spec(["adam"])
    _, searches = outcomes(study, valley(1e3))
    assert len(searches["adam"].points) == 9 + 4 + 4
    assert searches["adam"].edge == ("lr", "high")


def test_a_warning_says_whether_the_range_was_extended():
    study = spec(["adam"], trials=16)
    _, searches = outcomes(study, valley(1e3))
    search = searches["adam"]

    def warnings(search):
        return find_caveats(StudyResults(study, "adam", None, 3, {"adam": search}))

    assert warnings(search) == ["adam: the best lr lies at the high end of its range, even after extending it"]
    said = "adam: the best weight_decay lies at the high end of its range, which was not extended; widen it: "
    assert warnings(replace(search, edge=("weight_decay", "high"))) == [f"{said}adam@weight_decay=LOW..HIGH"]
    beta1 = next(d for d in SPACES["adam"].dimensions if d.name == "beta1")  # 1 − β1 is searched
    turned = replace(search, ranges=(beta1,), edge=("beta1", "high"))
    assert warnings(turned)[0].startswith("adam: the best beta1 lies at the low end of its range, which was not")
    assert turned.end == ("beta1", "low")


def test_failures_never_win_and_near_ties_go_away_from_them():
    study = spec(["adam"])
    _, searches = outcomes(study, lambda t: None if t.options["lr"] > 1e-2 else 1.0)
    search = searches["adam"]
    chosen = search.points[search.best]["lr"]
    assert chosen == min(point["lr"] for point in search.points)  # all the rest is equally good


def test_an_arm_with_nothing_to_search_is_said_to_be_untuned():
    arm = "sgd@lr=1@weight_decay=0"
    study = spec([arm, "adam"])
    _, searches = outcomes(study, valley(1e-2))
    assert find_caveats(StudyResults(study, arm, None, 3, searches)) == [
        f"{arm}: nothing was tuned, since every searched hyperparameter is fixed"
    ]


@pytest.mark.parametrize(("equal", "steps"), [("grad-evals", [40] * 3), ("steps", []), ("trials", [])])
def test_runs_at_equal_steps_are_made_only_where_the_others_are_shorter(equal, steps):
    study = spec(["sam(momentum)", "adam"], equal=equal)
    _, searches = outcomes(study, valley(1e-2))
    sam, adam = (confirm(study, search, "equal-steps") for search in searches.values())
    assert [trial.steps for trial in sam] == steps and adam == []
    assert [t.seed for t in sam] == [t.seed for t in confirm(study, searches["sam(momentum)"])][: len(steps)]


def test_nothing_is_confirmed_when_everything_failed():
    study = spec(["adam"])
    _, searches = outcomes(study, lambda t: None)
    assert searches["adam"].best is None
    assert confirm(study, searches["adam"]) == []


def test_a_search_of_nothing_but_failures_goes_on_where_one_may_succeed():
    study = spec()  # momentum from 1e-3 to 1, adam from 1e-4 to 0.1
    _, found = outcomes(study, lambda t: None if t.arm == "adam" and t.options["lr"] > 3e-5 else valley(3e-2)(t))
    adam = found["adam"]
    assert adam.ranges[0].low < 1.1e-5 and adam.points[adam.best]["lr"] <= 3e-5
    assert len(adam.points) == len(found["momentum"].points) > 9  # every arm gets as many
    known, found = outcomes(study, lambda t: "not-learned" if t.arm == "adam" else valley(3e-2)(t))
    assert found["adam"].ranges[0].high == pytest.approx(1e1) and found["adam"].best is None
    lowest, highest = (pick(p["lr"] for p in found["adam"].points) for pick in (min, max))
    assert find_caveats(StudyResults(study, "momentum", None, 3, found, known)) == [
        f"adam: every tuning trial failed (17 not-learned; lr {lowest:.2g} to {highest:.2g}), so no configuration was "
        "confirmed; `fallline lr-range digits --optimizer adam` shows at which learning rates the loss falls; search "
        "there with adam@lr=LOW..HIGH"
    ]
    # Some diverge, but not the lowest: neither side is known to be better.
    _, found = outcomes(study, lambda t: "not-learned" if t.options["lr"] < 2e-3 else None)
    assert all(len(search.points) == 9 and search.edge is None for search in found.values())


def test_confirmation_seeds_are_fresh_common_and_disjoint_for_a_twin():
    study = spec()
    _, searches = outcomes(study, valley(1e-2))
    seeds = {name: [t.seed for t in confirm(study, s)] for name, s in searches.items()}
    assert seeds["adam"] == seeds["momentum"] and len(set(seeds["adam"])) == 3
    assert tuning_trials(study, searches["adam"])[0].seed not in seeds["adam"]
    twin = Spec("digits", 40, (study.arms[1], type(study.arms[1])("adam (again)", "adam", twin=True)), 8, 3)
    _, searches = outcomes(twin, valley(1e-2))
    one, two = ({t.seed for t in confirm(twin, s)} for s in searches.values())
    assert not one & two
    assert searches["adam"].points == searches["adam (again)"].points


def test_a_fixed_hyperparameter_is_not_searched():
    study = spec(["adam@lr=1e-5", "adamw@weight_decay=0.3"], trials=16)
    _, searches = tune(study, {})
    assert {p["lr"] for p in searches["adam@lr=1e-5"].points} == {1e-5}
    assert {p["weight_decay"] for p in searches["adamw@weight_decay=0.3"].points} == {0.3}
    everything = tune(spec(["sgd@lr=1@weight_decay=0"]), {})[1]["sgd@lr=1@weight_decay=0"]
    assert len(everything.points) == 1  # nothing to search, so nothing is run twice


def test_a_specification_survives_json_and_its_digest_ignores_the_order_of_arms():
    study = spec()
    assert Spec.from_json(study.to_json()) == study
    assert study.digest() == spec(["adam", "momentum"]).digest() != spec(["adam"]).digest()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: spec(trials=0), "trials must be an int >= 1, got trials=0"),
        (lambda: spec(seeds=1), "seeds: must be a whole number >= 2.*got seeds=1"),
        (
            lambda: Spec("digits", 3, make_arms(["adam"], ["cosine"])),
            "steps: must be at least 20.*got 3 in the tuning of adam .steps=3",
        ),
        (lambda: spec(["adam", "adam"]), "each arm must be named once, got adam, adam"),
        (lambda: spec([]), "got none"),
        (lambda: spec(["sdg"]), "got 'sdg'; did you mean sgd"),
        (lambda: spec(["adam@lr=abc"]), "lr must be a number.*got 'adam@lr=abc'"),
        (lambda: spec(["adam@foo=1"]), "among lr, weight_decay.*got 'adam@foo=1'"),
        (lambda: spec(schedules=["cosin"]), "schedules: must be one of constant, step, cosine, .*got 'cosin'"),
        (lambda: Spec("digit", 40, make_arms(["adam"], ["cosine"])), "task: must be one of digits.*got 'digit'"),
    ],
)
def test_bad_specifications_get_one_sentence(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


def rerun(study, loss, again):
    """Run the tuning with one invented loss for the search and another for the finalists' further seeds."""
    known = {}
    while missing := [t for t in tune(study, known)[0] if t.id not in known]:
        first = {t.id for s in tune(study, known)[1].values() for t in tuning_trials(study, s)}
        for trial in missing:
            value = (loss if trial.id in first else again)(trial)
            failure = {"state": "nonfinite", "step": 3, "cause": "invented"} if value is None else None
            known[trial.id] = Outcome(failure, {} if value is None else {"val_loss": value}, [])
    return known, tune(study, known)[1]


def test_a_lucky_run_does_not_win(monkeypatch):
    """The lowest of many single runs is partly luck: the best three are run on two seeds more, and the mean decides."""
    study = spec(["adam"], trials=16)
    lucky = max(tune(study, {})[1]["adam"].points, key=lambda p: p["lr"])["lr"] / 3  # somewhere high, alone
    index = min(range(17), key=lambda i: abs(math.log(tune(study, {})[1]["adam"].points[i]["lr"] / lucky)))

    def loss(trial):
        return 0.5 if trial.index == index else valley(3e-3)(trial)

    known, searches = rerun(study, loss, valley(3e-3))
    search = searches["adam"]
    assert index in search.finalists and len(search.finalists) == 3
    assert search.best != index and abs(math.log10(search.points[search.best]["lr"] / 3e-3)) < 0.4
    again = trials_again(study, search)
    assert len(again) == 6 and {t.id for t in again} <= known.keys()
    confirmation = {t.seed for t in confirm(study, search)}
    assert not {t.seed for t in again} & (confirmation | {tuning_trials(study, search)[0].seed})


def test_a_finalist_that_fails_on_another_seed_is_not_selected():
    study = spec(["adam"])
    _, searches = rerun(study, valley(3e-3), valley(3e-3))
    best, other = searches["adam"].best, next(i for i in searches["adam"].finalists if i != searches["adam"].best)
    _, searches = rerun(study, valley(3e-3), lambda t: None if t.index == best else 2.0)
    assert searches["adam"].best == other


@pytest.mark.parametrize(("trials", "count"), [(1, 0), (4, 0), (8, 2), (16, 3), (64, 3)])
def test_every_arm_has_the_same_number_of_finalists(trials, count):
    _, searches = rerun(spec(trials=trials), valley(3e-3), valley(3e-3))
    assert {len(s.finalists) for s in searches.values()} == {count}
