"""What the tables of a report say, cell by cell, against numbers worked out from the outcomes by other means."""

import math
import shlex
import statistics
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import fallline as fl
from fallline.lab.report import best_code
from fallline.lab.report.document import Figures
from fallline.lab.report.style import arm_styles
from fallline.lab.report.topics import document
from fallline.lab.report.topics.costs import costs, failures
from fallline.lab.report.topics.differences import pairwise
from fallline.lab.report.topics.leaderboard import equal_steps, leaderboard, tuning
from fallline.lab.report.topics.methods import methods
from fallline.lab.report.topics.reproduce import command
from fallline.lab.report.topics.sensitivity import learning_rates
from fallline.lab.report.topics.threats import threats
from fallline.lab.report.topics.time_to_target import time_to_target
from fallline.lab.search.trials import confirm, trials_again, tuning_trials
from support.studies import changed, lose_a_seed, standard_error_by_hand, with_outcomes, with_search

ARMS = ["momentum", "adam", "sam(sgd)", "sgd@lr=1e30"]
SEEDS = 8  # as many as the exact p needs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A baseline, another, one of two passes, and one that fails; with finalists and extensions."""
    folder = tmp_path_factory.mktemp("study")
    return fl.compare("digits", ARMS, steps=40, trials=8, seeds=SEEDS, seed=3, margin=0.01, out=folder, jobs=0)


def row_of(table, arm):
    (row,) = [row for row in table.visible_records if row["arm"] == arm]
    return {column.title.replace("\n", " "): column(row) for column in table.columns}


def said(section):
    return " ".join(getattr(block, "text", "") or " ".join(getattr(block, "items", ())) for block in section.blocks)


def losses(study, arm, metric="test_loss", stage="confirm"):
    return [study.outcome(trial).metrics[metric] for trial in confirm(study.spec, study.searches[arm], stage)]


@pytest.mark.slow
def test_a_comparison_shows_every_number_that_it_rests_on(study):
    results = list(study.results.values())
    found = row_of(pairwise(study.record, "pairwise", results), "adam")
    logs = np.log(losses(study, "adam")) - np.log(losses(study, "momentum"))
    errors = {arm: standard_error_by_hand(study, arm, "momentum") for arm in ARMS[1:3]}
    raw_p = {
        arm: 2 * stats.t.sf(abs(np.log(losses(study, arm)).mean() - np.log(losses(study, "momentum")).mean()) / e, 7)
        for arm, e in errors.items()
    }
    low, high = logs.mean() + stats.t.ppf([0.025, 0.975], SEEDS - 1) * errors["adam"]
    p = sorted(raw_p.values())
    holm = {p[0]: min(1, 2 * p[0]), p[1]: min(1, max(2 * p[0], p[1]))}[raw_p["adam"]]
    half = stats.t.ppf(1 - 0.05 / 6, SEEDS - 1) + stats.t.ppf(0.8, SEEDS - 1)  # three arms against the baseline
    detectable = half * errors["adam"]

    def percent(x):
        return f"{100 * math.expm1(x):+.1f} %".replace("-", "−")

    flips = np.array([[1 - 2 * (i >> k & 1) for k in range(SEEDS)] for i in range(2**SEEDS)]) @ logs
    exact = float(np.mean(np.abs(flips) >= abs(logs.sum()) - 1e-12))
    assert {title: cell.text for title, cell in found.items()} == {
        "arm": "adam",
        "verdict": str(study.results["adam"].verdict),
        "change in test loss 95 % interval": percent(logs.mean()),
        "p (Holm)": "< 0.001" if holm < 0.001 else f"{holm:.3f}",
        "p (sign flips)": f"{exact:.3f}",
        "probability of superiority": f"{(logs < 0).mean():.2f}",
        "minimum detectable": percent(detectable).removeprefix("+"),
        "n": str(SEEDS),
    }
    assert found["change in test loss 95 % interval"].small == f"{percent(low)} to {percent(high)}"
    corrected = {row["arm"]: row["p"] for row in pairwise(study.record, "pairwise", results).records}
    assert corrected["adam"] == pytest.approx(holm, rel=1e-5)  # items are float32
    assert min(corrected["adam"], corrected["sam(sgd)"]) == pytest.approx(min(1, 2 * p[0]), rel=1e-5)
    lost = row_of(pairwise(study.record, "pairwise", results), "sgd@lr=1e30")
    assert (
        lost["change in test loss 95 % interval"].text == f"failed {SEEDS} of {SEEDS} seeds,"
        and lost["p (Holm)"].text == "–"
    )


