"""Parameter groups for weight decay and layer-wise learning rates, from module types instead of parameter names."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fallline.errors import ArgumentError, ArgumentTypeError
from fallline.wrappers import dimensions, hidden_parameters, named_parameters, unwrap_model, walk

Group = dict[str, Any]
NORMS: tuple[type[nn.Module], ...] = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS: tuple[type[nn.Module], ...] = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True)
class Found:
    """A trainable parameter with all its names, all modules that own it (several if it is tied) and its dimensions."""

    param: nn.Parameter
    names: tuple[str, ...]
    owners: tuple[nn.Module, ...]
    dim: int

    def is_decayed(self, decay_embeddings: bool, no_decay: Collection[str]) -> bool:
        """Return whether it is decayed: a matrix or filter, not of a normalization layer, and not in `no_decay`."""
        if self.dim <= 1 or any(isinstance(owner, NORMS) for owner in self.owners):
            return False
        if any(name in no_decay or name.rpartition(".")[2] in no_decay for name in self.names):
            return False
        return decay_embeddings or not any(isinstance(owner, EMBEDDINGS) for owner in self.owners)


def trainable(model: nn.Module) -> list[Found]:
    """Return the trainable parameters of a model in its order, each once; names do not contain wrapper prefixes.

    Raises:
        ArgumentTypeError, ArgumentError: `model` is not a module, or has no trainable parameters.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError(f"recipes: model must be a torch.nn.Module, got {model=!r}; pass the model itself")
    if hidden := hidden_parameters(model):
        raise ArgumentError(
            f"recipes: model must show the parameters of its layers, got the flat {next(iter(hidden))}; wrap it with "
            "use_orig_params=True (FSDP1) or fully_shard (FSDP2)"
        )
    found: dict[int, Found] = {}
    dims = dimensions(model)
    for name, param, module in named_parameters(model):
        if param.requires_grad:
            old = found.get(id(param), Found(param, (), (), dims[id(param)]))
            found[id(param)] = replace(old, names=(*old.names, name), owners=(*old.owners, module))
    if not found:
        raise ArgumentError("recipes: model must have trainable parameters, got none; set requires_grad=True on them")
    return list(found.values())


def parameter_groups(
    model: nn.Module, weight_decay: float, *, decay_embeddings: bool = False, no_decay: Collection[str] = ()
) -> list[Group]:
    """Return two groups, "decayed" and "undecayed", that contain each trainable parameter of a model once.

    Biases, normalization parameters, tensors of at most one dimension and (unless `decay_embeddings`) embeddings are
    not decayed; a matrix that is tied to an embedding counts as an embedding. Frozen parameters are left out.

    Args:
        model: the model to train; it may be wrapped in DDP, FSDP or `torch.compile`.
        weight_decay: weight decay of the group "decayed".
        decay_embeddings: whether `nn.Embedding` is decayed too.
        no_decay: names of further parameters without weight decay, in full ("encoder.pos_embed") or the last part
            ("pos_embed"). They must match exactly, and each must exist.

    Raises:
        ArgumentTypeError, ArgumentError: there are no trainable parameters, or a name in `no_decay` does not exist.

    Example:
        >>> from torch import nn
        >>> from fallline.recipes import parameter_groups
        >>> groups = parameter_groups(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), weight_decay=0.1)
        >>> [(g["name"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups]
        [('decayed', 0.1, [(4, 3)]), ('undecayed', 0.0, [(4,), (4,), (4,)])]
    """
    found = trainable(model)
    _check_names(found, no_decay)
    decayed = [f for f in found if f.is_decayed(decay_embeddings, no_decay)]
    rest = [f for f in found if not f.is_decayed(decay_embeddings, no_decay)]
    parts = [("decayed", decayed, weight_decay), ("undecayed", rest, 0.0)]
    return [{"params": [f.param for f in p], "weight_decay": wd, "name": name} for name, p, wd in parts if p]


