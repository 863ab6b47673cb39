"""The docs say what is declared: formulas, defaults, links; and whoever changes a declaration is told to write them."""

import inspect
import math
import re
import sys
from dataclasses import replace

import pytest
import torch

import declaration
import docs
import pages
from equations import equations, run, variants
from fallline.optimizers import OPTIMIZERS, SGD, Adam, NAdamW
from fallline.rules import matrices, ops
from fallline.rules.ranges import Range
from typeset import Printer, Symbol, leaf, letter

A, B, C = leaf("a"), leaf("b"), leaf("c")


def latex(value):
    return Printer({}).right_side(value)


EVERY_CLASS = pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)


@EVERY_CLASS
def test_the_page_is_not_stale(cls):
    assert docs.page(cls) == (docs.FOLDER / f"{cls.rule.name}.md").read_text(encoding="utf-8")


def test_the_pages_on_all_of_them_are_not_stale():
    classes = list(OPTIMIZERS.values())
    assert docs.index(classes) == (docs.FOLDER / "README.md").read_text(encoding="utf-8")
    assert docs.options(classes) == (docs.FOLDER / "options.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_nothing_is_stale_pictures_included():
    assert docs.stale(docs.render()) == []


def test_another_default_makes_the_page_stale():
    signature = inspect.signature(Adam)
    changed = [p.replace(default=0.5) if p.name == "eps" else p for p in signature.parameters.values()]
    copy = type("Adam", (Adam,), {"__doc__": Adam.__doc__, "__signature__": signature.replace(parameters=changed)})
    copy.__module__ = Adam.__module__
    assert docs.page(copy).replace("`0.5`", "`1e-8`") == docs.page(Adam) != docs.page(copy)


def test_another_formula_makes_the_page_stale():
    def adam(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, *, lr, beta1, beta2, eps, step):
        numbers = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "step": step + 1}
        return Adam.rule.function(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, **numbers)

    copy = type("Adam", (Adam,), {"rule": replace(Adam.rule, function=adam)})
    assert equations(copy, {}) != equations(Adam, {})


def test_files_that_are_missing_differ_or_are_left_over_are_stale(tmp_path):
    for name in ("same.md", "other.md", "left-over.md"):
        (tmp_path / name).write_text(name)
    assert docs.stale({"same.md": "same.md", "other.md": "new", "missing.md": ""}, tmp_path) == [
        "left-over.md",
        "missing.md",
        "other.md",
    ]


def test_adams_formula_is_adams():
    assert equations(Adam, {"weight_decay": 0.1}) == [
        r"\tilde g_t &= g_t + \lambda \theta_{t-1}",
        r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde g_t",
        r"v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \tilde g_t^2",
        r"\theta_t &= \theta_{t-1} - \frac{\eta}{1 - \beta_1^{t}} \, "
        r"\frac{m_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^{t}} + \epsilon}",
    ]


def test_a_clipped_gradient_goes_by_a_name():
    clipped, mean, *_ = equations(Adam, {"clip_grad_norm": 1.0})
    assert clipped == r"\tilde g_t &= g_t \min\left(\frac{c}{\lVert g_t \rVert_{\mathrm{all}} + 10^{-6}}, 1\right)"
    assert mean == r"m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \tilde g_t"


def test_an_option_is_shown_with_those_it_needs():
    on, without = variants(SGD)["nesterov"]
    assert on.keys() == {"nesterov", "momentum"} and without.keys() == {"momentum"}
    assert variants(Adam).keys() == {"amsgrad"}


@EVERY_CLASS
def test_every_option_of_a_rule_has_its_formula(cls):
    switched = {option for option in cls.rule.state.values() if option} | {
        flag for flag, kind in cls.rule.flags.items() if kind is bool
    }
    optional = {name for name, allowed in cls.rule.ranges.items() if isinstance(allowed, Range) and allowed.optional}
    assert switched | optional <= variants(cls).keys()


@EVERY_CLASS
def test_equations_balance_their_braces(cls):
    for options in ({}, *(on for on, _ in variants(cls).values())):
        lines = equations(cls, options)
        assert lines[-1].startswith(r"\theta_t &=")
        assert all(line.count("{") == line.count("}") and line.count("&=") == 1 for line in lines)