def test_a_row_of_the_leaderboard_is_mean_spread_interval_and_what_failed(study):
    row = row_of(leaderboard(study.record), "adam")
    values = losses(study, "adam")
    mean, sd = statistics.mean(values), statistics.stdev(values)
    head = row["test loss (nats) mean ± SD 95 % interval"]
    assert [float(text) for text in head.text.split(" ± ")] == pytest.approx([mean, sd], abs=5e-3)
    ends = stats.t.interval(0.95, SEEDS - 1, mean, sd / math.sqrt(SEEDS))
    assert [float(text.replace("−", "-")) for text in head.small.split(" to ")] == pytest.approx(ends, abs=5e-3)
    for title, metric in (("validation loss (nats)", "val_loss"), ("training loss (nats)", "train_loss")):
        assert float(row[title].text) == pytest.approx(statistics.mean(losses(study, "adam", metric)), abs=5e-3)
    search = study.searches["adam"]
    assert row["learning rate"].text == f"{search.points[search.best]['lr']:.3g}"
    assert row["failed seeds"].text == f"0 of {SEEDS}" and row["optimum interior"].text in ("yes", "no")
    edged = with_search(study, "adam", replace(search, edge=("lr", "low")))
    assert row_of(leaderboard(edged.record), "adam")["optimum interior"].text == "no"
    edged = with_search(study, "adam", replace(search, edge=None))
    assert row_of(leaderboard(edged.record), "adam")["optimum interior"].text == "yes"
    lost = row_of(leaderboard(lose_a_seed(study, "adam").record), "adam")
    assert lost["failed seeds"].text == f"1 of {SEEDS}" and lost["rank"].text == "–"
    assert lost["test loss (nats) mean ± SD 95 % interval"].text == f"failed 1 of {SEEDS} seeds,"


def test_the_default_stands_against_the_tuned(study):
    search = study.searches["adam"]
    outcomes = [study.outcome(trial) for trial in tuning_trials(study.spec, search)]
    runs, failed = [o.metrics["val_loss"] for o in outcomes], sum(o.failure is not None for o in outcomes)
    row = row_of(tuning(study.record), "adam")
    assert float(row["validation loss (nats), default"].text) == pytest.approx(runs[0], abs=5e-3)
    assert float(row["validation loss (nats), tuned"].text) == pytest.approx(runs[search.best], abs=5e-3)
    assert row["tuning trials failed"].text == f"{failed} of {len(runs)}" and len(runs) > 9  # ranges were extended


def test_costs_count_every_trial_also_those_that_failed(study):
    table, every = costs(study.record), {arm: [t for t in study.trials if t.arm == arm] for arm in ARMS}
    for arm, trials in every.items():
        row, found = row_of(table, arm), {"tuning": [], "other": []}
        for trial in trials:
            found["tuning" if trial.stage == "tune" else "other"].append(study.outcome(trial).failure is not None)
        counts = [f"{len(failed)}, {sum(failed)}" for failed in found.values()]
        assert [row["tuning trials all, failed"].text, row["confirmation runs all, failed"].text] == counts
        spent = [study.store.costs(trial) for trial in trials]
        tuned = math.fsum(c.seconds for c, t in zip(spent, trials, strict=True) if t.stage == "tune")
        cell = row["total time (s) tuning + evaluation"]
        assert float(cell.text) == pytest.approx(math.fsum(c.seconds for c in spent), abs=0.051)
        assert [float(text) for text in cell.small.split(", ")] == pytest.approx(
            [tuned, math.fsum(c.evaluation_s for c in spent)], abs=0.051
        )
    assert len(trials_again(study.spec, study.searches["adam"])) == 4  # the finalists', counted as tuning
    assert sum(t.stage == "equal-steps" for t in every["sam(sgd)"]) == SEEDS
    adam, sam = (row_of(table, arm) for arm in ("adam", "sam(sgd)"))
    assert (adam["backward passes"].text, sam["backward passes"].text) == ("1", "2")
    timing = study.timings()["adam"]
    memory = adam["optimizer state, all memory (MB)"]
    assert [memory.text, memory.small] == [f"{size / 1e6:.3g}" for size in (timing.state_bytes, timing.memory_bytes)]
    assert adam["one step (ms) median, quartiles"].small == f"{timing.step_ms[1]:.3f} to {timing.step_ms[2]:.3f}"
    failed = sum(study.outcome(trial).failure is not None for trial in study.trials)
    assert f"all trials of the study: {len(study.trials)} trials, of which {failed} failed" in table.note
    assert "this implementation and this machine" in table.note


