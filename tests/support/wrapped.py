"""Stand-ins for the wrappers of other libraries, with the attributes of the real ones."""

from types import SimpleNamespace

import torch
from torch import nn


class FullyShardedDataParallel(nn.Module):
    """FSDP1: the model inside, with flat pieces of its parameters (use_orig_params=True) or one flat parameter."""

    def __init__(self, module, flat):
        super().__init__()
        if flat:
            values = torch.cat([param.detach().flatten() for param in module.parameters()])
            for child in module.modules():
                child._parameters.clear()
            module.register_parameter("_flat_param", nn.Parameter(values))
        else:
            params = list(module.parameters())
            shapes = [param.shape for param in params]
            for param in params:
                param.data = param.data.flatten()
            self._handle = SimpleNamespace(flat_param=SimpleNamespace(_params=params, _shapes=shapes))
        self._fsdp_wrapped_module = module

    @property
    def module(self):
        return self._fsdp_wrapped_module


class Prepared(torch.optim.Optimizer):
    """accelerate's AcceleratedOptimizer: it does not call PyTorch's constructor."""

    def __init__(self, optimizer, processes=1, scaler=None):
        self.optimizer = optimizer
        self.accelerator_state = SimpleNamespace(num_processes=processes)
        self.scaler = scaler
        self.step_was_skipped = self._accelerate_step_called = False

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure=None):
        if self.scaler is None:
            self.optimizer.step(closure)
        else:
            own = self.optimizer.step
            self.optimizer.step = patch_optimizer_step(self, own)
            self.scaler.step(self.optimizer, closure)
            self.scaler.update()
            self.step_was_skipped = not self._accelerate_step_called
            self.optimizer.step, self._accelerate_step_called = own, False

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


def patch_optimizer_step(accelerated_optimizer, method):
    """accelerate's function of this name."""

    def patched_step(*args, **kwargs):
        accelerated_optimizer._accelerate_step_called = True
        return method(*args, **kwargs)

    return patched_step


class PreparedScheduler:
    """accelerate's AcceleratedScheduler."""

    def __init__(self, scheduler, optimizers, step_with_optimizer=True, split_batches=False):
        self.scheduler = scheduler
        self.optimizers = optimizers
        self.step_with_optimizer = step_with_optimizer
        self.split_batches = split_batches


class Lightning:
    """Lightning's LightningOptimizer, which is no torch.optim.Optimizer."""

    def __init__(self, optimizer):
        self._optimizer = optimizer

    optimizer = property(lambda self: self._optimizer)
