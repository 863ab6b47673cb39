"""Recipes: groups read off the modules, published defaults, explanations."""

import copy

import pytest
import torch
from torch import nn

import fallline as fl
from fallline import recipes
from fallline.errors import ArgumentError, ArgumentTypeError, FalllineError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm((2, 4))  # a norm whose weight is a matrix
        self.bias_free = nn.Linear(4, 4, bias=False)  # "bias" and "norm" in its names mislead substrings
        self.normalizer = nn.Linear(4, 4)


class Transformer(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.embedding = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])
        self.final = nn.RMSNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def names(model, groups):
    found = {id(p): name for name, p in model.named_parameters()}
    return {group["name"]: [found[id(p)] for p in group["params"]] for group in groups}


def test_decay_is_for_matrices_that_are_no_norms_and_no_embeddings():
    model = Transformer(1)
    assert names(model, recipes.parameter_groups(model, 0.1)) == {
        "decayed": ["pos_embed", "blocks.0.bias_free.weight", "blocks.0.normalizer.weight", "head.weight"],
        "undecayed": [
            "embedding.weight",
            "blocks.0.norm.weight",
            "blocks.0.norm.bias",
            "blocks.0.normalizer.bias",
            "final.weight",
        ],
    }


def test_embeddings_by_choice_and_more_by_exact_name():
    model = Transformer(1)
    groups = names(model, recipes.parameter_groups(model, 0.1, decay_embeddings=True, no_decay=["pos_embed"]))
    assert "embedding.weight" in groups["decayed"] and "pos_embed" in groups["undecayed"]
    full = names(model, recipes.parameter_groups(model, 0.1, no_decay=["head.weight"]))
    assert "head.weight" in full["undecayed"] and "blocks.0.bias_free.weight" in full["decayed"]
    for near in ("pos", "head.weigh", "normal"):
        with pytest.raises(ArgumentError, match=f"no_decay must hold names .*, got '{near}'; they match exactly"):
            recipes.parameter_groups(model, 0.1, no_decay=[near])
    with pytest.raises(ArgumentTypeError, match="no_decay must be a list"):
        recipes.parameter_groups(model, 0.1, no_decay="pos_embed")


@pytest.mark.parametrize("order", ["embedding first", "head first"])
def test_tied_weights_come_once_and_count_as_embeddings(order):
    model = nn.ModuleDict({"a": nn.Embedding(7, 4), "b": nn.Linear(4, 7, bias=False)})
    if order == "head first":
        model = nn.ModuleDict({"b": model["b"], "a": model["a"]})
    model["b"].weight = model["a"].weight
    (group,) = recipes.parameter_groups(model, 0.1)
    assert (group["name"], len(group["params"])) == ("undecayed", 1)
    (group,) = recipes.parameter_groups(model, 0.1, decay_embeddings=True)
    assert (group["name"], len(group["params"])) == ("decayed", 1)


def test_every_trainable_parameter_comes_once_and_no_other():
    model = Transformer()
    for groups in (recipes.parameter_groups(model, 0.1), recipes.layer_groups(model, 1.0, 0.1, 0.5)):
        given = [id(p) for group in groups for p in group["params"]]
        assert sorted(given) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile's own parts
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda m: nn.DataParallel(torch.compile(m))])
def test_wrappers_are_seen_through(wrap):
    model = Transformer()
    inner = copy.deepcopy(model)
    inner.blocks[0] = torch.compile(inner.blocks[0])
    for outer in (wrap(model), wrap(inner)):
        for make in (
            lambda m: recipes.parameter_groups(m, 0.1, no_decay=["blocks.0.normalizer.weight"]),
            lambda m: recipes.layer_groups(m, 1.0, 0.1, 0.5, no_decay=["blocks.0.normalizer.weight"]),
        ):
            seen = [(g["name"], [p.shape for p in g["params"]]) for g in make(outer)]
            assert seen == [(g["name"], [p.shape for p in g["params"]]) for g in make(model)]