def bytes_after_a_step(cls, **options):
    param = torch.nn.Parameter(torch.zeros(declaration.SHAPE))
    optimizer = cls([param], backend="reference", **options)
    param.grad = torch.ones(declaration.SHAPE)
    optimizer.step()
    numbers = {"step", *cls.rule.scalar_state}
    return sum(v.nbytes for k, v in optimizer.state[param].items() if k not in numbers) / param.numel()


@EVERY_CLASS
def test_the_bytes_are_those_of_the_state_that_a_step_makes(cls):
    always, more = declaration.state_bytes(cls)
    on = {option: 0.5 if option in cls.rule.ranges else True for option in more}
    for option in (None, *more):
        options = {} if option is None else {option: on[option]}
        assert bytes_after_a_step(cls, **options) // 1 == always + more.get(option, 0)
    found = declaration.low_bytes(cls)
    assert "int8" not in found or not cls.rule.whole
    for dtype, size in found.items():
        assert size == f"{bytes_after_a_step(cls, state_dtype=dtype, **({} if always else on)):.3g}", dtype


# Numbers for every letter; a formula that dropped or turned round a term would give another result.
LETTERS = ("lr", "beta1", "beta2", "alpha", "eps", "momentum", "dampening", "weight_decay", "trust_clip")
LETTERS += ("step", "lr_decay", "initial_accumulator_value", "momentum_decay", "mu_product", "warmup_steps", "r")
LETTERS += ("weight_lr_power", "lr_max", "weight_sum", "beta3", "beta3_warmup", "alpha_warmup", "d0", "d")
LETTERS += ("next_d", "beta2_decay", "shampoo_beta")
NUMBERS = {name: 0.31 + 0.03 * i for i, name in enumerate(LETTERS)} | {"first": False, "step": 2.7, "beta2_decay": -0.8}


def value_of(symbol, numbers):
    """Calculate what a symbol stands for."""
    if not isinstance(symbol, Symbol):
        return symbol
    if symbol.operation == "leaf":
        return numbers[symbol.operands[0]]
    o = [value_of(part, numbers) for part in symbol.operands]
    return {
        "+": lambda: o[0] + o[1],
        "-": lambda: o[0] - o[1],
        "*": lambda: o[0] * o[1],
        "/": lambda: o[0] / o[1],
        "**": lambda: o[0] ** o[1],
        ">": lambda: o[0] > o[1],
        "<": lambda: o[0] < o[1],
        "exp": lambda: math.exp(o[0]),
        "log": lambda: math.log(o[0]),
        "neg": lambda: -o[0],
        "sqrt": lambda: math.sqrt(o[0]),
        "sign": lambda: ops.sign(o[0]),
        "max": lambda: max(o),
        "min": lambda: min(o),
        "norm": lambda: abs(o[0]),
        "mean": lambda: o[0],
        "second_moment": lambda: o[0] * o[0],
        "multiply": lambda: o[0] * o[1],
        "power_iteration": lambda: None,
        "next_basis": lambda: o[1],
        "reorder": lambda: o[0],
        "change_basis": lambda: o[0],
        "where": lambda: o[1] if o[0] else o[2],
        "newton_schulz": lambda: matrices.orthogonalize([torch.tensor([[o[0]]])], [o[1]], *o[2])[0].item(),
        "scale_by_shape": lambda: o[0] * matrices.shape_factor((1, 1), *o[1]),
    }[symbol.operation]()


