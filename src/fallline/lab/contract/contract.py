"""Check the contract of a task by calling its methods (docs/lab-protocol.md, section Tasks and their contract)."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import fallline.lab.contract.checks as checks
import fallline.lab.contract.item_checks as item_checks
import fallline.lab.contract.probes as probing
from fallline.errors import FalllineError, StudyError
from fallline.lab.isolation import as_in_a_worker, seed_everything
from fallline.lab.tasks import Task
from fallline.lab.tasks.base import CHECKS
from fallline.lab.user_code.import_path import describe

TRAINING = ("model", "batches", "size", "param_groups", "loss")  # checks for measurements that only train


@dataclass(frozen=True)
class Finding:
    """A violation of the contract by a task.

    Attributes:
        check: model, batches, size, splits, overlap, resplit, param_groups, loss, evaluate, losses, deterministic or
            overfit.
        severity: "error" if the results of a study on the task would be meaningless, else "warning".
        message: what must hold, what was found and what to do, in one sentence.
    """

    check: str
    severity: str
    message: str


@dataclass(frozen=True)
class Examination:
    """The result of checking a task.

    Attributes:
        findings: the violations of the contract.
        val_items: number of items of the validation split; None if there was not enough time to count them.
    """

    findings: list[Finding]
    val_items: int | None = None


def check_task(task: Task, only: Collection[str] = CHECKS) -> list[Finding]:
    """Check the contract of a task and return the warnings.

    This takes some seconds and leaves the random number generators as they were.

    Args:
        task: the task; checks that its `skip_checks` names are skipped.
        only: the checks to run.

    Raises:
        StudyError: the task breaks the contract; the message lists every violation with its remedy.

    Example:
        >>> from fallline.lab.tasks import Digits
        >>> check_task(Digits())
        []
    """
    return raise_errors(task, examine(task, only)).findings


def raise_errors(task: Task, found: Examination) -> Examination:
    """Return the result of checking a task if it contains no error.

    Raises:
        StudyError: the result contains errors; the message lists all of them.
    """
    errors = [
        f"{finding.message} (check {finding.check!r})" for finding in found.findings if finding.severity == "error"
    ]
    if errors:
        listed = errors[0] if len(errors) == 1 else "".join(f"\n  {i}. {text}" for i, text in enumerate(errors, 1))
        raise StudyError(f"task {task.name}: {listed}")
    return found


def find_breaches(task: Task) -> list[Finding]:
    """Return the violations of the contract by a task."""
    return examine(task).findings


def examine(task: Task, only: Collection[str] = CHECKS) -> Examination:
    """Run the checks of the contract on a task.

    A check is left out if it depends on one that failed; for example, without a model there is no loss to check.
    """
    findings: list[Finding] = []
    subject = checks.Subject(task)

    def usable(check: str, run: Callable[[checks.Subject], str | None]) -> bool:
        if check in task.skip_checks or check not in only:
            return True
        fatal = True
        try:
            message = run(subject)
        except checks.Breach as error:
            findings.append(Finding(check, "error", str(error)))
            fatal = error.fatal
        except FalllineError as error:  # raised by the task itself, for example about its settings
            findings.append(Finding(check, "error", f"{check}: {error}"))
        except Exception as error:
            raised = describe(error, probing.source(task))
            text = f"its methods must run without an error, got {raised} in the check of {check}; call them separately"
            findings.append(Finding(check, "error", text))
        else:
            findings.extend([Finding(check, "warning", message)] if message is not None else [])
            return True
        return not fatal

    with as_in_a_worker():
        seed_everything(0)
        model, batches = usable("model", checks.check_model), usable("batches", checks.check_batches)
        subject.sized = batches and usable("size", checks.check_size)
        splits = usable("splits", checks.check_splits)
        if batches and splits and usable("overlap", checks.check_overlap):
            usable("resplit", item_checks.check_resplit)
        if (
            model
            and batches
            and usable("param_groups", checks.check_param_groups)
            and usable("loss", checks.check_loss)
        ):
            if splits and usable("evaluate", checks.check_evaluate) and usable("losses", item_checks.check_losses):
                usable("deterministic", checks.check_deterministic)
            usable("overfit", checks.check_overfit)
    return Examination(findings, subject.val_items)
