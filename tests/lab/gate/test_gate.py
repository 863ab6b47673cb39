"""Proposals, judged with real runs of a small script."""

import json
import os

import pytest

from fallline.errors import ArgumentError, GateError
from fallline.lab.gate.ledger import Ledger
from support.gates import Referee, command, write_script

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs the processes of POSIX")


@pytest.fixture
def referee(tmp_path):
    return Referee(tmp_path)


def test_an_improvement_is_kept_and_becomes_the_baseline(referee):
    """And all series have fresh seeds."""
    first = referee(command("gain=0.5"))
    assert (first.verdict, first.pairs, first.exit_code, first.proposal, first.level) == ("keep", 4, 0, 1, 0.025)
    assert first.gain == pytest.approx(0.5) and first.low > 0
    second = referee(command("gain=0.5", "tag=x"))
    assert (second.verdict, second.reason) == (
        "not shown",
        "stopped after 4 pairs because both arms gave identical results",
    )
    assert second.level == pytest.approx(0.025 / 99)
    assert second.baseline == second.candidate and max(second.baseline) < 2.8
    assert (second.left, second.next_level) == (98, second.level)
    assert not set(first.seeds) & set(second.seeds)
    assert str(first).splitlines()[0] == "KEEP: stopped after 4 pairs because the improvement is significant"


def test_a_larger_metric_is_better_with_mode_max(tmp_path):
    referee = Referee(tmp_path, mode="max", max_seeds=4)
    assert referee(command("gain=0.5")).verdict == "not shown"
    better = referee(command("gain=-0.5"))
    assert better.verdict == "keep" and better.gain == pytest.approx(0.5)


def test_the_margin_must_be_exceeded(tmp_path):
    assert Referee(tmp_path, margin=0.6)(command("gain=0.5")).verdict == "not shown"


def test_a_proposal_that_is_repeated_spends_the_next_level(referee):
    referee(command("gain=-1"))
    assert [referee(command("gain=-1")).proposal for _ in range(2)] == [2, 3]


def test_the_call_that_kept_a_change_gives_its_answer_again(referee):
    answer = referee(command("gain=0.5"))
    assert referee(command("gain=0.5")) == answer
    referee(command("gain=-1"))
    with pytest.raises(ArgumentError, match="candidate: must differ from the current baseline in its command or its"):
        referee(command("gain=0.5"))


def test_a_call_without_a_candidate_repeats_the_last_answer(referee):
    answer = referee(command("gain=-1"))
    before = len(Ledger(referee.session).records)
    assert referee() == answer
    assert len(Ledger(referee.session).records) == before


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("if gain: sys.exit('boom')", "ended with exit code 1: boom"),
        ("if gain: print('val_loss nan'); sys.exit()", "has val_loss = nan"),
        ("if gain: print('val_loss -1e200'); sys.exit()", "has val_loss = -1e+200"),
        ("if gain: sys.exit()", "has no val_loss in its output"),
        ("if gain: os.kill(os.getpid(), 9)", "was ended by signal SIGKILL"),
    ],
)
def test_a_candidate_that_fails_is_not_shown(referee, then, reason):
    write_script(referee.work, then=f"import os\n{then}")
    answer = referee(command("gain=0.5"))
    assert (answer.verdict, answer.gain, answer.detectable, answer.pairs) == ("not shown", None, None, 0)
    assert answer.reason == f"the candidate with seed {Ledger(referee.session).find('run')[0]['seed']} {reason}"
    assert len(Ledger(referee.session).find("run")) == 2
    assert referee().reason == answer.reason


def test_a_candidate_that_fails_late_keeps_the_last_estimate(tmp_path):
    referee = Referee(tmp_path)
    marker = tmp_path / "runs"
    write_script(
        referee.work,
        then=f"log = open({str(marker)!r}, 'a'); log.write('x'); log.flush()\n"
        f"if gain and open({str(marker)!r}).read().count('x') > 10: sys.exit(3)",
    )
    answer = referee(command("gain=0.001", "own=1"))
    assert "ended with exit code 3" in answer.reason
    assert answer.gain is not None and answer.pairs == 5 and answer.verdict == "not shown"


def test_a_run_that_takes_too_long_fails(tmp_path):
    referee = Referee(tmp_path, timeout=2.0)
    write_script(referee.work, then="if gain: time.sleep(60)")
    assert "exceeded its time limit and was stopped after 2 s" in referee(command("gain=0.5")).reason


def test_a_baseline_that_fails_is_an_error_that_spends_nothing(referee, tmp_path):
    marker = tmp_path / "works"
    fail = "time.sleep(0 if gain else 0.5); sys.exit('no data')"  # with two jobs the candidate fails first
    write_script(referee.work, then=f"import os\nif not os.path.exists({str(marker)!r}): {fail}")
    for jobs in (1, 2):
        with pytest.raises(GateError, match=r"baseline with seed .* ended with exit code 1: no data. .* rerun the"):
            referee(command("gain=0.5"), jobs=jobs)
    marker.touch()
    answer = referee(command("gain=0.5"))
    assert (answer.verdict, answer.proposal, answer.level) == ("keep", 1, 0.025)
    assert len(Ledger(referee.session).find("proposal")) == 1


