"""The threats to validity: why the numbers may mislead; and the warnings of the study itself."""

from fallline.formatting import plural
from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Bullets, Section, Text, Topic
from fallline.lab.report.topics.sensitivity import describe_searched
from fallline.lab.search.selection import AGAIN


def threats(study: StudyResults) -> Section:
    """Return why the numbers may mislead."""
    spec, names = study.spec, describe_searched(study)
    several = " and " in names
    tuned = "Nothing was tuned; the ranking is one of these settings, not of the optimizers."
    if names:
        were = "were" if several else "was"
        tuned = f"Only {names} {were} tuned; an arm that depends on what was fixed is at a disadvantage."
    equal = {"grad-evals": " and equal gradient evaluations", "steps": " and equal steps", "trials": ""}[spec.equal]
    items = [
        "One task and one model: what wins here need not win elsewhere.",
        "The intervals cover the configurations that were selected, not the luck of the search: it used "
        f"{plural(spec.searches, 'seed')}, and {AGAIN} more for the best of each arm, and another search may select "
        "other configurations, whose means differ by more than the intervals say.",
        tuned,
        f"With {study.seeds} seeds the t interval rests on differences that are roughly normal, which so few cannot "
        "show.",
        "The best arm is judged on the runs that made it look best, so its lead is a little too large.",
        f"Arms were given equal trials{equal}, not equal seconds.",
        "The sensitivity depends on the range that was searched, and its losses are of one seed each; with more than "
        "the learning rate searched, it shows the others too.",
        "Runs are evaluated now and then only, so a time to target is late by up to one such interval.",
    ]
    if spec.horizon < 1:
        items.append(
            "Tuning runs were shorter than confirmation runs; the best learning rate can depend on the length."
        )
    return Section("Threats to validity", [Bullets(items)])


def warnings(study: StudyResults) -> Section:
    """Return what the study itself found wanting, once more where a reader of the methods looks for it."""
    found = [f"{warning}." for warning in find_caveats(study)]
    none = "None: no arm failed throughout, and every optimum is interior."
    return Section("Warnings", [Bullets(found) if found else Text(none)])


TOPIC = Topic(threats)
WARNINGS = Topic(warnings)
