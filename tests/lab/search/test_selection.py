"""Which point of a search is taken and whether it lies at an edge, on points and losses laid out by hand."""

from types import SimpleNamespace

import pytest

from fallline.lab.design.arms import make_arms
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.spaces import SPACES
from fallline.lab.search.selection import Search, judge, nominate, settle

LR, DECAY = SPACES["momentum"].dimensions[:2]
LOSS, ACCURACY = SimpleNamespace(mode="min", metric="val_loss"), SimpleNamespace(mode="max", metric="val_accuracy")


def search(*places):
    """Return a search with points at these coordinates of the learning rate's and the decay's range."""
    points = tuple({"lr": 10 ** (-3 + 3 * x), "weight_decay": 10 ** (-6 + 4 * y)} for x, y in places)
    (arm,) = make_arms(["momentum"], ["cosine"])
    return Search(arm, (LR, DECAY), points, (0,) * len(points))


def outcome(value, metric="val_loss"):
    if value is None:
        return Outcome({"state": "nonfinite", "step": 3, "cause": "invented"}, {}, [])
    return Outcome(None, {metric: value}, [])


def judged(losses):
    """Return the judgement of losses by coordinates; None where the run failed."""
    return judge(search(*losses), [outcome(value) for value in losses.values()], LOSS)


# By coordinate of the learning rate: losses that put the optimum at the low end, or not.
ENDS = [
    ({0.02: 9.0, 0.08: 1.0, 0.5: 2.0, 0.6: 3.0}, True),  # the best lies in the outer tenth, with one tried beyond it
    ({0.02: 9.0, 0.12: 1.0, 0.5: 2.0, 0.6: 3.0}, False),
    ({0.01: 9.0, 0.5: 1.0, 0.05: 2.0, 0.08: 3.0, 0.6: 4.0}, True),  # two of the best three do
    ({0.01: 9.0, 0.5: 1.0, 0.05: 2.0, 0.4: 3.0, 0.6: 4.0}, False),  # one of them does
    ({0.01: 9.0, 0.5: 1.0, 0.05: 2.0, 0.4: 3.0, 0.08: 4.0, 0.6: 5.0}, False),  # the fourth is none of the best three
    ({0.3: 1.0, 0.5: 2.0, 0.6: 3.0}, True),  # nothing was tried beyond it
]


@pytest.mark.parametrize(("losses", "at_an_edge"), ENDS)
def test_an_optimum_is_at_an_edge_by_the_best_or_by_two_of_the_best_three(losses, at_an_edge):
    low = judged({(x, 0.5): loss for x, loss in losses.items()})
    assert low.edge == (("lr", "low") if at_an_edge else None)
    high = judged({(1 - x, 0.5): loss for x, loss in losses.items()})
    assert high.edge == (("lr", "high") if at_an_edge else None)


def test_only_the_learning_rate_is_at_an_edge_where_nothing_was_tried_beyond_it():
    found = judged({(0.5, 0.3): 1.0, (0.3, 0.5): 2.0, (0.7, 0.6): 3.0})
    assert found.edge is None
    assert judged({(0.5, 0.08): 1.0, (0.3, 0.02): 2.0, (0.7, 0.6): 3.0}).edge == ("weight_decay", "low")


@pytest.mark.parametrize(("second", "best"), [(1.0, 1), (1.001, 0)])
def test_single_runs_are_tied_only_if_they_are_equal(second, best):
    found = judged({(0.8, 0.5): 1.0, (0.4, 0.5): second, (0.9, 0.5): None, (0.2, 0.5): 9.0})
    assert found.best == best


