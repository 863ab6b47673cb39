"""The report: complete, offline, safe to open and honest about failures."""

import re
import statistics
from dataclasses import replace
from html import escape, unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fallline.errors import StudyError
from fallline.lab.design.outcome import Outcome
from fallline.lab.design.schedules import learning_rates
from fallline.lab.report import best_code, render
from fallline.lab.report.encodings import log_axis, log_scale
from fallline.lab.report.headline import answer, headline
from fallline.lab.report.render import to_html, to_markdown_page
from fallline.lab.report.style import arm_styles
from fallline.lab.report.topics import document, tables
from fallline.lab.report.topics.differences import against_best
from fallline.lab.report.topics.leaderboard import leaders
from fallline.lab.report.topics.sensitivity import learning_rates as rates_chart
from fallline.lab.report.topics.training import DECAYED, curves
from fallline.lab.search.trials import trials_again, tuning_trials
from support.browsers import Loads
from support.studies import changed, lose_a_seed, renamed, with_outcomes, with_search

HOSTILE = "<!--<script><b>bold</b></script><img src=http://example.org/x>"


def visible(path):
    """What a reader sees: the body without scripts and tags, on one line."""
    body = path.read_text(encoding="utf-8").split("<body", 1)[1].split("<script>")[0]
    text = unescape(re.sub("<[^>]*>", " ", body.replace("<wbr>", "")))
    return re.sub(r"\s+", " ", text)


def test_it_fetches_nothing(page):
    loads, text = Loads(), page.read_text(encoding="utf-8")
    loads.feed(text)
    assert loads.found == ["data:,"]  # an empty icon, or the browser would look for one
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in text  # and a browser would refuse


def test_it_has_every_arm_sentence_warning_and_number(study, page):
    text = visible(page)
    for row in study.leaderboard():
        assert row["arm"] in text
    best = study.leaderboard()[0]
    assert f"{best['test_loss']:.3g}" in text and f"{best['test_accuracy']:.2%}" in text
    for result in study.results.values():
        assert result.sentence in text
    assert study.warnings() and all(warning in text for warning in study.warnings())
    words = ("Methods", "Threats to validity", "Sobol", "Holm", "torch 2", "--trials 2 --seeds 2 --steps 40")
    assert [word for word in words if word not in text] == []


def test_an_arm_of_which_nothing_was_left_is_told_not_ranked(page):
    text = visible(page)
    assert "– sgd@lr=1e30 failed failed 1 of 1 tuning trials, so not confirmed" in text
    assert "training loss became" in text  # the cause, in the table of failures


def test_a_study_in_which_everything_failed_is_still_a_report(study, tmp_path):
    searches = {arm: replace(search, best=None, edge=None) for arm, search in study.searches.items()}
    failure = {"state": "nonfinite", "step": 3, "cause": "training loss became nan"}
    broken = with_outcomes(changed(study, searches=searches), lambda trial: Outcome(failure, {}, []))
    text = visible(broken.report(tmp_path / "report.html"))
    assert "No arm finished all of its confirmation runs" in text
    assert text.count("tuning trials, so not confirmed") == 3 and "There are no training curves" in text
    assert best_code(broken.record) == ""


def test_a_failed_seed_leaves_no_mean(study, tmp_path):
    broken = lose_a_seed(study, "adam")
    text = visible(broken.report(tmp_path / "report.html"))
    assert "failed 1 of 2 seeds, so no mean" in text
    survivor = study.confirmed("adam")[0]
    assert f"{survivor:.3g}" not in text.split("Chosen hyperparameters")[0]
    rows = curves(broken.record, "val").to_dict()["datasets"].values()
    runs = {row["run"] for data in rows for row in data if row.get("arm") == "adam"}
    assert runs == {"1 of 2", "2 of 2"}  # each by itself; the others are means


