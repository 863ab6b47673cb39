"""Judge a proposed change of a training script against the current baseline, within the error budget of a session."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fallline.arguments import check_integer, check_number
from fallline.errors import ArgumentError, GateError
from fallline.lab.command import Source
from fallline.lab.command.metrics import find_mode
from fallline.lab.gate.answer import Answer
from fallline.lab.gate.budget import check_control
from fallline.lab.gate.judge import Progress, check_repeat, judge
from fallline.lab.gate.ledger import LEDGER, lock_session
from fallline.lab.gate.levels import STEP
from fallline.lab.gate.runs import OUT, Arm, Runner, check_command
from fallline.lab.gate.session import CANDIDATE, Proposal, Session
from fallline.lab.gate.trees import Tree, check_out, copy_tree

FOLDER = "fallline-runs/gate"
TREES = "trees"  # folder of the copies of the files, in that of the session
MOST_SEEDS = 128
_DEFAULTS = {
    "baseline_rev": None,
    "metric_regex": "",
    "metric_file": "",
    "margin": 0.0,
    "max_seeds": 32,
    "control": "family",
    "final_command": None,
    "seed": None,
}


def gate(
    baseline: str | None = None,
    candidate: str | None = None,
    metric: str | None = None,
    *,
    margin: float | None = None,
    max_seeds: int | None = None,
    session: str | Path = FOLDER,
    baseline_rev: str | None = None,
    control: str | None = None,
    mode: str | None = None,
    metric_regex: str | None = None,
    metric_file: str | None = None,
    timeout: float | None = None,
    jobs: int = 1,
    check: bool = False,
    final: bool = False,
    final_command: str | None = None,
    seed: int | None = None,
    folder: str | Path | None = None,
    progress: Progress = lambda done, most: None,
) -> Answer:
    r"""Decide whether a change of a training script is an improvement that is worth keeping.

    Both commands run with the same fresh seeds, four at a time, until the improvement is significant, has become
    unlikely, or all seeds are used. A candidate that is kept becomes the baseline of the next proposal. All proposals
    of a session share one error budget. A call with the same candidate resumes a proposal that was interrupted; a call
    without a candidate resumes it too, or returns the last answer. The files around the working folder are copied when
    a proposal starts.

    Args:
        baseline: command of the baseline, with {seed}; {out} stands for a new folder for every run. Only the first call
            of a session needs it.
        candidate: command of the candidate.
        metric: name of the metric in the output. This and the arguments that follow up to `metric_file`, except
            `session`, and `final_command` and `seed` hold for the whole session; later calls may leave them out.
        margin: improvement that must be exceeded, in the unit of the metric; 0 by default.
        max_seeds: largest number of seeds of a proposal, a multiple of 4 up to 128; 32 by default.
        session: folder of the session.
        baseline_rev: git revision with which the baseline runs, in a worktree.
        control: "family" (the default) limits the probability of keeping any useless change to 5 %, for at most 100
            proposals; "fdr" limits the expected share of useless changes among those kept to 5 %.
        mode: "min" if smaller values are better, else "max"; by default what the name of the metric implies.
        metric_regex: regular expression whose group is the metric.
        metric_file: FILE:KEY of a JSON, JSONL or CSV file with the metric.
        timeout: time limit of a run in seconds.
        jobs: number of runs at a time.
        check: run the baseline twice with one seed, once per session, to see whether it is deterministic.
        final: run the hold-out test: the current baseline against the first one, with `final_command`, fresh seeds and
            the level 0.05. A second call returns the stored answer. `metric`, `mode`, `metric_regex` and `metric_file`
            may differ from those of the session.
        final_command: command of the hold-out test; {command} stands for the command of the arm.
        seed: seed from which the seeds of all runs follow; random by default.
        folder: working folder of the commands; the current one by default.
        progress: called after each run with the number of finished runs and their largest number.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is invalid, or differs from that of the session.
        GateError: the proposal cannot be judged: the baseline fails or ignores its seed, the error budget is spent, or
            another process uses the session.

    Example:
        >>> import sys, tempfile
        >>> script = sys.executable + " -c 'import random; random.seed({seed}); print(\"loss\", random.random() - %s)'"
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     answer = gate(script % 0, script % 2, "loss", session=f"{empty}/session", seed=1, folder=empty)
        >>> answer.verdict, answer.pairs, round(answer.gain), answer.proposal, answer.level
        ('keep', 4, 2, 1, 0.025)
    """
    check_integer("gate", "jobs", jobs, 1, "pass 1 for one run at a time")
    if timeout is not None:
        check_number("gate", "timeout", timeout, above_zero=True, remedy="pass seconds")
    settings = {
        "baseline": baseline,
        "baseline_rev": baseline_rev,
        "metric": metric,
        "mode": mode,
        "metric_regex": metric_regex,
        "metric_file": metric_file,
        "margin": margin,
        "max_seeds": max_seeds,
        "control": control,
        "final_command": final_command,
        "seed": seed,
    }
    _check_settings(settings)
    place, work = Path(session), Path.cwd() if folder is None else Path(folder)
    if final or candidate is None:
        _check_begun(place)
    place.mkdir(parents=True, exist_ok=True)
    with lock_session(place):
        state = Session(place.resolve())
        if final:
            proposal = _find_hold_out(state, settings)
        else:
            if state.first is None:
                _begin(state, settings, candidate, work)
            state.check_settings(settings)
            proposal = _find_proposal(state, candidate, work)
        answer = state.answer(proposal.series)
        if answer is not None:
            return answer
        runner = _make_runner(state, proposal, timeout, jobs)
        if check:
            check_repeat(state, proposal, runner)
        return judge(state, proposal, runner, jobs, progress)


def _check_settings(given: Mapping[str, Any]) -> None:
    """Check the values that do not need a session."""
    if given["margin"] is not None:
        check_number("gate", "margin", given["margin"], remedy="pass it in the unit of the metric, such as 0.001")
    if given["control"] is not None:
        check_control(given["control"])
    if given["seed"] is not None:
        check_integer("gate", "seed", given["seed"], 0, "pass a whole number")
    if given["max_seeds"] is not None:
        most = check_integer("gate", "max_seeds", given["max_seeds"], STEP, "pass 32")
        if most % STEP or most > MOST_SEEDS:
            raise ArgumentError(
                f"gate: max_seeds must be a multiple of {STEP} up to {MOST_SEEDS}, because the results are examined "
                f"after every {STEP} pairs, got max_seeds={most}; pass {min(MOST_SEEDS, most // STEP * STEP)}"
            )
    Source(given["metric"] or "", given["metric_regex"] or "", given["metric_file"] or "")
    if given["metric"] is not None or given["mode"] is not None:
        find_mode(given["metric"] or "loss", given["mode"])


def _check_begun(place: Path) -> None:
    """Check that a session has begun in a folder."""
    if not (place / LEDGER).exists():
        raise GateError(
            f"No session has begun in {str(place)!r}. Pass --baseline, --candidate and --metric to begin one, or the "
            "--session of an earlier call"
        )


def _begin(state: Session, given: Mapping[str, Any], candidate: str | None, work: Path) -> None:
    """Begin a session: check the commands, copy the files of the baseline and record the settings."""
    for name in ("baseline", "metric"):
        if not given[name]:
            raise ArgumentError(f"{name}: must be given in the first call of a session, got none; pass --{name}")
    check_command("candidate", candidate or "", work)
    mode = find_mode(given["metric"], given["mode"])
    settings = {**_DEFAULTS, **{name: value for name, value in given.items() if value is not None}, "mode": mode}
    store = state.folder / TREES
    revision = given["baseline_rev"]
    tree = copy_tree(work, store) if revision is None else check_out(revision, work, store)
    check_command("baseline", settings["baseline"], tree.root / tree.folder)
    if (settings["baseline"], tree.digest) == (candidate, copy_tree(work, store).digest):
        raise _equal_arms(str(candidate))
    state.begin(settings, _make_arm(settings["baseline"], tree))


def _find_proposal(state: Session, candidate: str | None, work: Path) -> Proposal:
    """Return the proposal that a call names: a new one, or the last one if it is not finished or none is named."""
    if candidate is None:
        last = state.last()
        if last is None or (state.answer(last.series) is None and not state.is_open(last)):
            raise GateError(f"Session {str(state.folder)!r} has no proposal to resume. Pass --candidate")
        return last
    check_command("candidate", candidate, work)
    arm = _make_arm(candidate, copy_tree(work, state.folder / TREES))
    if (arm.command, arm.digest) == (state.baseline.command, state.baseline.digest):
        last = state.last()
        if last is not None and last.arms[CANDIDATE] == arm:  # the call that kept it, once more
            return last
        raise _equal_arms(candidate)
    return state.propose(arm)


def _find_hold_out(state: Session, given: Mapping[str, Any]) -> Proposal:
    """Return the hold-out test of a session, which is started by the first call."""
    stored = state.last(hold_out=True)
    if stored is not None:
        return stored
    state.check_settings(
        {k: v for k, v in given.items() if k != "final_command" and not k.startswith(("metric", "mo"))}
    )
    text = given["final_command"] or state.settings["final_command"]
    if not text:
        raise ArgumentError(
            "final_command: must be given for the hold-out test, got none; pass --final-command 'python test.py --seed "
            "{seed}', or use {command} in it for the command of the arm"
        )
    if state.settings["final_command"] is not None:
        state.check_settings({"final_command": given["final_command"]})
    if state.first is None or state.baseline == state.first:
        raise GateError("No change has been kept in this session, so the hold-out test has nothing to compare")
    arms = [arm.evaluate(text) for arm in (state.baseline, state.first)]
    for arm in arms:
        check_command("final_command", arm.command, state.folder / TREES / arm.tree / arm.folder)
    if (arms[0].command, arms[0].digest) == (arms[1].command, arms[1].digest):
        raise ArgumentError(
            "final_command: must differ between the first and the current baseline, which have the same files, got "
            f"{text!r}; use {{command}} in it for the command of the arm"
        )
    named = {name: value for name, value in given.items() if name.startswith("metric") and value is not None}
    mode = given["mode"] or (find_mode(given["metric"], None) if given["metric"] else state.settings["mode"])
    return state.hold_out(arms[0], arms[1], {**state.settings, **named, "mode": mode})


def _equal_arms(candidate: str) -> ArgumentError:
    return ArgumentError(
        f"candidate: must differ from the current baseline in its command or its files, got {candidate!r} for both; "
        "edit the files, or pass --baseline-rev HEAD in the first call if they are edited already"
    )


def _make_arm(command: str, tree: Tree) -> Arm:
    return Arm(command, tree.root.name, tree.folder, tree.digest)


def _make_runner(state: Session, proposal: Proposal, timeout: float | None, jobs: int) -> Runner:
    """Return what runs the commands of a proposal."""
    source = Source(**proposal.source)
    if jobs > 1 and source.file and f"{{{OUT}}}" not in source.file:
        raise ArgumentError(
            f"metric_file: must contain {{out}} if several runs write it at a time, got {source.file!r} with "
            f"jobs={jobs}; write to {{out}}, a new folder for every run, or pass -j 1"
        )
    return Runner(state.folder / TREES, source, timeout)
