"""The report of a study as a document: the answer first, then what a reader needs next."""

from collections.abc import Iterable
from typing import Any

import fallline.lab.report.chance as chance
import fallline.lab.report.details as details
import fallline.lab.report.landscape as landscape
import fallline.lab.report.ledger as ledger
import fallline.lab.report.prose as prose
import fallline.lab.report.results as results
from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.analysis.failures import describe_failures
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.charts import figures
from fallline.lab.report.document import Block, Bullets, Code, Document, Figures, Section, Tabled, Text
from fallline.lab.report.headline import answer, headline
from fallline.lab.report.measure import margin_text, measure
from fallline.lab.report.paste import best_code
from fallline.lab.report.tables import Table
from fallline.lab.report.text import plural
from fallline.lab.search.selection import AGAIN


def document(study: StudyResults) -> Document:
    """Return the report of a finished study."""
    spec, rows, drawn = study.spec, results.leaders(study), figures(study)
    sections = [
        Section("Leaderboard", _leaderboard(study)),
        _differences(study, drawn),
        _sensitivity(study, drawn),
        _training(study, drawn),
        _target(study, drawn),
        _hyperparameters(study, drawn),
        _budget(drawn),
        _gradients(study, drawn),
        landscape.section(study, drawn),
        Section("Cost and ledger", _tabled([ledger.costs(study), ledger.failures(study)])),
        prose.methods(study),
        prose.threats(study),
        prose.warnings(study),
        prose.reproduce(study),
        _winner(study),
    ]
    compared = [study.comparisons[row["arm"]] for row in rows if row["arm"] in study.comparisons]
    return Document(
        headline=headline(study, rows),
        subject=f"{spec.task} · {plural(len(rows), 'arm')} · {spec.steps} steps · {study.seeds} confirmation seeds "
        "per arm",
        arms=study.arms,
        verdicts=[(result.arm, f"{result.sentence}.") for result in compared],
        notes=_how_to_read(study),
        warnings=[f"{warning}." for warning in find_caveats(study)],
        sections=[section for section in sections if section is not None and section.blocks],
        name=spec.task,
        means=results.means(study),
        answer=answer(study, results.against_best(study)),
    )


def tables(study: StudyResults) -> list[Table]:
    """Return every table of a study's report."""
    found = [
        results.leaderboard(study),
        results.equal_steps(study),
        results.tuning(study),
        results.pairwise(study, "pairwise", list(study.comparisons.values())) if study.comparisons else None,
        chance.chance(study, list(study.comparisons.values())),
        details.sensitivity(study),
        details.target(study),
        details.target_grid(study),
        details.hyperparameters(study),
        details.budget(study),
        details.spikes(study),
        landscape.landscape(study),
        ledger.costs(study),
        ledger.failures(study),
    ]
    return [table for table in found if table is not None]


def _tabled(found: Iterable[Table | None]) -> list[Block]:
    return [Tabled(table) for table in found if table is not None]


def _leaderboard(study: StudyResults) -> list[Block]:
    """Return the leaderboard, below it why runs of its arms failed, and the tables that go with it."""
    failed = describe_failures(study)
    reasons: list[Block] = [Text("", lead="Failures"), Bullets([f"{sentence}." for sentence in failed])]
    others = _tabled([results.equal_steps(study), results.tuning(study)])
    return [Tabled(results.leaderboard(study)), *(reasons if failed else []), *others]


def _how_to_read(study: StudyResults) -> list[str]:
    if not study.comparisons:
        return []
    kind = measure(study)
    return [
        f"Above, mean ± SD of the {kind.title(kind.test)}, {kind.better} is better. In brackets the 95 % interval of "
        f"its change, not corrected; p is corrected for the number of comparisons with {study.baseline}, the baseline.",
        *([study.explain_stopping()] if study.explain_stopping() else []),
    ]


def _differences(study: StudyResults, drawn: dict[str, Any]) -> Section | None:
    if not study.comparisons:
        return None
    kind = measure(study)
    twins = any(arm.twin for arm in study.spec.arms)
    rows = [study.comparisons[row["arm"]] for row in study.leaderboard() if row["arm"] in study.comparisons]
    blocks: list[Block] = []
    if "differences" in drawn:
        seeds = (
            "the arms on seeds of their own"
            if twins
            else "with the same initialisation and order of the data in both arms"
        )
        caption = f"Circles: one seed each, {seeds}. Bar: mean and 95 % interval over all sources of chance. "
        caption += f"{'Left' if kind.mode == 'min' else 'Right'} of 0 is better."
        if study.margin is not None:
            caption += f" Grey: the ±{margin_text(study, study.margin)} that do not matter."
        blocks.append(Figures({"differences": drawn["differences"]}, caption, legend=False))
    else:
        lost = (
            "Failed seeds leave nothing to compare: a mean over the seeds that survived would flatter the arm that "
            "lost the others."
        )
        blocks.append(Text(lost))
    paired = "Seeds are paired by number, though the arms share none" if twins else "Paired by seed"
    scale = "log ratios shown as percent" if kind.log_ratio else "in the metric's own unit"
    note = (
        f"{paired}; differences are {scale}. Only p (Holm) decides; intervals are not corrected for the number of "
        "comparisons. p (sign flips) is exact, over the seeds alone, and given for 8 to 20 seeds. Probability of "
        "superiority: share of seeds won. Minimum detectable: the difference that would be found with 80 % power with "
        "this n and all sources of chance, at the level left to each comparison; the intervals are those of one "
        "comparison alone."
    )
    blocks.append(Tabled(results.pairwise(study, "pairwise", rows, note)))
    if (sources := chance.chance(study, rows)) is not None:
        blocks += [Tabled(sources), *filter(None, [chance.advice(rows)])]
    against = results.against_best(study)
    if len(against) > 1 and against[0].baseline != study.baseline:
        blocks.append(Text("", lead=f"Differences to {against[0].baseline}, the best mean"))
        blocks.append(Tabled(results.pairwise(study, "against_best", against)))
    return Section(f"Differences to {study.baseline}", blocks)