def test_distributed_data_parallel_is_seen_through(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/sync", rank=0, world_size=1)
    try:
        model = Transformer()
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert names(model, recipes.parameter_groups(wrapped, 0.1, no_decay=["head.weight"])) == names(
            model, recipes.parameter_groups(model, 0.1, no_decay=["head.weight"])
        )
    finally:
        torch.distributed.destroy_process_group()


def test_layers_fall_from_the_head_to_the_embedding_and_schedules_keep_the_ratios():
    model = Transformer(2)
    groups = recipes.layer_groups(model, 1.0, 0.1, 0.5)
    assert {name: members for name, members in names(model, groups).items() if "layer 0" in name or "3" in name} == {
        "layer 0, decayed": ["pos_embed"],
        "layer 0, undecayed": ["embedding.weight"],
        "layer 3, decayed": ["head.weight"],
        "layer 3, undecayed": ["final.weight"],
    }
    optimizer, scheduler = recipes.fine_tuning(model, 20, lr=1.0, layer_decay=0.5)
    for _ in range(18):
        rates = {int(g["name"][6]): g["lr"] for g in optimizer.param_groups}
        assert [rates[i] / rates[3] for i in range(4)] == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1])
        optimizer.step()
        scheduler.step()


def test_blocks_can_be_given_and_must_be_found():
    model = nn.ModuleDict({"b": nn.Linear(2, 2, bias=False), "a": nn.Linear(2, 2, bias=False)})
    with pytest.raises(ArgumentError, match=r"blocks must be given for this model.*pass blocks="):
        recipes.fine_tuning(model, 10)
    groups = recipes.layer_groups(model, 1.0, 0.0, 0.5, blocks=[model["a"], model["b"]])
    assert [(g["lr"], g["params"][0] is model[k].weight) for g, k in zip(groups, "ab", strict=True)] == [
        (0.25, True),
        (0.5, True),
    ]
    assert len(recipes.fine_tuning(model, 10, layer_decay=1.0).optimizer.param_groups) == 1


PUBLISHED = {
    "vision_transformer": (
        fl.AdamW,
        {"initial_lr": 1e-4, "weight_decay": 0.05, "betas": (0.9, 0.999)},
        fl.schedules.warmup_cosine(6255, 300 * 1251),
        300 * 1251,
    ),
    "language_model": (
        fl.AdamW,
        {"initial_lr": 3e-4, "weight_decay": 0.1, "betas": (0.9, 0.95), "clip_grad_norm": 1.0},
        fl.schedules.warmup_cosine(2000, 100_000, min_lr_ratio=0.1),
        100_000,
    ),
    "convnet": (
        fl.SGD,
        {"initial_lr": 0.1, "weight_decay": 1e-4, "momentum": 0.9, "nesterov": True},
        fl.schedules.warmup_cosine(50, 1000),
        1000,
    ),
    "fine_tuning": (
        fl.AdamW,
        {"initial_lr": 5e-5 * 0.8**4, "weight_decay": 0.01, "betas": (0.9, 0.999)},
        fl.schedules.linear(100, warmup_steps=10),
        100,
    ),
}


@pytest.mark.parametrize(("name", "row"), PUBLISHED.items(), ids=PUBLISHED)
def test_defaults_are_the_published_ones(name, row):
    cls, options, schedule, steps = row
    optimizer, scheduler = recipe = getattr(recipes, name)(Transformer(), steps)
    assert type(optimizer) is cls
    group = optimizer.param_groups[0]
    assert all(group[key] == (value if key == "betas" else pytest.approx(value)) for key, value in options.items())
    assert scheduler.schedules == {"lr": [schedule]}
    text = str(recipe)
    for choice in recipe.choices:
        assert choice.name in text and choice.source in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_short_language_models_warm_up_for_a_twentieth():
    _, scheduler = recipes.language_model(Transformer(), 1000)
    assert scheduler.schedules["lr"][0].warmup_steps == 50


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_given_is_used_and_said(name):
    recipe = getattr(recipes, name)(Transformer(), 100, lr=0.5, weight_decay=0.25, warmup_steps=7)
    last = recipe.optimizer.param_groups[-2]
    assert (last["initial_lr"], last["weight_decay"]) == (0.5, 0.25)
    assert recipe.scheduler.schedules["lr"][0].warmup_steps == 7
    assert str(recipe).count("your argument") == 3


