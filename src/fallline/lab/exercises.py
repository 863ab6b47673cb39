"""The three exercises of the course, as studies like any other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fallline.errors import ArgumentError


@dataclass(frozen=True)
class Exercise:
    """A question of the course, and the study that answers it.

    Attributes:
        question: in a sentence.
        task: on which the course asks it.
        others: tasks on which it can be asked too, the fastest first.
        optimizers, schedules, vary: what is compared.
        baseline: the arm to compare with.
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
        "Which of SGD with momentum, Adam and AdamW converges fastest, and which ends best?",
        "cifar10",
        _IMAGES,
        ("momentum", "adam", "adamw"),
        baseline="momentum",
    ),
    2: Exercise(
        "What does the decay of the learning rate bring, and does its shape matter?",
        "cifar10",
        _IMAGES,
        ("momentum",),
        ("constant", "step", "cosine"),
        baseline="momentum + constant",
    ),
    3: Exercise(
        "What does warm-up do for a transformer: gradient norms, losses, spikes?",
        "text-post",
        ("text", "cifar10-vit", "digits"),
        ("adamw",),
        vary={"warmup": (0.0, 0.05)},
        baseline="adamw, warmup=0",
    ),
}

# Steps of a run under --quick, where the task's own would not let two cores finish in three minutes.
QUICK_STEPS = {"text": 200, "text-post": 200}


def get_exercise(number: int) -> Exercise:
    """Return an exercise.

    Raises:
        ArgumentError: there is none of that number.
    """
    if number not in EXERCISES:
        raise ArgumentError(
            f"exercise: must be one of {', '.join(map(str, EXERCISES))}, got {number}; 1 compares optimizers"
        )
    return EXERCISES[number]
