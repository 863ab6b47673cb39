"""The mean loss of a model over data, as a deterministic function of its parameters."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from fallline.errors import ArgumentError, ArgumentTypeError, GradientError, LossError, StateError
from fallline.landscape.loss.averaging import (
    LossFn,
    Weight,
    as_batches,
    batches_of,
    check_finite,
    check_functions,
    check_graph,
    check_loss,
    describe_value,
    weight_of,
)
from fallline.landscape.loss.fallbacks import Recovery
from fallline.landscape.loss.preserve import random_numbers, unchanged

MODES = ("eval", "train")
Params = Sequence[nn.Parameter | str] | Mapping[str, nn.Parameter]


class Objective:
    """A mean loss over batches, each weighted by its number of items.

    Every pass over the data draws the same random numbers, so that dropout and shuffling are part of the function.

    Attributes:
        params, names: the parameters that the loss is a function of.
        n: total number of elements of the parameters.
        dtype, device: dtype and device of flat vectors.
        eps: machine epsilon of the least precise type in which the loss is computed, as far as it is known.
        convert: function that is applied to every batch.
        single: whether there was only one batch when the gradient was last computed.
        value: the mean loss at that time.
        reached: names of the parameters of which a gradient has been found since then.
    """

    def __init__(
        self,
        owner: str,
        model: nn.Module,
        loss_fn: LossFn,
        data: Any,
        params: Params | None,
        weight: Weight | None,
        mode: str,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ArgumentTypeError(f"{owner}: model must be a torch.nn.Module, got {model=!r}; pass the model itself")
        if mode not in MODES:
            raise ArgumentError(f"{owner}: mode must be one of {', '.join(MODES)}, got {mode=}; the default is eval")
        check_functions(owner, loss_fn, weight)
        self.owner, self.loss_fn, self.weight, self.mode = owner, loss_fn, weight, mode
        self.recovery = Recovery(owner)
        self.model = self.recovery.unwrap(model)
        self.params, self.names = self._choose(params)
        present = set(self.model.parameters())
        self._own = {p: name for p, name in zip(self.params, self.names, strict=True) if p in present}
        self.sizes = [p.numel() for p in self.params]
        self.n = sum(self.sizes)
        self.dtype = torch.float32
        for i, p in enumerate(self.params):
            self.dtype = torch.promote_types(self.dtype, p.dtype) if i else p.dtype
        self.eps = torch.finfo(self.dtype).eps
        self.device = self.params[0].device
        self.convert: Callable[[Any], Any] = lambda batch: batch
        batches = as_batches(owner, data)
        self._reset_random_numbers = random_numbers(batches)
        try:
            self.data = list(batches) if isinstance(batches, Iterator) else batches
        finally:
            self._reset_random_numbers()
        self.single = False
        self.value = math.nan
        self.reached: set[str] = set()

    def _choose(self, params: Params | None) -> tuple[list[nn.Parameter], list[str]]:
        every = {name.replace("_orig_mod.", ""): p for name, p in self.model.named_parameters()}
        known = {id(p): name for name, p in every.items()}
        if isinstance(params, Mapping):
            known |= {id(p): name for name, p in params.items()}
            params = list(params.values())
        trained = [p for p in every.values() if p.requires_grad]
        wanted: list[Any] = (
            trained if params is None else [every.get(p, p) if isinstance(p, str) else p for p in params]
        )
        chosen: list[nn.Parameter] = list({id(p): p for p in wanted}.values())
        if not chosen:
            raise ArgumentError(f"{self.owner}: params must have a parameter, got none; unfreeze some")
        if strange := [p for p in chosen if not isinstance(p, torch.Tensor) or not p.is_leaf]:
            got = (
                f"a tensor of shape {tuple(p.shape)}"
                if isinstance(p := strange[0], torch.Tensor)
                else describe_value(p)
            )
            raise ArgumentError(
                f"{self.owner}: params must be a list of names or parameters of the model, got {got} in it; "
                "see model.named_parameters()"
            )
        for p in chosen:
            name = known.get(id(p), "a parameter")
            if not p.is_floating_point():
                raise ArgumentError(f"{self.owner}: parameters must be real, got {name} of {p.dtype}; leave it out")
        return chosen, [known.get(id(p), f"params[{i}]") for i, p in enumerate(chosen)]

    def own_name(self, param: nn.Parameter) -> str:
        """Return the name of a parameter in the model itself.

        Raises:
            ArgumentError: the model does not have the parameter.
        """
        for name, p in self.model.named_parameters():
            if p is param:
                return name
        raise ArgumentError(
            f"{self.owner}: params must belong to the model for jvp, got one that does not; use another hvp"
        )

    @contextmanager
    def measuring(self, reads: bool = True) -> Iterator[None]:
        """Set the mode, the random numbers and the remedies within the block, and restore everything afterwards.

        Args:
            reads: whether the block reads data and computes the loss, which draws random numbers.

        Raises:
            StateError: the model has replaced a parameter, so that its loss no longer depends on that of construction.
        """
        if gone := self._own.keys() - set(self.model.parameters()):
            raise StateError(
                f"{self.owner}: parameters must be those that the model had at construction, got a new "
                f"{self._own[gone.pop()]}, as after load_state_dict(assign=True); create the {self.owner} again"
            )
        with ExitStack() as stack:
            stack.enter_context(unchanged(self.model, self.params, self.data))
            if any(module.training != (self.mode == "train") for module in self.model.modules()):
                self.model.train(self.mode == "train")
            if reads:
                self._reset_random_numbers()
            self.recovery.contexts(stack)
            stack.enter_context(torch.enable_grad())
            yield

    def batches(self) -> Iterator[tuple[int, Any, float]]:
        """Yield the number, the batch and its weight.

        Raises:
            LossError: there is no batch.
            ArgumentError: a weight is not a positive number.
        """
        for number, batch in enumerate(batches_of(self.owner, self.data)):
            yield number, self.convert(batch), weight_of(self.owner, batch, self.weight)

    def loss(self, batch: Any, number: int = 0) -> torch.Tensor:
        """Return the loss of a batch, a scalar with a graph.

        Raises:
            LossError: the loss is not such a scalar, or not finite.
        """
        loss = check_loss(self.owner, self.loss_fn(self.model, batch))
        if torch.is_grad_enabled():
            check_graph(self.owner, loss, number)
        check_finite(self.owner, loss, number, self.model)
        return loss

    def gradients(self, loss: torch.Tensor, graph: bool = False) -> list[torch.Tensor]:
        """Return the gradient of a loss for each parameter, with zeros for those that it does not depend on."""
        found = torch.autograd.grad(loss, self.params, create_graph=graph, allow_unused=True)
        if sparse := [name for name, g in zip(self.names, found, strict=True) if g is not None and g.is_sparse]:
            raise GradientError(
                f"{self.owner}: gradients must be dense, got a sparse one for {sparse[0]}; build it with sparse=False"
            )
        self.reached.update(name for name, g in zip(self.names, found, strict=True) if g is not None)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.params, strict=True)]

    def mean(self, part: Callable[[int, Any], torch.Tensor]) -> torch.Tensor:
        """Return the weighted mean of `part(number, batch)` over all batches. Call it inside `measuring`."""
        total, weights = torch.zeros((), dtype=self.dtype, device=self.device), 0.0
        for number, batch, weight in self.batches():
            total = total + weight * part(number, batch)
            weights += weight
        return total / weights

    def gradient(self) -> torch.Tensor:
        """Return the flat gradient of the mean loss, and store the loss in `value`.

        Raises:
            LossError: a loss cannot be measured, or a gradient is not finite.
        """

        def part(number: int, batch: Any) -> torch.Tensor:
            loss = self.loss(batch, number)
            flat = self.flatten(self.gradients(loss))
            if not bool(flat.isfinite().all()):
                parts = zip(self.names, self.split(flat), strict=True)
                name = next(name for name, found in parts if not bool(found.isfinite().all()))
                raise LossError(
                    f"{self.owner}: gradients must be finite, got NaN or Inf in that of {name} for batch {number}; "
                    "the loss itself is finite, so look for a square root or logarithm at 0"
                )
            self.single = number == 0
            return torch.cat([flat, loss.detach().reshape(1).to(self.device, self.dtype)])

        self.reached = set()
        with self.measuring():
            both = self.mean(part)
        if not self.reached:
            raise LossError(
                f"{self.owner}: loss must depend on the parameters, got one that is independent of {self.names[0]} and "
                "all others; pass the model that loss_fn runs, and parameters of that model"
            )
        self.value = float(both[-1])
        return both[:-1]

    def mean_loss(self, check: bool = True) -> float:
        """Return the mean loss, computed without a gradient. With `check=False` it may be NaN or Inf."""

        def part(number: int, batch: Any) -> torch.Tensor:
            loss = self.loss(batch, number) if check else check_loss(self.owner, self.loss_fn(self.model, batch))
            return loss.to(self.device, torch.float64)

        with self.measuring(), torch.no_grad():
            return float(self.mean(part))

    def flatten(self, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return tensors shaped like the parameters as one vector (n,)."""
        return torch.cat([part.detach().reshape(-1).to(self.device, self.dtype) for part in parts])

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """Return a vector (n,) as tensors shaped like the parameters."""
        parts = zip(vector.split(self.sizes), self.params, strict=True)
        return [part.view(p.shape).to(p.device, p.dtype) for part, p in parts]