def test_muon_takes_the_hidden_matrices_and_the_settings_of_adamw():
    model = Transformer()
    del model.frozen  # so that the head is the last linear layer
    recipe = recipes.language_model(model, 1000, optimizer="muon", lr=0.01, betas=(0.8, 0.9))
    groups = names(model, recipe.optimizer.param_groups)
    hidden = [f"blocks.{i}.{name}.weight" for i in range(3) for name in ("bias_free", "normalizer")]
    assert groups["decayed, muon"] == hidden
    assert groups["decayed, adamw"] == ["pos_embed", "head.weight"]
    assert "embedding.weight" in groups["undecayed"] and len(groups) == 3
    for group in recipe.optimizer.param_groups:
        assert (group["initial_lr"], group["clip_grad_norm"]) == (0.01, 1.0)
        assert group["weight_decay"] == (0.0 if group["name"] == "undecayed" else 0.1)
        if group["algorithm"] == "muon":
            assert (group["momentum"], group["adjust_lr_fn"]) == (0.95, "match_rms_adamw")
        else:
            assert group["betas"] == (0.8, 0.9)
    assert recipe.scheduler.schedules == recipes.language_model(model, 1000).scheduler.schedules
    text = str(recipe)
    assert "language_model: Muon with WarmupCosine" in text and "Liu et al. 2025" in text and "Jordan et al." in text
    assert all(len(line) <= 120 for line in text.splitlines())


def test_updates_of_muon_have_the_size_of_those_of_adamw():
    """Which is why its recipe has the learning rate of AdamW, whose updates are 0.2 to 0.4 of it (Liu et al. 2025)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 64), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 9))
    optimizer, _ = recipes.language_model(model, 10, optimizer="muon", lr=1e-3, weight_decay=0.0, warmup_steps=0)
    weight = model[1].weight
    before = weight.detach().clone()
    weight.grad = torch.randn(128, 64)
    optimizer.step()
    assert 1.5e-4 < (weight - before).square().mean().sqrt() < 2.5e-4  # 0.2 of the lr, times singular values near 1


def test_batch_size_rules():
    assert recipes.scale_lr(0.1, 1024, 256, "linear") == pytest.approx(0.4)
    assert recipes.scale_lr(0.1, 64, 256, "sqrt") == pytest.approx(0.05)
    recipe = recipes.convnet(Transformer(), 100, scale_lr="linear", batch_size=512)
    assert recipe.optimizer.param_groups[0]["initial_lr"] == pytest.approx(0.2)
    assert "linear rule, from batch size 256 to 512" in str(recipe)


BAD = [
    (lambda m: recipes.convnet(m, 100, scale_lr="linear"), "batch_size must be given .*, got batch_size=None; "),
    (lambda m: recipes.convnet(m, 100, scale_lr="cubic", batch_size=1), "rule must be one of .*, got rule='cubic'; "),
    (lambda m: recipes.language_model(m, 100, optimizer="moun"), "optimizer must be .*'moun'; did you mean muon"),
    (lambda m: recipes.language_model(m, 100, optimizer="sgd"), "one of adamw, muon, got optimizer='sgd'; construct"),
    (lambda m: recipes.convnet(m, 0), "total_steps must be .*, got total_steps=0; "),
    (lambda m: recipes.language_model(m, 0), "total_steps must be .*, got total_steps=0; "),
    (lambda m: recipes.convnet(m, 100, lr=-1.0), r"lr must be .*, got -?1?.*"),
    (lambda m: recipes.convnet(m.frozen, 100), "model must have trainable parameters, got none; "),
    (lambda m: recipes.convnet(list(m.parameters()), 100), "model must be a torch.nn.Module"),
    (
        lambda m: recipes.fine_tuning(m, 100, layer_decay=0.0),
        r"layer_decay must be in \(0, 1\], got layer_decay=0\.0; ",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_arguments_are_named(call, message):
    with pytest.raises(FalllineError, match=f"(?s){message}"):
        call(Transformer())


@pytest.mark.parametrize("name", [*PUBLISHED, "language_model, muon"])
def test_a_recipe_trains(name):
    name, _, optimizer = name.partition(", ")
    options = {"optimizer": optimizer} if optimizer else {}
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)) for _ in range(3)])
    optimizer, scheduler = getattr(recipes, name)(model, 60, lr=0.02, **options)
    x, y = torch.randn(64, 8), torch.randn(64, 8)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