def layer_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    layer_decay: float,
    *,
    blocks: Sequence[nn.Module] | None = None,
    decay_embeddings: bool = False,
    no_decay: Collection[str] = (),
) -> list[Group]:
    """Return groups for each layer, with learning rates that fall by a constant factor per layer from output to input.

    Parameters before the blocks are layer 0, block i is layer i + 1, and parameters after the blocks are the last
    layer, with the rate `lr`. Schedules keep the ratios. BEiT (Bao et al. 2021, arXiv:2106.08254) and MAE use such
    rates.

    Args:
        model: the model to train; it may be wrapped in DDP, FSDP or `torch.compile`.
        lr: learning rate of the last layer.
        weight_decay: weight decay of the decayed parameters, as in `parameter_groups`.
        layer_decay: factor of the learning rate per layer, in (0, 1].
        blocks: the layers in order; by default the children of the `ModuleList` or `Sequential` with the most
            parameters whose children are all of one class.
        decay_embeddings, no_decay: as in `parameter_groups`.

    Raises:
        ArgumentTypeError, ArgumentError: as in `parameter_groups`; or no blocks are found.

    Example:
        >>> from torch import nn
        >>> from fallline.recipes import layer_groups
        >>> model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(2)])})
        >>> model["head"] = nn.Linear(2, 3, bias=False)
        >>> [(g["name"], g["lr"]) for g in layer_groups(model, 0.1, 0.05, layer_decay=0.5)]
        [('layer 1, decayed', 0.025), ('layer 2, decayed', 0.05), ('layer 3, decayed', 0.1)]
    """
    if not 0 < layer_decay <= 1:
        raise ArgumentError(f"recipes: layer_decay must be in (0, 1], got {layer_decay=}; a typical value is 0.75")
    found = trainable(model)
    _check_names(found, no_decay)
    layers = list(blocks) if blocks is not None else _blocks(model)
    number = {id(p): i for i, block in enumerate(layers, start=1) for p in block.parameters()}
    order = [number.get(id(f.param)) for f in found]
    first = next((i for i, layer in enumerate(order) if layer is not None), len(order))
    groups: dict[tuple[int, bool], Group] = {}
    for position, (f, layer) in enumerate(zip(found, order, strict=True)):
        depth = layer if layer is not None else 0 if position < first else len(layers) + 1
        decayed = f.is_decayed(decay_embeddings, no_decay)
        group = {
            "params": [],
            "lr": lr * layer_decay ** (len(layers) + 1 - depth),
            "weight_decay": weight_decay if decayed else 0.0,
            "name": f"layer {depth}, {'decayed' if decayed else 'undecayed'}",
        }
        groups.setdefault((depth, not decayed), group)["params"].append(f.param)
    return [groups[key] for key in sorted(groups)]


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Return the children of the largest `ModuleList` or `Sequential` whose children are all of one class."""
    lists = [
        [unwrap_model(child) for child in module.children()]
        for _, module in walk(model)
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1
    ]
    alike = [children for children in lists if len({type(child) for child in children}) == 1]
    sizes = [sum(p.numel() for child in children for p in child.parameters()) for children in alike]
    if not any(sizes):
        raise ArgumentError(
            "recipes: blocks must be given for this model, got blocks=None and no ModuleList or Sequential whose "
            "modules are all of one class; pass blocks=[...], the layers from input to output"
        )
    return alike[sizes.index(max(sizes))]


def _check_names(found: Sequence[Found], no_decay: Collection[str]) -> None:
    if isinstance(no_decay, str):
        raise ArgumentTypeError(f"recipes: no_decay must be a list of names, got {no_decay=!r}; put it in brackets")
    known = {name for f in found for name in f.names} | {name.rpartition(".")[2] for f in found for name in f.names}
    for name in no_decay:
        if name not in known:
            raise ArgumentError(
                f"recipes: no_decay must hold names of trainable parameters, got {name!r}; they match exactly: "
                f"{', '.join(sorted(known)[:8])} …"
            )