def test_a_proposal_that_never_reached_a_look_returns_its_level(referee, tmp_path):
    marker = tmp_path / "works"
    write_script(referee.work, then=f"import os\nif not os.path.exists({str(marker)!r}): sys.exit('no data')")
    with pytest.raises(GateError):
        referee(command("gain=0.5"))
    marker.touch()
    assert referee(command("gain=0.6")).proposal == 1


def test_a_baseline_that_ignores_its_seed_cannot_be_judged(referee):
    write_script(referee.work, then="random.seed(0)")
    with pytest.raises(
        GateError, match=r"gave val_loss = 3.\d+ with 4 different seeds, .* use \{seed\} for its initial"
    ):
        referee(command("gain=0.5"))


@POSIX
def test_several_runs_at_a_time_give_the_same_answer(tmp_path):
    one, three = (Referee(tmp_path / name) for name in ("one", "three"))
    left, right = one(command("gain=0.01", "own=1")), three(command("gain=0.01", "own=1"), jobs=3)
    assert left.to_json() | {"session": ""} == right.to_json() | {"session": ""}


def test_no_edit_enters_a_running_proposal(tmp_path):
    """The script overwrites the user's file in its first run; all runs of the series still run the copy."""
    referee = Referee(tmp_path)
    original = referee.work / "train.py"
    write_script(referee.work, then=f"open({str(original)!r}, 'w').write('broken(')")
    answer = referee(command("gain=0.5"))
    assert answer.verdict == "keep" and original.read_text() == "broken("
    write_script(referee.work)
    assert min(referee(command("gain=-1")).baseline) < 2.8  # the baseline is the copy that was kept


def test_whether_the_baseline_is_deterministic_is_checked_once(referee):
    assert referee(command("gain=-1"), check=True).deterministic is True
    assert "deterministic" in str(referee(command("gain=-2"), check=True))
    assert len(Ledger(referee.session).find("check")) == 1
    write_script(referee.work / "other", then="random.seed(time.time_ns())")
    other = Referee(referee.work)
    other.work = referee.work / "other"
    assert other(command("gain=-1"), check=True).deterministic is False


def test_noise_that_earlier_proposals_share_is_tested_as_pairs(referee):
    """The two arms have the same noise, so after 8 pairs the differences decide."""
    answers = [referee(command(f"gain=-0.00{i}")) for i in (1, 2)]
    assert [answer.noise for answer in answers] == ["independent"] * 2
    shared = referee(command("gain=0.001"))
    assert (shared.noise, shared.verdict, shared.pairs) == ("shared", "keep", 4)


def test_proposal_101_is_refused(referee):
    answer = referee(command("gain=-1"))
    ledger = Ledger(referee.session)
    (proposal,), (record,) = ledger.find("proposal"), ledger.find("answer")
    for series in range(1, 100):
        ledger.append(**{**proposal, "series": series, "number": series + 1})
        ledger.append(**{**record, "series": series, "proposal": series + 1})
    before = (referee.session / "ledger.jsonl").read_bytes()
    with pytest.raises(
        GateError, match=r"has judged 100 proposals and spent its error budget of 0\.05\. Start a new sess"
    ):
        referee(command("gain=0.5"))
    assert (referee.session / "ledger.jsonl").read_bytes() == before
    assert answer.left == 99


def test_a_metric_in_a_file_must_be_written_by_the_run(tmp_path):
    write = "open({out!r}, 'w').write('{{\"a\": {{\"loss\": %s}}}}' % (3 + random.gauss(0, 1) - 9 * gain))"
    fresh = Referee(tmp_path / "fresh", metric_file="{out}/m.json:a.loss")
    write_script(
        fresh.work, then="out = options['out'] + '/m.json'\n" + write.format(out="OUT").replace("'OUT'", "out")
    )
    answer = fresh(command("gain=1", "out={out}"), baseline=command("out={out}"), jobs=2)
    assert answer.verdict == "keep"
    stale = Referee(tmp_path / "stale", metric_file="m.json:loss")
    (stale.work / "m.json").write_text(json.dumps({"loss": 1.0}))
    with pytest.raises(GateError, match=r"has no val_loss in its file 'm.json:loss'"):
        stale(command("gain=1"))
    with pytest.raises(ArgumentError, match=r"metric_file: must contain \{out\} if several runs write it at a time"):
        stale(command("gain=1"), jobs=2)


def test_fdr_has_no_last_proposal(tmp_path):
    answer = Referee(tmp_path, control="fdr")(command("gain=0.5"))
    assert answer.level == pytest.approx(0.01094, abs=1e-5)
    assert (answer.left, answer.control) == (None, "fdr")
    assert answer.next_level > answer.level  # a kept change pays for later ones
