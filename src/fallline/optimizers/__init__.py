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

__all__ = [
    "LAMB",
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "Lion",
    "NAdamW",
    "RMSprop",
    "create_optimizer",
]
