"""The methods section: how the study was done."""

from fallline.formatting import plural
from fallline.lab.analysis.results import StudyResults
from fallline.lab.analysis.variance import FixedTestSet, RandomSplitMeans, RandomSplits, SeedsOnly
from fallline.lab.design.schedules import WARMUP
from fallline.lab.report.document import Section, Text, Topic
from fallline.lab.report.measure import margin_text, measure
from fallline.lab.report.topics.sensitivity import describe_searched
from fallline.lab.search.selection import AGAIN


def methods(study: StudyResults) -> Section:
    """Return the section that describes how the study was done."""
    parts = [("Task", _task(study)), ("Tuning", _tuning(study)), ("Confirmation", _confirmation(study))]
    parts += [("Comparison", _comparison(study)), ("Figures", _figures(study))]
    return Section("Methods", [Text(text, lead=f"{lead}.") for lead, text in parts])


def _task(study: StudyResults) -> str:
    spec, kind = study.spec, measure(study)
    trials = [t for arm in study.searches for t in study.confirmation_trials(arm)]
    lengths = sorted({trial.steps for trial in trials} or {spec.steps})
    warmups = sorted({trial.warmup for trial in trials} or {WARMUP})
    if spec.learning.own_loop and not spec.steps:
        return (
            f"{spec.learning.summary}. The user's training loop decides how long a run takes, so the arms are equal in "
            "the number of trials only; the seconds per run are in the table of costs."
            + (f" Arms are compared by {kind.title(kind.metric)}; {kind.better} is better." if not kind.is_loss else "")
        )
    length = " or ".join(str(steps) for steps in lengths)
    warmup = " or ".join(f"{100 * part:.3g} %" for part in warmups)
    judged = f" Arms are compared by {kind.title(kind.metric)}; {kind.better} is better." if not kind.is_loss else ""
    return (
        f"{spec.learning.summary}. A run takes {length} optimizer steps, including a warm-up over the first {warmup} "
        f"of the steps.{judged}{_precision(study)}"
    )


def _precision(study: StudyResults) -> str:
    """Return in which precision the model and the loss were computed; empty for a training loop of the user."""
    if study.spec.learning.own_loop:
        return ""
    found = sorted({study.spec.task_of(arm).precision for arm in study.spec.arms})
    named = {"float32": "float32", "bfloat16": "bfloat16 (autocast; parameters and optimizers are float32)"}
    text = " or ".join(named[precision] for precision in found)
    return f" Model and loss were computed in {text}{', as the arms say' if len(found) > 1 else ''}."


def _tuning(study: StudyResults) -> str:
    spec = study.spec
    names = describe_searched(study)
    extended = max(len(s.points) for s in study.searches.values()) - spec.searches * spec.trials - 1
    what = (
        f"The search covered {names}; the other hyperparameters were fixed as listed above."
        if names
        else "Nothing was searched, because the user had fixed all hyperparameters that this budget searches."
    )
    more = f", {spec.searches} times, each time with different points and a different seed" if spec.searches > 1 else ""
    short = ""
    if spec.horizon < 1:
        short = f" Tuning runs took {100 * spec.horizon:g} % of the steps, with the schedule shortened to fit."
    extension = (
        f"this happened and gave every tuned arm {extended} more trials" if extended > 0 else "this was not necessary"
    )
    return (
        f"Every arm was tuned by running its documented default and {spec.trials} points of a scrambled Sobol "
        f"sequence, each on one seed{more}. The points of the unit cube were the same for all arms.{short} {what} If "
        "an optimum lies in the outer tenth of its range, or if all trials of an arm fail, the range is extended by a "
        f"decade, up to twice, with the same number of further trials for every arm; {extension}. The configuration "
        f"with the best validation result at the end of the schedule was selected{_again(study)}."
    )


def _again(study: StudyResults) -> str:
    count = max(len(search.finalists) for search in study.searches.values())
    if not count:
        return ""
    return (
        f", after the best {count} configurations were run on {AGAIN} more seeds and compared by their mean over all "
        f"{AGAIN + 1} seeds. Among means within one standard error of the best, the one farthest from failed trials "
        "was selected"
    )


