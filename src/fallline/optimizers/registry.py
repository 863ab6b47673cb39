"""The optimizers by the names of their rules. Written by `make names`."""

from fallline.core.optimizer import Optimizer
from fallline.optimizers.adam import Adam
from fallline.optimizers.adamw import AdamW
from fallline.optimizers.lamb import LAMB
from fallline.optimizers.lion import Lion
from fallline.optimizers.nadamw import NAdamW
from fallline.optimizers.rmsprop import RMSprop
from fallline.optimizers.sgd import SGD

_CLASSES: tuple[type[Optimizer], ...] = (
    Adam,
    AdamW,
    LAMB,
    Lion,
    NAdamW,
    RMSprop,
    SGD,
)
OPTIMIZERS: dict[str, type[Optimizer]] = {cls.rule.name: cls for cls in _CLASSES}