def test_failures_are_listed_by_stage_with_their_number_and_a_cause(study):
    broken = lose_a_seed(study, "adam")
    rows = {(row["arm"], row["stage"], row["state"]): row for row in failures(broken.record).records}
    assert rows["adam", "confirmation", "blown-up"]["count"] == 1
    assert "over 3 × its start" in rows["adam", "confirmation", "blown-up"]["cause"]
    assert rows["sgd@lr=1e30", "tuning", "nonfinite"]["count"] == 1
    trials = tuning_trials(study.spec, study.searches["adam"])
    before = sum(study.outcome(trial).failure is not None for trial in trials[3:])
    flat = {"state": "not-learned", "step": 40, "cause": "flat"}
    lost = {trial.id: replace(study.outcome(trial), failure=flat) for trial in trials[:3]}
    broken = changed(study, outcomes={**study.record.outcomes, **lost})
    counted = [row for row in failures(broken.record).records if (row["arm"], row["stage"]) == ("adam", "tuning")]
    assert sum(row["count"] for row in counted) == 3 + before
    crosses = [
        row
        for data in learning_rates(broken.record).to_dict()["datasets"].values()
        for row in data
        if row["arm"] == "adam" and row["failure"]
    ]
    assert len({row["lr"] for row in crosses if row["cause"] == "flat"}) == 3


def test_a_run_that_failed_has_missed_every_target(study):
    easy = 1e9
    reached = {row["arm"]: row for row in time_to_target(study.record, easy)}
    assert reached["adam"]["reached"] == SEEDS and reached["adam"]["runs"] == SEEDS
    lost = {row["arm"]: row for row in time_to_target(lose_a_seed(study, "adam").record, easy)}
    assert lost["adam"]["reached"] == SEEDS - 1
    first = study.outcome(confirm(study.spec, study.searches["sam(sgd)"])[0]).curve[0]["step"]
    sam = reached["sam(sgd)"]
    assert (sam["steps"], sam["gradient_evaluations"], sam["examples"]) == (first, 2 * first, 64 * first)
    step_ms = [study.store.costs(trial).step_ms for trial in confirm(study.spec, study.searches["sam(sgd)"])]
    assert sam["seconds"] == pytest.approx(first * statistics.median(step_ms) / 1000)


def test_the_page_has_every_table_and_warns_before_anything_else(study):
    page = document(study.record)
    names = ["leaderboard", "equal_steps", "tuning", "pairwise", "sensitivity", "time_to_target", "time_to_targets"]
    names += ["hyperparameters", "spikes", "costs", "failures"]
    assert [name for name in names if name not in [table.name for table in page.tables]] == []
    assert page.warnings == [f"{warning}." for warning in study.warnings()] and len(page.warnings) >= 1
    assert [sentence for _, sentence in page.verdicts] == [
        f"{study.results[arm].sentence}." for arm, _ in page.verdicts
    ]
    assert len(page.verdicts) == len(ARMS) - 1
    (again,) = [section for section in page.sections if section.title == "Warnings"]
    assert all(warning in " ".join(again.blocks[0].items) for warning in page.warnings)
    blocks = [block for section in page.sections for block in section.blocks]
    notes = [table.note for table in page.tables] + [block.caption for block in blocks if isinstance(block, Figures)]
    timed = [note for note in notes if any(word in note for word in ("Seconds", "Times", "time per step"))]
    assert len(timed) == 3 and all("this implementation and this machine" in note for note in timed)
    longer = row_of(equal_steps(study.record), "sam(sgd)")
    assert (longer["steps in the leaderboard"].text, longer["steps in this table"].text) == ("20", "40")
    mean = statistics.mean(losses(study, "sam(sgd)", stage="equal-steps"))
    assert float(longer["test loss (nats) mean ± SD"].text.split(" ± ")[0]) == pytest.approx(mean, abs=5e-3)