def _confirmation(study: StudyResults) -> str:
    how = ". A seed determines the initialisation, the order of the data and the dropout, in the same way for every arm"
    if study.spec.learning.own_loop:
        how = ". A seed determines what the user's training loop makes of it, and is the same for every arm"
    if any(arm.twin for arm in study.spec.arms):
        how = ", which differ between the arms because this is a self-check"
    return (
        f"The selected configuration was trained on {study.seeds} fresh seeds{how}. {_split(study)}"
        f"{' ' if study.explain_stopping() else ''}{study.explain_stopping()}"
    )


def _split(study: StudyResults) -> str:
    kinds = {o.test_set.get("kind") for arm in study.searches for o in study.confirmation(arm)}
    if "validation" in kinds:
        return (
            "The training loop reported no test metric, so the runs were compared on the validation data, which also "
            "selected the configurations."
        )
    if not study.spec.resplit:
        return (
            "The test split was used once, at the end of these runs. It decided nothing except when to stop adding "
            "seeds."
        )
    return (
        "Every seed drew its own split of the data into training, validation and test sets, which was the same for all "
        "arms. Tuning used one further split. Its examples also occur in later test sets, which does not favour any "
        "arm. Test results decided nothing except when to stop adding seeds."
    )


def _comparison(study: StudyResults) -> str:
    kind = measure(study)
    text = "There is only one arm, so there is no comparison."
    if study.comparisons:
        pairs = sum(result.comparison is not None for result in study.comparisons.values())
        what = "log ratios of" if kind.log_ratio else "differences in"
        text = (
            f"Arms are compared with {study.baseline} by two-sided paired t-tests on the {what} "
            f"{kind.name(kind.test)}, Holm-corrected over {plural(pairs, 'comparison')}, at a level of 5 %"
            f"{_looks(study)}. {_variance(study)}"
        )
    if study.comparisons and study.margin is not None:
        text += f" Equivalent means that the interval is inside ±{margin_text(study, study.margin)}, the user's margin."
    return (
        f"{text} If any run of an arm failed, the numbers of failed runs are compared instead of the means. A run "
        "fails if its loss is not finite, diverges, or ends no better than a predictor that ignores its input."
    )


def _looks(study: StudyResults) -> str:
    looks = study.spec.looks
    if len(looks) == 1:
        return ""
    return f" over all sequential looks (after {', '.join(map(str, looks[:-1]))} and {looks[-1]} seeds)"


def _variance(study: StudyResults) -> str:
    """Return which sources of randomness the intervals cover and how, for the designs in the study."""
    designs = {type(r.comparison.design): r.comparison.design for r in study.comparisons.values() if r.comparison}
    sentences = {
        FixedTestSet: "Seeds and test examples are both random: the variance of the mean difference is that of the "
        "crossed two-way design, [MS_S + max(0, MS_E − MS_R)] / (S · E), with the mean squares of seeds, examples and "
        "residual. The training set is fixed.",
        RandomSplits: "Seeds, splits and examples are random: the variance of the mean difference is s²/n + c/N. Here "
        "s² is the variance over the n seeds, c is the covariance of an example's differences in the test sets of "
        "different seeds (or their variance, if too few examples occur in several test sets), and N is the size of the "
        "pool.",
        RandomSplitMeans: "Seeds and splits are random: the variance of the mean difference is "
        "s² (1/n + n_test/n_train) (Nadeau and Bengio 2003), because the task has no losses() method.",
        SeedsOnly: "Only the seeds are random, so verdicts hold only for this test set: "
        + "; ".join(design.reason for design in designs.values() if design.reason)
        + ".",
    }
    return " ".join(sentences[kind] for kind in sentences if kind in designs)


def _figures(study: StudyResults) -> str:
    return (
        "The sensitivity to the learning rate is the mean of min(ℓ, ℓ₀) − ℓ* over the decades tried, where ℓ is the "
        "loss, interpolated linearly over the logarithm of the rate, ℓ₀ is the loss of a predictor that ignores its "
        "input, and ℓ* is the best loss. The expected best of k random trials is computed exactly over all subsets of "
        "k of the trials that were run; a failure counts as ℓ₀. The target for the time to target is the median of the "
        "final results of the baseline's confirmation runs. A run that misses the target counts as infinite."
    )


TOPIC = Topic(methods)
