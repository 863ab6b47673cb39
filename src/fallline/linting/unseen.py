"""A finding for what the other checks cannot look into."""

from torch.optim.lr_scheduler import LRScheduler

from fallline.linting.finding import Found, check
from fallline.linting.setup import Setup, follows_a_metric
from fallline.wrappers import hidden_parameters, single_schedulers, updaters


@check("info", "the checks look into the wrappers that fallline.wrappers knows", "The part is checked otherwise.")
def not_inspected(setup: Setup) -> Found:
    """Find parts of the set-up that the other checks cannot look into."""
    scheduler = setup.scheduler
    if scheduler is not None and not isinstance(scheduler, LRScheduler):
        yield (
            f"the scheduler ({type(scheduler).__name__}) is no LRScheduler of PyTorch, so its learning rates were not "
            "checked",
            "pass the LRScheduler inside it",
        )
    single = single_schedulers(scheduler)
    if (
        isinstance(scheduler, LRScheduler)
        and setup.calls
        and setup.lrs is None
        and not any(map(follows_a_metric, single))
    ):
        yield (
            f"a copy of the scheduler ({type(scheduler).__name__}) could not be run ahead, so its learning rates were "
            "not checked",
            "check them with print(scheduler.get_last_lr()) in a loop without training",
        )
    inner = updaters(setup.optimizer)
    if len(inner) > 1:
        names = ", ".join(type(one).__name__ for one in inner)
        yield (
            f"{type(setup.optimizer).__name__} holds {len(inner)} optimizers ({names}), and only the first was checked",
            "lint each of them alone",
        )
    if setup.model is not None and (hidden := list(hidden_parameters(setup.model))):
        yield (
            f"the model has {len(hidden)} flat parameter{'s' * (len(hidden) > 1)} in place of those of its layers "
            f"({hidden[0]}), so norms, biases and frozen parameters were not told apart",
            "wrap it with use_orig_params=True (FSDP1) or fully_shard (FSDP2)",
        )