def test_the_headline_says_what_the_ranks_say(study):
    first = [row["arm"] for row in study.leaderboard() if row["rank"] == 1]
    scope = "with new seeds and new test examples (each seed with its own split)"
    said = (
        f"{first[0]} is the best of 3 arms {scope}"
        if len(first) == 1
        else f"{' and '.join(first)} are not distinguishable {scope}"
    )
    assert headline(study.record, leaders(study.record)) == said
    broken = lose_a_seed(study, "adam")
    assert headline(broken.record, leaders(broken.record)) == "Only momentum finished all of its confirmation runs"


def test_the_first_screen_says_who_by_how_much_and_how_sure(study, page):
    top = visible(page).split("Leaderboard")[0]
    best, second = study.leaderboard()[:2]
    for row in (best, second):
        assert f"{row['arm']} {row['test_loss']:.3f}" in top and f"± {row['test_loss_sd']:.3f}" in top
    result = study.compare_with(best["arm"], [best["arm"], second["arm"]])[second["arm"]]
    arm, other = sorted((best["arm"], second["arm"]), key=lambda arm: arm == study.baseline)
    change = f"{100 * (statistics.geometric_mean(ratios(study, arm, other)) - 1):+.1f}".replace("-", "−")
    assert f"{best['arm']} has the best mean" in top
    assert f"with a change in test loss of {change} % against {other}" in top
    assert f"corrected p = {result.p:.3f}, 2 seeds)" in top
    lost = lose_a_seed(study, "adam")
    assert answer(lost.record, against_best(lost.record)) == ""  # one arm is left, and there is nobody to lead


def test_a_pair_with_the_baseline_has_the_same_sign_in_the_headline_and_in_the_verdict(study):
    best, second = (row["arm"] for row in study.leaderboard()[:2])
    for baseline, other in ((best, second), (second, best)):
        record = changed(study, baseline=baseline).record
        result = record.comparisons[other]
        number = result.comparison.format_change(result.comparison.difference, "+")
        assert f"loss {number} [" in result.sentence
        assert f"with a change in test loss of {number} against {baseline}" in answer(record, against_best(record))
        rows = {row["arm"]: row for table in tables(record) if table.name == "pairwise" for row in table.records}
        assert rows[other]["difference"] == result.comparison.difference


def ratios(study, arm, other):
    return [a / b for a, b in zip(study.confirmed(arm), study.confirmed(other), strict=True)]


def test_it_ends_with_methods_threats_warnings_and_command(study):
    titles = [section.title for section in document(study.record).sections]
    assert titles[-4:] == ["Methods", "Threats to validity", "Warnings", "Reproduce"]


def test_the_code_of_the_winner_precedes_the_sections_in_every_format(study, page):
    code = document(study.record).code
    assert code.title.startswith("Python code for the ") and code.blocks[0].text == best_code(study.record)
    text = visible(page)
    assert text.index("has the best mean") < text.index("Warning.") < text.index(code.title) < text.index("Leaderboard")
    markdown = to_markdown_page(document(study.record), {}, {})
    assert markdown.index("**Warning.**") < markdown.index(code.title) < markdown.index("## Leaderboard")


def test_warnings_beyond_the_third_are_folded_and_counted(study):
    report = replace(document(study.record), warnings=[f"number {i}." for i in range(5)])
    text = to_html(report).split("<body", 1)[1].split("<script>")[0]
    shown, folded = text.split('<details class="more"><summary>2 more warnings</summary>')
    assert "number 2." in shown and "number 3." not in shown and "number 4." in folded


def test_hyperparameters_say_whether_the_optimum_is_interior(study):
    copy = with_search(study, "adam", replace(study.searches["adam"], edge=("lr", "high")))
    copy = with_search(copy, "momentum", replace(study.searches["momentum"], edge=None))
    (table,) = [table for table in tables(copy.record) if table.name == "hyperparameters"]
    said = {row["arm"]: (table.columns[-1](row).text, table.columns[-1](row).small) for row in table.records}
    assert said == {"momentum": ("yes", ""), "adam": ("no", "lr high"), "sgd@lr=1e30": ("–", "")}


