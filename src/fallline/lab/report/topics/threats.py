"""The threats to validity, which are reasons why the numbers may mislead, and the warnings of the study."""

from fallline.formatting import plural
from fallline.lab.analysis.caveats import find_caveats
from fallline.lab.analysis.results import StudyResults
from fallline.lab.report.document import Bullets, Section, Text, Topic
from fallline.lab.report.topics.sensitivity import describe_searched
from fallline.lab.search.selection import AGAIN


def threats(study: StudyResults) -> Section:
    """Return the section with reasons why the numbers may mislead."""
    spec, names = study.spec, describe_searched(study)
    several = " and " in names
    tuned = "Nothing was tuned, so this is a ranking of these settings and not of the optimizers."
    if names:
        were = "were" if several else "was"
        tuned = f"Only {names} {were} tuned. An arm that is sensitive to other hyperparameters is at a disadvantage."
    equal = {"grad-evals": " and equal gradient evaluations", "steps": " and equal steps", "trials": ""}[spec.equal]
    items = [
        "The study has one task and one model. The best arm here need not be the best on other tasks.",
        "The intervals hold for the configurations that were selected. They do not include the randomness of the "
        f"search, which used {plural(spec.searches, 'seed')}, and {AGAIN} more for the best configurations of each "
        "arm. Another search may select other configurations, whose means may lie outside the intervals.",
        tuned,
        f"The t interval assumes that the differences are roughly normal, which {study.seeds} seeds are too few to "
        "check.",
        "The arm with the best mean is evaluated on the same runs that selected it, so its lead is slightly "
        "optimistic.",
        f"Arms were given equal trials{equal}, not equal seconds.",
        "The sensitivity to the learning rate depends on the range that was searched, and its losses come from one "
        "seed each. If other hyperparameters were searched too, it also contains their effect.",
        "Runs are evaluated only at intervals, so a time to target is too large by up to one interval.",
    ]
    if spec.horizon < 1:
        items.append(
            "Tuning runs were shorter than confirmation runs. The best learning rate can depend on the length."
        )
    return Section("Threats to validity", [Bullets(items)])


def warnings(study: StudyResults) -> Section:
    """Return the section that repeats the warnings of the study for readers of the methods."""
    found = [f"{warning}." for warning in find_caveats(study)]
    none = "None: every arm has successful trials, and every optimum is interior."
    return Section("Warnings", [Bullets(found) if found else Text(none)])


TOPIC = Topic(threats)
WARNINGS = Topic(warnings)
