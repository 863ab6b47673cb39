"""See through the wrappers that libraries put around an optimizer."""

from torch.optim import Optimizer


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


def is_scheduled_by_torch(optimizer: Optimizer) -> bool:
    """Return whether a scheduler of PyTorch was constructed for an optimizer; it may exist no longer."""
    return any(hasattr(one.step, "_wrapped_by_lr_sched") for one in wrapped_optimizers(optimizer))