def test_methods_and_threats_say_what_was_done(study):
    text = said(methods(study.record))
    extended = max(len(search.points) for search in study.searches.values()) - 9
    assert extended > 0 and f"this happened and gave every tuned arm {extended} more trials" in text
    assert f"on {SEEDS} fresh seeds" in text and "8 points of a scrambled Sobol" in text
    assert "Equivalent means that the interval is inside ±1 %" in text
    assert "The search covered the learning rate; the other hyperparameters were fixed" in text and "half" not in text
    short = changed(study, spec=replace(study.spec, horizon=0.5, equal="steps"))
    short = with_outcomes(short, lambda trial: study.outcome(study.trials[0]))  # whatever it is called now
    assert "Tuning runs took 50 % of the steps" in said(methods(short.record))
    assert "The best learning rate can depend on the length" in said(threats(short.record))
    text = said(threats(study.record))
    assert "do not include the randomness of the search" in text and "its lead is slightly optimistic" in text
    assert "equal trials and equal gradient evaluations, not equal seconds" in text


def test_the_command_has_what_the_analysis_was_made_with(study):
    words = shlex.split(command(study.record))
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert (options["--margin"], options["--seed"], options["--baseline"]) == ("0.01", "3", "momentum")
    spec = replace(study.spec, device="cuda:0", landscape=True)
    other = changed(study, spec=spec, baseline="adam", margin=None)
    words = shlex.split(command(other.record))
    assert "--landscape" in words and words[words.index("--device") + 1] == "cuda:0" and "--margin" not in words
    assert words[words.index("--baseline") + 1] == "adam"


def test_what_is_pasted_is_the_configuration_that_was_confirmed(study):
    best = study.leaderboard()[0]["arm"]
    search = study.searches[best]
    chosen, default = search.points[search.best]["lr"], search.points[0]["lr"]
    assert f"lr={float(f'{chosen:.6g}')!r}" in best_code(study.record) and chosen != default
    failed = study
    for arm in ARMS[:3]:  # the last one fails by itself
        failed = lose_a_seed(failed, arm)
    assert failed.leaderboard()[0]["failed"] == 1
    assert best_code(failed.record) == ""


def test_an_arm_keeps_its_colour_in_every_figure(study):
    every = arm_styles(study.arms)
    assert len({style.colour for style in every.values()}) == len(ARMS)
    expected = {arm: every[arm].colour for arm in study.arms}
    scales = []

    def collect(spec):
        if isinstance(spec, dict):
            scale = spec.get("scale") if spec.get("field") == "arm" else None
            if scale and str(scale["range"][0]).startswith("#"):
                scales.append(dict(zip(scale["domain"], scale["range"], strict=True)))
            for value in spec.values():
                collect(value)
        elif isinstance(spec, list):
            for value in spec:
                collect(value)

    for chart in document(study.record).charts.values():
        collect(chart.to_dict())
    assert len(scales) > 8 and all(scale == expected for scale in scales)


def test_losses_below_0_are_drawn_on_straight_axes_and_compared_by_differences(study):
    """As those of a density are; their ratios mean nothing, and a logarithm has no place for them."""
    names = ("train_loss", "val_loss", "test_loss")

    def lower(row):
        return {name: value - 1.5 if name in names else value for name, value in row.items()}

    lowered = {
        trial.id: replace(o, metrics=lower(o.metrics), curve=[lower(row) for row in o.curve])
        for trial in study.trials
        if (o := study.outcome(trial))
    }
    below = changed(study, outcomes=lowered)
    assert below.has_losses_below_0 and not study.has_losses_below_0 and not below.log_ratio
    page = document(below.record)
    captions = [block.caption for section in page.sections for block in section.blocks if isinstance(block, Figures)]
    assert not any("both axes are logarithmic" in caption for caption in captions)
    for name in ("validation", "training", "learning-rates", "time-to-target", "budget-trials"):
        layers = [layer for layer in page.charts[name].to_dict()["layer"] if "y" in layer.get("encoding", {})]
        scales = [layer["encoding"]["y"].get("scale", {}) for layer in layers]
        assert any("domain" in scale for scale in scales) and all(scale.get("type") != "log" for scale in scales)
    shown = row_of(tuning(below.record), "adam")["change"].text
    runs = [study.outcome(trial).metrics["val_loss"] for trial in tuning_trials(study.spec, study.searches["adam"])]
    assert float(shown.replace("−", "-")) == pytest.approx(runs[study.searches["adam"].best] - runs[0], abs=1e-4)
