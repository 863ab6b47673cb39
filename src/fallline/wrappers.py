"""See through the wrappers that libraries put around a model, an optimizer or a scheduler."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_MODULES = {  # class of a wrapper: its attribute that holds the model; names, so that nothing is imported for them
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "DeepSpeedEngine": "module",
    "OptimizedModule": "_orig_mod",  # torch.compile
    "CheckpointWrapper": "_checkpoint_wrapped_module",  # activation checkpointing
}


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DDP, FSDP, DeepSpeed, `torch.compile` and activation checkpointing."""
    while True:
        names = (_MODULES[cls.__name__] for cls in type(model).__mro__ if cls.__name__ in _MODULES)
        inner = next((getattr(model, name, None) for name in names), None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def walk(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules of a model with the prefixes of their names, without wrappers."""
    model = unwrap_model(model)
    yield prefix, model
    for name, child in model.named_children():
        yield from walk(child, f"{prefix}{name}.")


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Yield each parameter with its name without wrappers and its module, once per place if it is tied.

    Example:
        >>> from torch import nn
        >>> [name for name, _, _ in named_parameters(nn.DataParallel(nn.Linear(2, 2)))]
        ['weight', 'bias']
    """
    for prefix, module in walk(model):
        for name, param in module.named_parameters(recurse=False):
            yield prefix + name, param, module


def hidden_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters that stand for those of several layers, by name: the flat ones of FSDP1."""
    return {
        name: param
        for name, param in model.named_parameters()
        if param.requires_grad and name.rpartition(".")[2] == "_flat_param"
    }


def dimensions(model: nn.Module) -> dict[int, int]:
    """Return the number of dimensions of each parameter by its id; FSDP1 keeps flat pieces in place of parameters."""
    found = {id(param): param.dim() for param in model.parameters()}
    for module in model.modules():
        flat = getattr(getattr(module, "_handle", None), "flat_param", None)
        params, shapes = getattr(flat, "_params", None) or (), getattr(flat, "_shapes", ())
        found |= {id(param): len(shape) for param, shape in zip(params, shapes, strict=False)}
    return found


def unwrap_optimizer(optimizer: Any) -> Any:
    """Return the optimizer inside an object that is none itself, such as Lightning's `LightningOptimizer`."""
    inner = getattr(optimizer, "optimizer", None)
    return inner if isinstance(inner, Optimizer) and not isinstance(optimizer, Optimizer) else optimizer


def unwrap_scheduler(scheduler: Any) -> Any:
    """Return the scheduler inside an object that is none itself, such as accelerate's `AcceleratedScheduler`."""
    inner = getattr(scheduler, "scheduler", None)
    return inner if isinstance(inner, LRScheduler) and not isinstance(scheduler, LRScheduler) else scheduler


def calls_per_step(scheduler: Any) -> int:
    """Return how often the scheduler inside is called per optimizer step: under accelerate, once per process."""
    if not getattr(scheduler, "step_with_optimizer", False) or getattr(scheduler, "split_batches", True):
        return 1
    states = [getattr(optimizer, "accelerator_state", None) for optimizer in getattr(scheduler, "optimizers", [])]
    return max((int(getattr(state, "num_processes", 1)) for state in states), default=1)


def single_schedulers(scheduler: Any) -> list[Any]:
    """Return the schedulers inside `SequentialLR` and `ChainedScheduler`, at any depth, or `scheduler` itself."""
    parts = getattr(scheduler, "_schedulers", None)
    return [one for part in parts for one in single_schedulers(part)] if parts else [scheduler]


def wrapped_optimizers(optimizer: Optimizer) -> list[Optimizer]:
    """Return an optimizer and all optimizers inside it, such as the base of SAM, from the outside to the inside.

    Example:
        >>> import torch, fallline as fl
        >>> base = fl.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> [type(one).__name__ for one in wrapped_optimizers(fl.SAM(base))]
        ['SAM', 'SGD']
    """
    found = [optimizer]
    for one in found:  # it grows in the loop
        inner = (value for value in vars(one).values() if isinstance(value, Optimizer))
        found.extend(value for value in inner if not any(value is known for known in found))
    return found


def updaters(optimizer: Optimizer) -> list[Optimizer]:
    """Return the optimizers that write the parameters: the innermost ones, or `optimizer` itself.

    Example:
        >>> import torch, fallline as fl
        >>> base = fl.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        >>> updaters(fl.SAM(base)) == updaters(base) == [base]
        True
    """
    return [one for one in wrapped_optimizers(optimizer) if len(wrapped_optimizers(one)) == 1]


def report_skipped_step(optimizer: Optimizer) -> None:
    """Correct `step_was_skipped` of accelerate's optimizer around this one, in a step that the GradScaler skips.

    accelerate replaces `optimizer.step` by a function that notes its call as an update. That is wrong for optimizers
    that a GradScaler also calls for the steps that it skips (`_step_supports_amp_scaling`).
    """
    step = vars(optimizer).get("step")
    code, cells = getattr(step, "__code__", None), getattr(step, "__closure__", None)
    variables = dict(zip(code.co_freevars, cells, strict=True)) if code is not None and cells else {}
    if "accelerated_optimizer" in variables:
        variables["accelerated_optimizer"].cell_contents._accelerate_step_called = False


def is_scheduled_by_torch(optimizer: Optimizer) -> bool:
    """Return whether a scheduler of PyTorch was constructed for an optimizer; it may exist no longer."""
    return any(hasattr(one.step, "_wrapped_by_lr_sched") for one in wrapped_optimizers(optimizer))
