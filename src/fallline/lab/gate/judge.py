"""Run the pairs of a proposal until the rule stops, and return the answer."""

import math
from collections.abc import Callable

from fallline.errors import GateError
from fallline.lab.gate.answer import KEEP, NOT_SHOWN, Answer, explain
from fallline.lab.gate.budget import count_left, next_level
from fallline.lab.gate.levels import STEP
from fallline.lab.gate.rule import Look, Rule
from fallline.lab.gate.runs import Item, Outcome, Runner, run_each
from fallline.lab.gate.session import BASELINE, CANDIDATE, HOLD_OUT, Proposal, Session

Progress = Callable[[int, int], None]  # runs that are finished, and their largest number


class _CandidateFailure(Exception):
    """The candidate has failed with a seed; its message is the reason."""


def judge(session: Session, proposal: Proposal, runner: Runner, jobs: int, progress: Progress) -> Answer:
    """Run the pairs that are missing, look at them as the rule does, and record and return the answer.

    Raises:
        GateError: the baseline fails, or does not depend on the seed.
    """
    settings = session.settings
    rule = Rule(proposal.level, settings["max_seeds"], settings["margin"], proposal.paired)
    sign = 1.0 if proposal.mode == "min" else -1.0
    seeds = session.seeds(proposal.series)
    look, verdict, reason = None, NOT_SHOWN, ""
    try:
        for n in rule.looks:
            _run_missing(session, proposal, seeds[:n], runner, jobs, progress)
            baseline, candidate = session.pairs(proposal.series)
            if n == STEP and len(set(baseline)) == 1:
                raise GateError(
                    f"The baseline gave {proposal.metric} = {baseline[0]:g} with {STEP} different seeds, so its noise "
                    "is unknown. Make the script use {seed} for its initial weights and the order of its data"
                )
            look = rule.look([sign * value for value in baseline[:n]], [sign * value for value in candidate[:n]])
            if look.stop:
                verdict, reason = (KEEP if look.stop == "success" else NOT_SHOWN), explain(look.stop, n)
                break
    except _CandidateFailure as failure:
        reason = str(failure)
    return _record(session, proposal, look, verdict, reason)


def _run_missing(
    session: Session, proposal: Proposal, seeds: list[int], runner: Runner, jobs: int, progress: Progress
) -> None:
    """Run both arms with the seeds for which no outcome is stored."""
    found = session.outcomes(proposal.series)
    _check_candidate(found)
    missing = [(arm, seed) for seed in seeds for arm in (BASELINE, CANDIDATE) if (arm, seed) not in found]
    most = 2 * session.settings["max_seeds"]

    def run(item: Item) -> Outcome:
        return runner.run(proposal.arms[item[0]], item[1])

    def finish(items: list[Item]) -> None:
        for item, outcome in run_each(items, jobs, run):
            session.record_run(proposal, *item, outcome)
            if outcome.problem and item[0] == BASELINE:
                raise GateError(
                    f"The baseline with seed {item[1]} {outcome.problem}. Correct it, or what it needs, and rerun the "
                    "same command to resume; the proposal has not spent its level"
                )
            found[item] = outcome
            progress(len(found), most)

    finish(missing)
    failed = [seed for (_, seed), outcome in found.items() if outcome.problem]
    # With several jobs the candidate may fail before the baseline, which would fail for the same reason.
    finish([(BASELINE, seed) for seed in failed if (BASELINE, seed) not in found])
    _check_candidate(found)


def _check_candidate(outcomes: dict[Item, Outcome]) -> None:
    for (_, seed), outcome in outcomes.items():
        if outcome.problem:
            raise _CandidateFailure(f"the candidate with seed {seed} {outcome.problem}")


def check_repeat(session: Session, proposal: Proposal, runner: Runner) -> None:
    """Run the baseline twice with one seed, once per session, and record whether it gave the same value.

    Raises:
        GateError: the baseline fails.
    """
    if session.ledger.find("check"):
        return
    seed = session.seeds(proposal.series)[0]
    values = []
    stored = session.outcomes(proposal.series).get((BASELINE, seed))
    for repeat in range(2):
        outcome = stored if stored is not None and repeat == 0 else runner.run(proposal.arms[BASELINE], seed)
        if outcome.value is None:
            raise GateError(f"The baseline with seed {seed} {outcome.problem}. Correct it and rerun the same command")
        if repeat == 0 and stored is None:
            session.record_run(proposal, BASELINE, seed, outcome)
        values.append(outcome.value)
    session.ledger.append("check", seed=seed, values=values, deterministic=values[0] == values[1])


def _record(session: Session, proposal: Proposal, look: Look | None, verdict: str, reason: str) -> Answer:
    """Write the answer to the ledger and return it."""
    control, number = session.settings["control"], proposal.number
    baseline, candidate = session.pairs(proposal.series)
    pairs = look.pairs if look is not None and look.stop else len(baseline)
    left, following = _budget(session, number, verdict == KEEP)
    checks = session.ledger.find("check")
    answer = Answer(
        verdict=verdict,
        reason=reason,
        metric=proposal.metric,
        gain=None if look is None else look.gain,
        low=None if look is None else look.low,
        high=None if look is None else look.high,
        margin=session.settings["margin"],
        detectable=None if look is None else look.detectable,
        p=None if look is None else look.p,
        nominal=None if look is None else look.nominal,
        level=proposal.level,
        pairs=pairs,
        max_seeds=session.settings["max_seeds"],
        noise="shared" if proposal.paired else "independent",
        proposal=number,
        control=control,
        left=left,
        next_level=following,
        deterministic=checks[-1]["deterministic"] if checks else None,
        seeds=session.seeds(proposal.series)[:pairs],
        baseline=baseline[:pairs],
        candidate=candidate[:pairs],
        session=str(session.folder),
    )
    session.ledger.append("answer", series=proposal.series, **answer.to_json())
    return answer


def _budget(session: Session, number: int, kept: bool) -> tuple[int | None, float | None]:
    """Return how many proposals may follow, and the level of the next one; None for no limit and for no level."""
    control = session.settings["control"]
    if number == HOLD_OUT:
        return None, None
    left = count_left(control, number)
    following = next_level(control, [*session.verdicts[:-1], kept]) if left > 0 else None
    return (None if math.isinf(left) else int(left)), following
