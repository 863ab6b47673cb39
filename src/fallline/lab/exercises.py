"""The three exercises of the course, defined as ordinary studies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fallline.errors import ArgumentError


@dataclass(frozen=True)
class Exercise:
    """A question of the course, and the study that answers it.

    Attributes:
        question: the question in one sentence.
        task: the task that the course uses.
        others: other tasks that can be used, the fastest first.
        optimizers, schedules, vary: the arms to compare; see `compare`.
        baseline: the arm that the others are compared with.
    """

    question: str
    task: str
    others: tuple[str, ...]
    optimizers: tuple[str, ...]
    schedules: tuple[str, ...] = ("cosine",)
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    baseline: str = ""


_IMAGES = ("digits", "digits-cnn", "fashion-mnist", "text")
EXERCISES: dict[int, Exercise] = {
    1: Exercise(
        "Which of SGD with momentum, Adam and AdamW converges fastest, and which gives the best final result?",
        "cifar10",
        _IMAGES,
        ("momentum", "adam", "adamw"),
        baseline="momentum",
    ),
    2: Exercise(
        "How much does learning rate decay improve the result, and does the shape of the decay matter?",
        "cifar10",
        _IMAGES,
        ("momentum",),
        ("constant", "step", "cosine"),
        baseline="momentum + constant",
    ),
    3: Exercise(
        "How does warm-up affect the gradient norms, losses and loss spikes of a transformer?",
        "text-post",
        ("text", "cifar10-vit", "digits"),
        ("adamw",),
        vary={"warmup": (0.0, 0.05)},
        baseline="adamw, warmup=0",
    ),
}

# Steps per run with --quick, for tasks whose default number of steps would take two cores more than three minutes.
QUICK_STEPS = {"text": 200, "text-post": 200}


def get_exercise(number: int) -> Exercise:
    """Return an exercise.

    Raises:
        ArgumentError: there is no exercise with this number.
    """
    if number not in EXERCISES:
        raise ArgumentError(
            f"exercise: must be one of {', '.join(map(str, EXERCISES))}, got {number}; 1 compares optimizers"
        )
    return EXERCISES[number]
