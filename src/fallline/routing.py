"""Routing of parameters: which ones Muon updates as matrices, and which ones AdamW updates, with the reasons."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fallline.errors import ArgumentError, ArgumentTypeError, suggest
from fallline.wrappers import named_parameters, unwrap_model, walk

MUON, ADAMW = "muon", "adamw"
ALGORITHMS = (MUON, ADAMW)
Route = Mapping[str, str] | Callable[[str, torch.Tensor], str | None]

EMBEDDING, HEAD = "an embedding", "the output layer"  # how the reasons of these begin
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_STACKED = {nn.MultiheadAttention: ("in_proj_weight", 3), nn.LSTM: ("weight_", 4), nn.GRU: ("weight_", 3)}
_TELLING = ("embed", "wte", "wpe", "token", "head", "classifier")  # parts of names, where the module is unknown


class Routed(NamedTuple):
    """A parameter of an optimizer with its name, its algorithm, and the reason; `blocks` of its rows are split."""

    name: str
    shape: tuple[int, ...]
    algorithm: str
    reason: str
    blocks: int = 1

    def __str__(self) -> str:
        size = "×".join(map(str, self.shape)) or "scalar"
        return f"{self.algorithm:5}  {self.name} ({size}): {self.reason}"


@dataclass
class Routing:
    """The routes of all parameters of an optimizer, in its order; printing it gives one line each."""

    routes: list[Routed] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join(map(str, self.routes))

    def __repr__(self) -> str:
        counts = [sum(route.algorithm == name for route in self.routes) for name in ALGORITHMS]
        return f"Routing({counts[0]} parameters to Muon, {counts[1]} to AdamW; print it to see the reasons)"


class Router:
    """Decides for each parameter; it knows more if it is given the model."""

    def __init__(
        self,
        owner: str,
        model: nn.Module | None = None,
        route: Route | None = None,
        split: Mapping[str, int] | None = None,
    ) -> None:
        if not (route is None or callable(route) or isinstance(route, Mapping)):
            raise ArgumentTypeError(
                f"{owner}: route must map names to algorithms or be a function of name and parameter, got {route!r}; "
                "pass {'lm_head': 'adamw'}"
            )
        if not (split is None or isinstance(split, Mapping)):
            raise ArgumentTypeError(
                f"{owner}: split must map names to numbers of matrices, got {split!r}; pass {{'qkv': 3}}"
            )
        self._owner = owner
        self._route = route
        self._split = dict(split or {})
        self._places: dict[int, list[tuple[str, nn.Module]]] = {}
        self._head: int | None = None
        if not (model is None or isinstance(model, nn.Module)):
            raise ArgumentTypeError(f"{owner}: model must be a torch.nn.Module, got {model!r}; pass the model itself")
        if model is not None:
            for name, param, module in named_parameters(model):
                self._places.setdefault(id(param), []).append((name, module))
            self._head = _head_of(model)

    def decide(self, name: str, param: torch.Tensor) -> Routed:
        """Return the route of a parameter.

        Args:
            name: its name, or text such as "parameter 3" if it has none.
            param: the parameter.

        Raises:
            ArgumentError: the user's route or split for it is invalid.
        """
        places = self._places.get(id(param), [])
        names = [place for place, _ in places] or [name]
        shape = tuple(param.shape)
        chosen = self._chosen(names, param)
        algorithm, reason = (chosen, "chosen by route") if chosen else self._usual(names, places, param)
        blocks = self._blocks(names, places, param) if algorithm == MUON else 1
        return Routed(names[0], shape, algorithm, reason + (f", {blocks} blocks" if blocks > 1 else ""), blocks)

    def _chosen(self, names: list[str], param: torch.Tensor) -> str | None:
        """Return the algorithm that the user has chosen, if any."""
        if callable(self._route):
            found = self._route(names[0], param)
        else:
            found = next((value for key, value in (self._route or {}).items() if _matches(key, names)), None)
        if found is not None and found not in ALGORITHMS:
            raise ArgumentError(
                f"{self._owner}: route must give {' or '.join(map(repr, ALGORITHMS))}, got {found!r} for {names[0]}; "
                + suggest(str(found), ALGORITHMS, "leave the parameter out of route to use the default")
            )
        return found

    def _usual(self, names: list[str], places: list[tuple[str, nn.Module]], param: torch.Tensor) -> tuple[str, str]:
        owners = [module for _, module in places]
        tied = f", tied to {names[1]}" if len(names) > 1 else ""
        if any(isinstance(owner, _NORMS) for owner in owners):
            return ADAMW, "of a normalization layer"
        if param.dim() < 2:
            return ADAMW, "a vector"
        if any(isinstance(owner, _EMBEDDINGS) for owner in owners):
            return ADAMW, EMBEDDING + tied
        if self._head == id(param):
            return ADAMW, HEAD + tied
        known = owners and isinstance(owners[0], (nn.Linear, nn.modules.conv._ConvNd, *_STACKED))
        if not known and any(word in part for part in names[0].split(".")[-2:] for word in _TELLING):
            return ADAMW, "named like an embedding or an output layer"
        if not known and param.dim() > 2 and param.shape[0] == 1:
            return ADAMW, "a single row, such as a position embedding"
        kind = f" of {type(owners[0]).__name__}" if owners else ""
        return MUON, ("a flattened filter" if param.dim() > 2 else "a matrix") + kind + tied

    def _blocks(self, names: list[str], places: list[tuple[str, nn.Module]], param: torch.Tensor) -> int:
        """Return into how many matrices the rows of a parameter are split."""
        asked = [n for key, n in self._split.items() if _matches(key, names)]
        if asked:
            count = asked[0]
        else:
            found = [
                n
                for name, module in places
                for kind, (start, n) in _STACKED.items()
                if isinstance(module, kind) and name.rpartition(".")[2].startswith(start)
            ]
            count = found[0] if found else 1
        if not isinstance(count, int) or count < 1 or param.shape[0] % count:
            raise ArgumentError(
                f"{self._owner}: split must divide the {param.shape[0]} rows of {names[0]}, got {count!r}; give the "
                "number of matrices that are stacked along the first dimension"
            )
        return count

    def without_model(self) -> "Router":
        """Return a copy that can be pickled, for parameters that are added to a copy of the optimizer."""
        return Router(self._owner, None, None if callable(self._route) else self._route, self._split)

    def check_names(self, names: list[str]) -> None:
        """Raise ArgumentError if a key of `route` or `split` matches neither these names nor others of the model."""
        known = list(dict.fromkeys([*names, *(name for places in self._places.values() for name, _ in places)]))
        keys = [*self._split, *(() if self._route is None or callable(self._route) else self._route)]
        for key in keys:
            if not _matches(key, known):
                raise ArgumentError(
                    f"{self._owner}: route and split must name parameters or modules, got {key!r}, which matches none; "
                    f"the parameters are {', '.join(known[:6])} …"
                )


def _matches(key: str, names: list[str]) -> bool:
    """Return whether a name equals the key, or contains it as whole parts between dots."""
    return any(f".{key}." in f".{name}." for name in names)


def _head_of(model: nn.Module) -> int | None:
    """Return the id of the weight of the output layer: the last linear layer that is not inside a repeated block."""
    declared: Any = getattr(unwrap_model(model), "get_output_embeddings", lambda: None)()  # models of transformers
    if getattr(declared, "weight", None) is not None:
        return id(declared.weight)
    repeated = [
        module
        for _, module in walk(model)
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and _is_repeated(list(module.children()))
    ]
    inside = {id(param) for module in repeated for param in module.parameters()}
    linear = [module.weight for _, module in walk(model) if isinstance(module, nn.Linear)]
    return id(linear[-1]) if linear and id(linear[-1]) not in inside else None


def _is_repeated(children: list[nn.Module]) -> bool:
    """Return whether these are several blocks of one class, and not single layers."""
    blocks = [unwrap_model(child) for child in children]
    return len(blocks) > 1 and len({type(block) for block in blocks}) == 1 and any(blocks[0].children())