def test_configurations_tried_on_several_seeds_show_mean_and_spread(study):
    search = replace(study.searches["adam"], finalists=(1, 2))
    more = {trial.id: loss for trial, loss in zip(trials_again(study.spec, search), (0.5, 1.5, 2.5, None), strict=True)}

    def outcome(trial):
        loss = more.get(trial.id)
        if trial.id in more and loss is None:
            return Outcome({"state": "nonfinite", "step": 3, "cause": "nan"}, {}, [])
        found = study.outcome(tuning_trials(study.spec, search)[0] if trial.id in more else trial)
        return replace(found, metrics={**found.metrics, "val_loss": loss}) if loss else found

    copy = with_outcomes(with_search(study, "adam", search), outcome)
    every = rates_chart(copy.record).to_dict()["datasets"].values()
    rows = {row["lr"]: row for data in every for row in data if row["arm"] == "adam"}
    once, kept, lost = (rows[search.points[i]["lr"]] for i in (0, 1, 2))
    values = [kept["result"], 0.5, 1.5]
    mean, sd = statistics.mean(values), statistics.stdev(values)
    low = mean - sd if mean > sd else min(values)  # a logarithmic axis has no 0
    assert [kept[key] for key in ("mean", "low", "high")] == pytest.approx([mean, low, mean + sd])
    assert [row["seeds"] for row in (once, kept, lost)] == [1, 3, 3]
    assert once["mean"] is None and lost["mean"] is None  # a mean over the seeds that survived would flatter


def test_names_are_escaped(study, tmp_path):
    text = renamed(study, "adam", HOSTILE).report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert HOSTILE not in text and escape(HOSTILE, quote=False) in text
    scripts = re.findall(r'<script type="application/json".*?>(.*?)</script>', text, re.S)
    assert len(scripts) == 11 and all("<" not in script for script in scripts)  # no end tag, no comment


def test_many_arms_all_look_different():
    every = arm_styles([f"arm {i}" for i in range(280)])
    assert len(set(every.values())) == 280


def test_curves_are_stamped_until_the_learning_rate_has_come_down(study):
    drawn = curves(study.record, "val").to_dict()["datasets"].values()
    (end,) = (row["to"] for data in drawn for row in data if "to" in row)
    factors = learning_rates("cosine", study.spec.steps)
    assert factors[end - 1] > DECAYED >= factors[end]


@given(st.floats(-12, 6), st.floats(0.2, 9))
@example(-0.953125, 0.203125)  # 0.11 to 0.18, between 0.1 and 0.2
def test_a_logarithmic_axis_has_ticks_to_read_it_by(low, decades):
    values = [10**low, 10 ** (low + decades)]
    ticks, (first, last) = log_axis(values).to_dict()["values"], log_scale(values).to_dict()["domain"]
    assert len(ticks) >= (2 if decades < 0.5 else 4) and all(first <= tick <= last for tick in ticks)
    assert len(ticks) <= 11


def test_a_path_that_cannot_be_written_is_one_sentence(study, tmp_path):
    with pytest.raises(StudyError, match=r"report: the file must be writable, got '.*nowhere/report.html'"):
        study.report(tmp_path / "nowhere" / "report.html")


def test_the_bundled_script_is_cached_and_a_damaged_file_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(tmp_path / "cache"))
    made = []
    monkeypatch.setattr(render.vl_convert, "javascript_bundle", lambda snippet: made.append(snippet) or "a </script b")
    script = render._javascript.__wrapped__()
    assert "a <\\/script b" in script
    assert render._javascript.__wrapped__() == script
    assert len(made) == 1
    [file] = (tmp_path / "cache").iterdir()
    file.write_text(script[: len(script) // 2])
    assert render._javascript.__wrapped__() == script
    assert len(made) == 2
    assert file.read_text() == script
    file.chmod(0o666)
    file.parent.chmod(0o777)  # anybody could have written the script
    assert render._javascript.__wrapped__() == script
    assert len(made) == 3
    monkeypatch.setenv("FALLLINE_CACHE_DIR", str(file))  # a file cannot hold the cache
    assert render._javascript.__wrapped__() == script
