"""The numbers behind the report's figures, against numbers worked by hand and against brute force."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallline.lab.analysis.sensitivity import sensitivity
from fallline.lab.report.topics.costs import costs
from fallline.lab.report.topics.leaderboard import tuning
from fallline.lab.report.topics.time_to_target import first_step, grid, median
from fallline.lab.report.topics.tuning_budget import best_of
from fallline.lab.search.trials import tuning_trials
from support.studies import changed

LOSSES = st.lists(st.one_of(st.none(), st.floats(0.01, 5)), min_size=1, max_size=8)


def test_sensitivity_equals_the_numbers_worked_by_hand():
    # In decades: (-3, 2.0), (-2, 1.0), (-1, 1.05), (0, failed -> 2.3). Trapezoids 1.5 + 1.025 + 1.675 = 4.2 over three
    # decades is 1.4, less the best 1.0. Up to 1.1: 0.1 of the decade to the left, all of the next to the right and
    # 0.05 / 1.25 = 0.04 of the last.
    found = sensitivity([1e-1, 1e-3, 1e0, 1e-2], [1.05, 2.0, None, 1.0], start=2.3)
    assert found.excess == pytest.approx(0.4, abs=1e-12)
    assert found.width == pytest.approx(0.1 + 1 + 0.04, abs=1e-12)
    assert not found.open


def test_losses_above_the_start_count_as_the_start():
    # (1e9 and a failure are the same to someone who is left with an untrained model)
    rates = [0.01, 0.1, 1.0]
    assert sensitivity(rates, [1e9, 1.0, 2.0], start=3.0).excess == sensitivity(rates, [None, 1.0, 2.0], 3.0).excess


def test_the_good_part_is_open_where_it_reaches_an_end_of_what_was_tried():
    assert sensitivity([0.1, 1.0], [1.05, 1.0], start=3.0).open
    closed = sensitivity([0.1, 1.0, 10.0], [3.0, 1.0, 3.0], start=3.0)
    assert not closed.open and closed.width == pytest.approx(0.1)  # 0.1 / 2 of a decade to either side


def test_a_failure_ends_the_good_part_even_where_the_start_is_within_it():
    found = sensitivity([0.1, 1.0, 10.0], [1.0, 1.0, None], start=1.05)
    assert found.width == pytest.approx(1.0) and found.open  # to the left


def test_the_best_of_repeated_rates_counts_and_nothing_is_said_without_a_success():
    assert sensitivity([0.1, 0.1, 1.0], [2.0, 1.0, 3.0], 9.0) == sensitivity([0.1, 1.0], [1.0, 3.0], 9.0)
    assert sensitivity([0.1, 1.0], [None, None], 3.0) is None
    assert math.isnan(sensitivity([0.1], [1.0], 3.0).excess)


def test_a_maximum_within_ten_percent_uses_the_size_of_the_best():
    # Negated accuracies: 0.9 is best, so 0.81 is the limit: 0.09 / 0.18 of the decade to 0.72.
    assert sensitivity([0.1, 1.0], [-0.9, -0.72], start=-0.1).width == pytest.approx(0.5)


@given(LOSSES, st.floats(1, 4))
def test_best_of_k_equals_brute_force_over_all_subsets(losses, start):
    for best in best_of(losses, start):
        subsets = list(itertools.combinations(losses, best.k))
        lowest = [min(start if loss is None else min(loss, start) for loss in subset) for subset in subsets]
        assert best.expected == pytest.approx(math.fsum(lowest) / len(lowest), rel=1e-12)
        assert best.failing == sum(all(x is None for x in subset) for subset in subsets) / len(subsets)


def test_more_tuning_is_never_expected_to_be_worse():
    found = best_of([0.3, 2.0, None, 0.1, 0.7, None, 5.0], start=2.3)
    assert [best.k for best in found] == [1, 2, 3, 4, 5, 6, 7]
    assert found == sorted(found, key=lambda best: -best.expected)
    assert found[-1].expected == 0.1


def test_a_missed_target_is_infinite_and_counts_in_the_median():
    curve = [{"step": 10, "val_loss": 2.0}, {"step": 20, "val_loss": 0.9}, {"step": 30, "val_loss": 1.5}]
    assert first_step(curve, "val_loss", 1.0, "min") == 20
    assert first_step(curve, "val_loss", 0.5, "min") == math.inf
    assert first_step(curve, "val_loss", 1.9, "max") == 10
    assert median([20, math.inf, 10]) == 20
    assert median([20, math.inf]) == math.inf and math.isnan(median([]))


def test_the_grid_of_targets_starts_at_the_target_and_only_gets_easier():
    assert grid(0.1, 0.16, "min", ratios=True) == pytest.approx([0.1, 0.11, 0.125, 0.15])
    assert grid(0.9, 0.85, "max", ratios=False) == pytest.approx([0.9, 0.891, 0.8775, 0.855])
    assert grid(0.1, 0.05, "min", ratios=True) == [0.1]


def test_the_note_on_times_names_the_arms_that_were_not_timed_alone(study):
    timings, together = study.record.timings, "while other trials ran."
    for names, said in {
        tuple(
            timings
        ): f"with alternating runs of the arms, but that of sgd@lr=1e30 {together}",  # which was not confirmed
        ("momentum",): f"with alternating runs of the arms, but that of adam, sgd@lr=1e30 {together}",
        (): f"The time per step was measured {together}",
    }.items():
        assert said in costs(replace(study.record, timings={arm: timings[arm] for arm in names})).note


def test_a_default_loss_of_0_is_compared_by_the_difference(study):
    default = tuning_trials(study.spec, study.searches["adam"])[0]
    solved = study.outcome(default)
    solved = replace(solved, metrics={**solved.metrics, "val_loss": 0.0})
    table = tuning(changed(study, outcomes={**study.record.outcomes, default.id: solved}).record)
    (row,) = [row for row in table.records if row["arm"] == "adam"]
    assert row["default"] == 0 and row["change"] == row["tuned"] > 0
