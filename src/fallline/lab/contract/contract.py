"""Check the contract of a task by trying it out (docs/lab-protocol.md, section Tasks and their contract)."""

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

TRAINING = ("model", "batches", "size", "param_groups", "loss")  # what a measurement of training alone needs


@dataclass(frozen=True)
class Finding:
    """A point in which a task breaks the contract.

    Attributes:
        check: model, batches, size, splits, overlap, resplit, param_groups, loss, evaluate, losses, deterministic or
            overfit.
        severity: "error" when a study on the task would mean nothing, else "warning".
        message: what must hold, what was found and what to do, in a sentence.
    """

    check: str
    severity: str
    message: str


@dataclass(frozen=True)
class Examination:
    """What trying a task out has shown.

    Attributes:
        findings: the points in which it breaks the contract.
        val_items: items of the validation split; None when they could not be counted in the time.
    """

    findings: list[Finding]
    val_items: int | None = None


def check_task(task: Task, only: Collection[str] = CHECKS) -> list[Finding]:
    """Try a task out and return the warnings; takes seconds, and random number generators stay where they were.

    Args:
        task: the task; what its `skip_checks` names is not checked.
        only: the checks to run.

    Raises:
        StudyError: the task breaks the contract; every broken point is named, with what to do.

    Example:
        >>> from fallline.lab.tasks import Digits
        >>> check_task(Digits())
        []
    """
    return raise_errors(task, examine(task, only)).findings


def raise_errors(task: Task, found: Examination) -> Examination:
    """Return what was found of a task unless it is an error.

    Raises:
        StudyError: there are errors; all are listed.
    """
    errors = [
        f"{finding.message} (check {finding.check!r})" for finding in found.findings if finding.severity == "error"
    ]
    if errors:
        listed = errors[0] if len(errors) == 1 else "".join(f"\n  {i}. {text}" for i, text in enumerate(errors, 1))
        raise StudyError(f"task {task.name}: {listed}")
    return found


def find_breaches(task: Task) -> list[Finding]:
    """Return the points in which a task breaks the contract."""
    return examine(task).findings


def examine(task: Task, only: Collection[str] = CHECKS) -> Examination:
    """Try a task out.

    What needs something broken is not tried: a model that cannot be made has no loss.
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
        except FalllineError as error:  # a task's own word on its settings
            findings.append(Finding(check, "error", f"{check}: {error}"))
        except Exception as error:
            raised = describe(error, probing.source(task))
            text = f"it must run without an error, got {raised} in the check of {check}; call its methods by themselves"
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