def settled(task, first, second):
    """Return which of two finalists wins, by their values on three seeds; the first is nearer to a failure."""
    metric = task.metric
    layout = search((0.8, 0.5), (0.4, 0.5), (0.9, 0.5), (0.2, 0.5))
    bad = 9.0 if task is LOSS else 0.1
    found = [outcome(value, metric) for value in (first[0], second[0], None, bad)]
    runs = {i: [outcome(value, metric) for value in values] for i, values in enumerate((first, second))}
    return settle(judge(layout, found, task), runs, found, task).best


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_a_near_tie_is_one_within_the_noise_of_the_finalists(scale):
    # Differences of -0.5, -0.1 and 0.3: a mean of -0.1, with a standard error of 0.4 / sqrt(3) = 0.23.
    first, second = [1.0, 1.2, 1.4], [1.5, 1.3, 1.1]
    assert settled(LOSS, [scale * v for v in first], [scale * v for v in second]) == 1
    # What a seed does to both is no noise: differences of -0.11, -0.10 and -0.09.
    assert settled(LOSS, [scale * v for v in first], [scale * v for v in (1.11, 1.30, 1.49)]) == 0


def test_a_better_accuracy_wins_over_one_that_is_two_percent_lower():
    assert settled(ACCURACY, [0.980, 0.981, 0.979], [0.962, 0.963, 0.961]) == 0
    assert settled(ACCURACY, [0.980, 0.981, 0.979], [0.981, 0.977, 0.979]) == 1


def test_losses_of_0_and_below_0_are_no_special_case():
    assert settled(LOSS, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]) == 1
    assert settled(LOSS, [0.0, 0.1, 0.2], [0.1, 0.0, 0.3]) == 1
    assert settled(LOSS, [-10.0, -10.1, -10.2], [-9.9, -9.98, -10.1]) == 0


def test_the_distance_to_failures_is_the_largest_over_hyperparameters_and_that_to_the_nearest():
    # from the failure at (.5, .5): (.6, .0) is .5 away, by its decay; (.2, .2) is .3 away
    assert judged({(0.6, 0.0): 1.0, (0.2, 0.2): 1.0, (0.5, 0.5): None}).best == 0
    # (.1, .5) is .1 from the nearest failure though .9 from the other; (.5, .5) is .5 and .4 away
    assert judged({(0.1, 0.5): 1.0, (0.5, 0.5): 1.0, (0.0, 0.5): None, (0.9, 0.5): None}).best == 1


def test_a_near_tie_without_failures_goes_to_the_lower_loss():
    assert judged({(0.4, 0.5): 1.01, (0.6, 0.5): 1.0, (0.1, 0.5): 9.0, (0.9, 0.5): 9.0}).best == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_never_wins_and_is_kept_away_from(bad):
    found = judged({(0.8, 0.5): 1.0, (0.4, 0.5): 1.0, (0.9, 0.5): bad, (0.2, 0.5): 9.0})
    assert found.best == 1


def test_of_accuracies_the_highest_is_taken_and_the_highest_are_finalists():
    values = (0.5, 0.9, 0.7, 0.8)
    layout = search((0.4, 0.5), (0.5, 0.5), (0.6, 0.5), (0.3, 0.5))
    found = [outcome(value, "val_accuracy") for value in values]
    chosen = judge(layout, found, ACCURACY)
    assert chosen.best == 1 and nominate(chosen, found, ACCURACY, 3).finalists == (1, 3, 2)


def test_the_best_mean_over_all_seeds_is_selected_and_a_failure_on_any_loses():
    losses = {(0.4, 0.5): 1.0, (0.5, 0.5): 1.5, (0.6, 0.5): 1.6, (0.1, 0.5): 9.0, (0.9, 0.5): 9.0}
    found = [outcome(value) for value in losses.values()]
    chosen = judge(search(*losses), found, LOSS)
    # means 2.0, 1.5 and 1.7: the first run alone, and the lowest, would choose 0
    runs = {0: (1.0, 3.0, 2.0), 1: (1.5, 1.7, 1.3), 2: (2.1, 1.7, 1.3)}
    seeds = {i: [outcome(value) for value in values] for i, values in runs.items()}
    assert settle(chosen, seeds, found, LOSS).best == 1
    seeds[1][2] = outcome(None)
    assert settle(chosen, seeds, found, LOSS).best == 2
    everything = {i: [outcome(None)] * 3 for i in runs}
    assert settle(chosen, everything, found, LOSS).best == chosen.best == 0