@EVERY_CLASS
def test_what_is_printed_calculates_what_the_rule_does(cls):
    for options in ({}, *(on for on, _ in variants(cls).values())):
        update, new, _ = run(cls, {"weight_decay": 0.1, **options})
        param, grad, state = 0.8, -0.6, [0.5 + 0.1 * i for i, _ in enumerate(update.state)]
        zero = {name for name in update.scalars if inspect.signature(cls).parameters.get(name)} - options.keys()
        scalars = {
            name: 0 if name in zero and inspect.signature(cls).parameters[name].default == 0 else NUMBERS[name]
            for name in update.scalars
        } | {"weight_decay": NUMBERS["weight_decay"]}
        right = update(param, grad, state, scalars, lambda values, scope: abs(values))
        numbers = {letter(name): number for name, number in NUMBERS.items()}
        numbers |= {str(leaf("").machine_epsilon().operands[0]): sys.float_info.epsilon}
        numbers |= {letter("param", "t-1"): param, letter("grad", "t"): grad}
        numbers |= {letter(key, "t-1"): number for key, number in zip(update.state, state, strict=True)}
        # The same operations in another order of negations only.
        assert [value_of(symbol, numbers) for symbol in new] == pytest.approx(right, rel=1e-14)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (A - (B - C), "a - (b - c)"),
        (A * (B + C), "a (b + c)"),
        (A * A * B, "a^2 b"),
        (leaf(r"v^{\max}") * leaf(r"v^{\max}"), r"{v^{\max}}^2"),
        ((A + B) ** C, "(a + b)^{c}"),
        (A / (B / C), r"\frac{a}{b / c}"),
        ((A / B * C) / B, r"\frac{\frac{a}{b} c}{b}"),  # a / b c would be read as a / (b c)
        (A / (B / (C * A)), r"\frac{a}{b / (c a)}"),
        (ops.minimum(ops.maximum(A, -B), B), r"\min(\max(a, -b), b)"),
        (ops.minimum(A, 1), r"\min(a, 1)"),
        (1e-6 + A, "10^{-6} + a"),
        (2.5e-6 + A, r"2.5 \cdot 10^{-6} + a"),
        (0 * A + 1 * B + 0, "b"),
    ],
)
def test_expressions_are_printed_as_people_write_them(value, text):
    assert latex(value) == text


def test_no_number_is_branched_on():
    with pytest.raises(TypeError, match=r"ops\.where"):
        bool(A > B)


PAGES = [docs.ROOT / "README.md", docs.ROOT / "CONTRIBUTING.md"]
PAGES += sorted(page for folder in ("docs", "examples") for page in (docs.ROOT / folder).rglob("*.md"))


def anchors(text):
    """The anchors of the headings of a page."""
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "path",
    PAGES,
    ids=lambda path: str(path.relative_to(docs.ROOT)),
)
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    for target, _, anchor in (link.partition("#") for link in links if not link.startswith("https://")):
        assert (path.parent / target).exists(), target
        assert not anchor or anchor in anchors((path.parent / target).read_text(encoding="utf-8")), anchor


def linked(page):
    """The pages that a page links to."""
    targets = re.findall(r"\]\(([^)#:]+\.md)", page.read_text(encoding="utf-8"))
    return {(page.parent / target).resolve() for target in targets}


def test_every_page_but_decisions_is_two_clicks_from_the_readme():
    first = linked(docs.ROOT / "README.md") - {docs.ROOT / "CHANGELOG.md"}
    near = first.union(*map(linked, first))
    every = {page for page in (docs.ROOT / "docs").rglob("*.md") if page.parent.name != "decisions"}
    assert every - near == set()


@EVERY_CLASS
def test_pictures_are_there_and_small(cls):
    picture = (docs.FOLDER / f"{cls.rule.name}.svg").read_text(encoding="utf-8")
    assert picture.startswith("<svg") and cls.__name__ in picture
    assert len(picture) < 20_000


@pytest.mark.slow
@pytest.mark.parametrize("page", pages.LANDSCAPE, ids=lambda page: page.name)
def test_the_code_of_a_page_on_the_landscape_prints_and_draws_what_stands_there(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    assert pages.render(page, tmp_path) == text
    (shown,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert [path.name for path in tmp_path.iterdir()] == [shown]
    assert len(re.findall(r"^## Limitations$", text, re.MULTILINE)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("page", pages.UNDRAWN, ids=lambda page: page.name)
def test_the_code_of_a_page_without_pictures_prints_what_stands_there(page, tmp_path):
    assert pages.render(page, tmp_path) == page.read_text(encoding="utf-8")


def test_a_class_that_does_not_say_when_to_use_it_is_refused():
    with pytest.raises(SystemExit, match="Silent: its docstring must have a paragraph 'Use when"):
        declaration.use_when(type("Silent", (NAdamW,), {"__doc__": "An optimizer."}))


def test_a_class_that_was_not_measured_has_no_time(tmp_path, monkeypatch):
    assert declaration.step_times(Adam)[""]["optimizer"] == "Adam"
    monkeypatch.setattr(declaration, "BENCHMARKS", tmp_path / "benchmarks.md")
    (tmp_path / "benchmarks.md").write_text("# Benchmarks\n")
    assert declaration.step_times(Adam) == {}
    assert "| 8 – 12 | – | – |" in docs.index([Adam])
