"""The methods: how the study was done."""

from fallline.formatting import plural
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.variance import FixedTestSet, RandomSplitMeans, RandomSplits, SeedsOnly
from fallline.lab.design.schedules import WARMUP
from fallline.lab.report.document import Section, Text, Topic
from fallline.lab.report.measure import margin_text, measure
from fallline.lab.report.topics.sensitivity import describe_searched
from fallline.lab.search.selection import AGAIN


def methods(study: StudyResults) -> Section:
    """Return how the study was done."""
    parts = [("Task", _task(study)), ("Tuning", _tuning(study)), ("Confirmation", _confirmation(study))]
    parts += [("Comparison", _comparison(study)), ("Figures", _figures(study))]
    return Section("Methods", [Text(text, lead=f"{lead}.") for lead, text in parts])


def _task(study: StudyResults) -> str:
    spec, kind = study.spec, measure(study)
    trials = [t for arm in study.searches for t in study.confirmation_trials(arm)]
    lengths = sorted({trial.steps for trial in trials} or {spec.steps})
    warmups = sorted({trial.warmup for trial in trials} or {WARMUP})
    length = " or ".join(str(steps) for steps in lengths)
    warmup = " or ".join(f"{100 * part:.3g} %" for part in warmups)
    judged = f" Arms are judged by {kind.title(kind.metric)}, {kind.better} is better." if not kind.is_loss else ""
    return (
        f"{spec.learning.summary}. A run takes {length} optimizer steps, warm-up over the first {warmup} "
        f"included.{judged}"
    )


def _tuning(study: StudyResults) -> str:
    spec = study.spec
    names = describe_searched(study)
    extended = max(len(s.points) for s in study.searches.values()) - spec.searches * spec.trials - 1
    what = (
        f"Searched at this budget: {names}; the rest was fixed as listed above."
        if names
        else "Nothing was searched, since the user had fixed all that this budget searches."
    )
    more = f", {spec.searches} times with points and a seed of their own" if spec.searches > 1 else ""
    short = ""
    if spec.horizon < 1:
        short = f" Tuning runs had {100 * spec.horizon:g} % of the length, each with its whole schedule."
    extension = (
        f"that happened here and gave every tuned arm {extended} more" if extended > 0 else "that was not needed here"
    )
    return (
        f"Every arm was tuned with the documented default and {spec.trials} points of a scrambled Sobol sequence on "
        f"one seed{more}, the same points of the unit cube for all arms.{short} {what} An optimum in the outer tenth "
        "of its range, or a search that found nothing but failures, extends the range by a decade, with as many "
        f"further trials for every arm, up to twice; {extension}. Selected was the best validation result at the end "
        f"of the schedule{_again(study)}; of results within 2 %, the point farthest from failures."
    )


def _again(study: StudyResults) -> str:
    count = max(len(search.finalists) for search in study.searches.values())
    if not count:
        return ""
    return f", by the mean over {AGAIN + 1} seeds for the best {count} configurations, which were tried again"


def _confirmation(study: StudyResults) -> str:
    how = "; a seed decides initialisation, order of the data and dropout alike in every arm"
    if any(arm.twin for arm in study.spec.arms):
        how = ", disjoint ones for each arm, since this is a self-check"
    return (
        f"The selected configuration was trained on {study.seeds} fresh seeds{how}. {_split(study)}"
        f"{' ' if study.explain_stopping() else ''}{study.explain_stopping()}"
    )


def _split(study: StudyResults) -> str:
    if not study.spec.resplit:
        return "The test split was used once, at the end of these runs; it decided nothing but when to stop."
    return (
        "Every seed drew its own split of the data into training, validation and test, the same for all arms. Tuning "
        "used one split of its own; its examples also occur in later test sets, which favours no arm as such. Test "
        "figures decided nothing but when to stop."
    )


def _comparison(study: StudyResults) -> str:
    kind = measure(study)
    text = "There is one arm, and nothing to compare it with."
    if study.comparisons:
        pairs = sum(result.comparison is not None for result in study.comparisons.values())
        what = "log ratios of" if kind.log_ratio else "differences in"
        text = (
            f"Arms are compared with {study.baseline} by two-sided paired t-tests on the {what} "
            f"{kind.name(kind.test)}, Holm-corrected over {plural(pairs, 'comparison')}, at a level of 5 %"
            f"{_looks(study)}. {_variance(study)}"
        )
    if study.comparisons and study.margin is not None:
        text += f" Equivalent means an interval inside ±{margin_text(study, study.margin)}, a margin given by the user."
    return (
        f"{text} Where a seed failed, failures are counted instead. A run fails when its loss is not finite, blows up, "
        "or ends no better than a predictor that ignores its input."
    )


def _looks(study: StudyResults) -> str:
    looks = study.spec.looks
    if len(looks) == 1:
        return ""
    return f" over all looks (after {', '.join(map(str, looks[:-1]))} and {looks[-1]} seeds)"


def _variance(study: StudyResults) -> str:
    """Return which sources of chance the intervals contain and how, for the designs that occur."""
    designs = {type(r.comparison.design): r.comparison.design for r in study.comparisons.values() if r.comparison}
    said = {
        FixedTestSet: "Seeds and test examples are both random: the variance of the mean difference is that of the "
        "crossed two-way design, [MS_S + max(0, MS_E − MS_R)] / (S · E). The training set is fixed.",
        RandomSplits: "Seeds, splits and examples are random: the variance of the mean difference is s²/n + c/N. In it "
        "s² is the variance over the n seeds, c the covariance of an example's difference with itself in the test sets "
        "of different seeds (its whole variance where it is recognised too rarely), and N the size of the pool.",
        RandomSplitMeans: "Seeds and splits are random: the variance of the mean difference is "
        "s² (1/n + n_test/n_train) (Nadeau and Bengio 2003), since the task has no method losses.",
        SeedsOnly: "Only the seeds are random, so verdicts hold on this test set: "
        + "; ".join(design.reason for design in designs.values() if design.reason)
        + ".",
    }
    return " ".join(said[kind] for kind in said if kind in designs)


def _figures(study: StudyResults) -> str:
    return (
        "Sensitivity to the learning rate is the mean over the decades tried of min(ℓ, ℓ₀) − ℓ*, with ℓ interpolated "
        "linearly over the logarithm of the rate, ℓ₀ the loss of a predictor that ignores its input and ℓ* the best. "
        "The expected best of k random trials is exact over all choices of k of the trials that were run, a failure "
        "counting as ℓ₀. The target of the time to target is the median of the baseline's confirmation runs at their "
        "end; misses are infinite."
    )


TOPIC = Topic(methods)