def _sensitivity(study: StudyResults, drawn: dict[str, Any]) -> Section:
    kind = measure(study)
    also = prose.words(study, without="lr")
    axes = "both axes are logarithmic" if kind.is_ratio else "the rates are on a logarithmic axis"
    caption = (
        f"Validation result at the end of every tuning trial, one seed each; {axes}. Ringed: selected; white centre: "
        "the documented default; red ×: failed, whatever the loss."
    )
    if any(search.finalists for search in study.searches.values()):
        caption += f" Bars: mean ± SD over {AGAIN + 1} seeds of the configurations that were tried again."
    if also:
        caption += f" Neighbours differ in {also} too; point at one to see."
    if len(study.arms) > 1:
        caption += " A name above a figure hides its arm, or shows it again."
    shown = Figures({"learning-rates": drawn["learning-rates"]}, caption)
    return Section("Sensitivity to the learning rate", [shown, Tabled(details.sensitivity(study))])


def _training(study: StudyResults, drawn: dict[str, Any]) -> Section:
    names = [name for name in ("validation", "training", "strip") if name in drawn]
    if "validation" not in drawn:
        return Section("Training", [Text("Nothing was confirmed, so there are no curves.")])
    caption = (
        "Confirmation runs: mean over seeds, band from lowest to highest; above the validation result, below it the "
        "running mean of the loss on training batches, at the foot the learning rate. In the grey part the learning "
        "rate has not decayed yet; rankings in mid-schedule flip. Where a seed failed, every run is drawn by itself, "
        "and red × marks the failures."
    )
    if len({study.spec.steps_of(arm, "confirm") for arm in study.spec.arms}) > 1:
        caption += (
            " Arms differ in steps, each with its whole schedule; where a step takes more gradients, it has fewer."
        )
    return Section("Training", [Figures({name: drawn[name] for name in names}, caption)])


def _target(study: StudyResults, drawn: dict[str, Any]) -> Section | None:
    found = _tabled([details.target(study)])
    if not found:
        return None
    if "time-to-target" in drawn:
        caption = (
            "Median over the confirmation runs of the first evaluation at which each target is reached; a line ends "
            "where half of its arm's runs miss. Lower and further left is better."
        )
        if measure(study).mode == "max":
            caption = caption.replace("Lower and", "Higher and")
        found.append(Figures({"time-to-target": drawn["time-to-target"]}, caption))
    return Section("Time to target", [*found, *_tabled([details.target_grid(study)])])


def _hyperparameters(study: StudyResults, drawn: dict[str, Any]) -> Section:
    axes = {name: chart for name, chart in drawn.items() if name.startswith("axis-")}
    blocks: list[Block] = [Tabled(details.hyperparameters(study))]
    if axes:
        caption = (
            "Validation result of every tuning trial against what else was searched; trials of an arm differ in the "
            "learning rate too. Marks as above; a default of 0 has no place on a logarithmic axis."
        )
        blocks.append(Figures(axes, caption, beside=len(axes) > 1))
    return Section("Chosen hyperparameters", blocks)


def _winner(study: StudyResults) -> Section | None:
    code = best_code(study)
    if not code:
        return None
    first = [row["arm"] for row in results.leaders(study) if row["finished"] and row["rank"] == 1]
    best = study.leaderboard()[0]["arm"]
    shared = ", which shares rank 1: the data do not favour it over the other arms there" if len(first) > 1 else ""
    note = f"{best}{shared}. Tuned for {study.spec.steps} steps of this task; elsewhere, tune again."
    title = f"The {'winner' if len(first) == 1 else 'best mean'}, to paste"
    return Section(title, [Code(code), Text(note, note=True)])


def _budget(drawn: dict[str, Any]) -> Section | None:
    charts: dict[str, Any] = {name: drawn[name] for name in ("budget-trials", "budget-seconds") if name in drawn}
    caption = (
        "Expected best validation result of k random trials, exact over all choices of k of the search points that "
        "were run, extensions included; a failure counts as an untrained model. Seconds: k times the arm's median "
        "time of a trial, on one thread: this implementation, this machine."
    )
    return Section("What tuning buys", [Figures(charts, caption)]) if charts else None


def _gradients(study: StudyResults, drawn: dict[str, Any]) -> Section | None:
    charts: dict[str, Any] = {name: drawn[name] for name in ("gradient-norm", "update-norm") if name in drawn}
    caption = (
        "Euclidean norms of the gradient of one batch and of the step that was taken, over all parameters, at some of "
        "the steps of the confirmation runs: median over seeds, band from lowest to highest."
    )
    blocks: list[Block] = [Figures(charts, caption)] if charts else []
    return Section("Gradients and updates", [*blocks, *_tabled([details.spikes(study)])])
