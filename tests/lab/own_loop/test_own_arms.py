"""Arms of a command or a function: only what reaches the user's code is searched."""

import pytest

from fallline.errors import ArgumentError
from fallline.lab.design.own_arms import fill_values, make_own_arms, parse_search
from fallline.lab.design.spaces import sobol
from fallline.lab.design.trial import Trial
from fallline.lab.tasks.own_loop import CommandTask, table_name

COMMAND = "python train.py --optimizer {optimizer} --lr {lr} --seed {seed}"


def dimensions(arm):
    return {d.name: (d.low, d.high) if not d.choices else d.choices for d in arm.space.dimensions}


def test_only_placeholders_are_searched():
    (arm,) = make_own_arms(["adamw"], ["cosine"], "", COMMAND)
    assert dimensions(arm) == {"lr": (3e-5, 1e-1)}
    assert set(arm.space.defaults) == {"lr", "warmup"}
    (arm,) = make_own_arms(["adamw"], ["cosine"], "", COMMAND + " --wd {weight_decay} --b1 {beta1}")
    assert set(dimensions(arm)) == {"lr", "weight_decay", "beta1", "beta2"}


def test_a_command_gets_all_three_betas():
    (arm,) = make_own_arms(["adan"], ["constant"], "", "python train.py {lr} {betas}")
    assert set(dimensions(arm)) == {"lr", "beta1", "beta3"}
    options = arm.space.options(arm.space.defaults)
    found = fill_values(Trial("tune", "own", "adan", "adan", "constant", 10, 0, 1, options))
    assert found["betas"] == "0.98,0.92,0.99"
    assert [found[name] for name in ("beta1", "beta2", "beta3")] == [0.98, 0.92, 0.99]


def test_without_placeholders_the_script_asks_for_everything():
    (arm,) = make_own_arms(["adamw"], ["cosine"], "", "python train.py")
    assert {"lr", "weight_decay", "beta1"} <= set(dimensions(arm))
    (function,) = make_own_arms(["adamw"], ["cosine"], "batch_size=16|32", None)
    assert dimensions(function)["batch_size"] == (16, 32)
    assert function.space.defaults["batch_size"] == 32


def test_ranges_of_the_user_replace_those_of_the_optimizer():
    (arm,) = make_own_arms(["adamw"], ["cosine"], "lr=1e-6..1e-5", COMMAND)
    assert dimensions(arm) == {"lr": (1e-6, 1e-5)}


def test_optimizers_that_fallline_does_not_know_need_ranges():
    (arm,) = make_own_arms(["sophia"], ["cosine"], "lr=1e-5..1e-3", COMMAND)
    assert (arm.name, dimensions(arm)) == ("sophia", {"lr": (1e-5, 1e-3)})
    with pytest.raises(ArgumentError, match=r"search: \{lr\} in the command must have a range, got none"):
        make_own_arms(["sophia"], ["cosine"], "", COMMAND)
    with pytest.raises(ArgumentError, match="optimizers: must be one of"):
        make_own_arms(["sophia"], ["cosine"], "", None)


def test_the_command_gets_the_optimizer_as_the_user_writes_it():
    (arm,) = make_own_arms(["AdamW@lr=0.1"], ["Cosine"], "", COMMAND)
    assert (arm.optimizer, arm.schedule, arm.settings) == ("adamw", "cosine", {"spelling": "AdamW"})
    (arm,) = make_own_arms(["adamw"], ["cosine"], "", COMMAND)
    assert arm.settings == {}


def test_variants_add_arguments_or_have_their_own_command():
    arms = make_own_arms(["adamw"], ["cosine"], "", COMMAND, {"plain": "", "rope": "--rope", "jax": "python jx.py"})
    assert [(arm.name, arm.settings["command"]) for arm in arms] == [
        ("plain", COMMAND),
        ("rope", COMMAND + " --rope"),
        ("jax", "python jx.py"),
    ]
    names = [arm.name for arm in make_own_arms(["adamw", "lion"], ["cosine"], "", COMMAND, {"a": "-a", "b": "-b"})]
    assert names == ["adamw, a", "adamw, b", "lion, a", "lion, b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr", "must be NAME=LOW..HIGH"),
        ("lr=1", "lr must be LOW..HIGH or A|B"),
        ("lr=0..1:log", "must have 0 < LOW < HIGH"),
        ("lr=1e-2..1e-3", "must have 0 < LOW < HIGH"),
        ("lr=a..b", "lr must be LOW..HIGH"),
        ("lr=1..2,lr=1..3", "each name once"),
        ("seed=1|2", "seed must not be searched"),
        ("dropout=0..0.5", "dropout must have a placeholder in the command"),
    ],
)
def test_ranges_that_cannot_be_used(text, words):
    with pytest.raises(ArgumentError, match=r"^search: ") as error:
        make_own_arms(["adamw"], ["cosine"], text, COMMAND)
    assert words in str(error.value)


def test_a_range_that_reaches_0_is_searched_evenly():
    assert parse_search("dropout=0..0.5")["dropout"].value(0.5) == 0.25
    assert parse_search("dropout=0.1..0.5:linear")["dropout"].value(0.5) == pytest.approx(0.3)


def test_further_axes_change_no_value_on_the_others():
    plain, more = sobol(3, 8), sobol(3, 8, ("batch_size",))
    assert [{name: point[name] for name in plain[0]} for point in more] == list(plain)
    assert len({point["batch_size"] for point in more}) == 8


def test_names_of_metrics_in_tables():
    assert [table_name(name) for name in ("val_loss", "loss", "eval/acc")] == ["val_loss", "val_loss", "val_eval_acc"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"command": ""}, "command: must not be empty"),
        ({"command": "a", "metric_file": "out.json:loss"}, "metric_file: must contain {trial}"),
        ({"command": "a", "timeout": -1.0}, "trial_timeout: must be at least 0 seconds, got -1"),
        ({"command": "a", "skip": "sed"}, "got 'sed'; did you mean seed?"),
        ({"command": "a", "metric_name": "speed"}, "mode: must be given"),
    ],
)
def test_settings_of_a_command_that_cannot_be_used(settings, words):
    with pytest.raises(ArgumentError) as error:
        CommandTask(**settings)
    assert words in str(error.value)
