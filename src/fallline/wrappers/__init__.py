"""What wraps an optimizer, or takes its place in the training loop."""

from fallline.wrappers.batchnorm import frozen_batchnorm
from fallline.wrappers.sam import SAM
from fallline.wrappers.step_in_backward import StepInBackward, step_in_backward

__all__ = ["SAM", "StepInBackward", "frozen_batchnorm", "step_in_backward"]
