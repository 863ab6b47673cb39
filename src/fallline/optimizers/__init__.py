"""The optimizers, one a file. Written by `make names`."""

from fallline.optimizers.adam import Adam
from fallline.optimizers.adamw import AdamW
from fallline.optimizers.create import create_optimizer
from fallline.optimizers.lamb import LAMB
from fallline.optimizers.lion import Lion
from fallline.optimizers.nadamw import NAdamW
from fallline.optimizers.registry import OPTIMIZERS
from fallline.optimizers.rmsprop import RMSprop
from fallline.optimizers.sgd import SGD
from fallline.optimizers.step_in_backward import StepInBackward, step_in_backward

__all__ = [
    "LAMB",
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "NAdamW",
    "RMSprop",
    "StepInBackward",
    "create_optimizer",
    "step_in_backward",
]
