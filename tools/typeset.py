"""Symbols that record the arithmetic done with them and print it as LaTeX."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from fallline.rules.rule import ALL, EMA

Operand = Union["Symbol", float, int]
SUM, PRODUCT, ATOM = 1, 2, 3  # how tightly a piece of LaTeX holds together

# What a name of the code is called on paper; {} is where the time goes.
LETTERS = {
    "param": r"\theta{}",
    "grad": "g{}",
    "exp_avg": "m{}",
    "exp_avg_sq": "v{}",
    "max_exp_avg_sq": r"v^{{\max}}{}",
    "exp_avg_fast": "m{}",
    "exp_avg_slow": "s{}",
    "exp_avg_diff": r"\delta{}",
    "previous_grad": "g'{}",
    "change": r"\Delta{}",
    "ahead": "h{}",
    "exp_inf": "u{}",
    "square_avg": "v{}",
    "grad_avg": r"\bar g{}",
    "momentum_buffer": "b{}",
    "sum": "s{}",
    EMA: r"\bar\theta{}",
    "update": "u{}",
    "ratio": "r{}",
    "slow": "b{}",
    "length": r"\rho{}",
    "longest": r"\rho_\infty",
    "denominator": "d{}",
    "lr": r"\eta",
    "relative_lr": r"\frac{{\eta}}{{\eta_0}}",
    "weight_decay": r"\lambda",
    "beta1": r"\beta_1",
    "beta2": r"\beta_2",
    "beta3": r"\beta_3",
    "alpha": r"\alpha",
    "beta3_warmup": r"T_{{\beta_3}}",
    "alpha_warmup": r"T_\alpha",
    "eps": r"\epsilon",
    "momentum": r"\mu",
    "dampening": r"\tau",
    "lr_decay": r"\delta",
    "initial_accumulator_value": "a",
    "trust_clip": "c",
    "clip_grad_value": "c",
    "clip_grad_norm": "c",
    "ema_decay": "d",
    "momentum_decay": r"\psi",
    "mu": r"\mu{}",
    "mu_next": r"\mu_{{t+1}}",
    "mu_product": r"\Pi_t",
    "z": "z{}",
    "c": "c{}",
    "warmup_steps": "T",
    "r": "r",
    "weight_lr_power": "q",
    "direction": "d{}",
    "lr_max": r"\hat\eta_t",
    "weight_sum": "W_t",
    "s": "s{}",
    "p0": r"\theta_0",
    "d0": "d_0",
    "next_d": "d_t",
    "d_coef": "c",
    "growth_rate": r"\gamma",
    "step": "t",
    "first": r"t = 1",
    "row_var": "r{}",
    "col_var": "c{}",
    "variance": "v{}",
    "root": r"\sigma{}",
    "beta2_decay": r"\kappa",
    "d": "d",
    "weight": "w_t",
    "rate": r"\alpha{}",
    "GG_0": "L{}",
    "GG_1": "R{}",
    "Q_0": "Q^L{}",
    "Q_1": "Q^R{}",
    "projected": r"\hat g{}",
    "averaged": r"\hat m{}",
    "averaged_sq": r"\hat v{}",
    "started": "s{}",
    "age": "n{}",
    "shampoo_beta": r"\beta",
}
_ALONG = {None: "", -1: "_{j}", -2: "_{i}"}  # the index over which a mean is taken, of element (i, j)


def letter(name: str, time: str = "") -> str:
    """Return the LaTeX of a name, at a time such as "t" or "t-1" where it has one."""
    plain = rf"\mathrm{{{name}}}".replace("_", r"\_").replace("{", "{{").replace("}", "}}") + "{}"
    return LETTERS.get(name, plain).format(f"_{{{time}}}" if len(time) > 1 else f"_{time}" if time else "")


@dataclass(frozen=True)
class Symbol:
    """An expression: a leaf with its LaTeX, or an operation on expressions. Equal when written alike."""

    operation: str
    operands: tuple[Any, ...]

    def __add__(self, other: Operand) -> Operand:
        return self if _is(other, 0) else Symbol("+", (self, other))

    def __radd__(self, other: Operand) -> Operand:
        return self if _is(other, 0) else Symbol("+", (other, self))

    def __sub__(self, other: Operand) -> Operand:
        return self if _is(other, 0) else Symbol("-", (self, other))

    def __rsub__(self, other: Operand) -> Operand:
        return -self if _is(other, 0) else Symbol("-", (other, self))

    def __mul__(self, other: Operand) -> Operand:
        return _product(self, other)

    def __rmul__(self, other: Operand) -> Operand:
        return _product(other, self)

    def __truediv__(self, other: Operand) -> Operand:
        return self if _is(other, 1) else Symbol("/", (self, other))

    def __rtruediv__(self, other: Operand) -> "Symbol":
        return Symbol("/", (other, self))

    def __pow__(self, other: Operand) -> Operand:
        return 1 if _is(other, 0) else Symbol("**", (self, other))

    def __rpow__(self, other: Operand) -> "Symbol":
        return Symbol("**", (other, self))

    def __neg__(self) -> Operand:
        if self.operation == "neg":
            return self.operands[0]
        if self.operation in ("max", "min"):  # ops.minimum is made of maximum
            other = {"max": "min", "min": "max"}[self.operation]
            return Symbol(other, tuple(-operand for operand in self.operands))
        return Symbol("neg", (self,))

    def __gt__(self, other: Operand) -> "Symbol":
        return Symbol(">", (self, other))

    def __lt__(self, other: Operand) -> "Symbol":
        return Symbol("<", (self, other))

    def __bool__(self) -> bool:
        raise TypeError("a rule may branch on its options and on absent states, not on numbers; use ops.where")

    def sqrt(self) -> "Symbol":
        """Return a square root."""
        return Symbol("sqrt", (self,))

    def exp(self) -> "Symbol":
        """Return an exponential."""
        return Symbol("exp", (self,))

    def log(self) -> "Symbol":
        """Return a natural logarithm."""
        return Symbol("log", (self,))

    def sign(self) -> "Symbol":
        """Return a sign."""
        return Symbol("sign", (self,))

    def maximum(self, other: Operand) -> "Symbol":
        """Return the larger of two values."""
        return Symbol("max", (self, other))

    def machine_epsilon(self) -> "Symbol":
        """Return the machine epsilon."""
        return leaf(r"\epsilon_{\mathrm{machine}}")

    def mean_square(self, dim: int | None, square: bool) -> "Symbol":
        """Return a mean along one dimension or all."""
        return Symbol("mean", (self * self if square else self, _ALONG[dim]))

    def call(self, function: str, operands: Sequence[Operand], options: tuple[Any, ...]) -> "Symbol":
        """Return the call of a function of whole tensors."""
        return Symbol(function, (self, *operands, options))

    def newton_schulz(self, eps: Operand, *options: Any) -> "Symbol":
        """Return an orthogonalized matrix."""
        return Symbol("newton_schulz", (self, eps, options))

    def scale_by_shape(self, *options: Any) -> "Symbol":
        """Return a matrix times a factor that depends on its shape."""
        return Symbol("scale_by_shape", (self, options))

    def where(self, x: Operand, y: Operand) -> Operand:
        """Return a choice by this symbol; none when there is nothing to choose."""
        return x if x == y else Symbol("where", (self, x, y))


def _is(value: Operand, number: int) -> bool:
    return not isinstance(value, Symbol) and value == number


def _product(one: Operand, other: Operand) -> Operand:
    if _is(one, 0) or _is(other, 0):
        return 0
    return other if _is(one, 1) else one if _is(other, 1) else Symbol("*", (one, other))


def leaf(latex: str) -> Symbol:
    """Return a symbol without parts."""
    return Symbol("leaf", (latex,))


def children(value: Operand) -> Iterator[Operand]:
    """Yield what an expression is made of."""
    if isinstance(value, Symbol) and value.operation != "leaf":
        yield from (o for o in value.operands if isinstance(o, (Symbol, int, float)))


def _side(options: tuple[Any, ...], left: str, right: str) -> str:
    """Return a product with the matrix of a dimension on the left or, for the last of two, on the right."""
    return right if options[0] else left


# The functions of `fallline.rules.eigenbases`, for a matrix: the options and the LaTeX of the operands to that of all.
_WHOLE: dict[str, Callable[..., str]] = {
    "second_moment": lambda options, x: _side(options, rf"{x} {x}^\top", rf"{x}^\top {x}"),
    "multiply": lambda options, x, q: (
        _side(options, f"{q} {x}", rf"{x} {q}^\top") if options[2] else _side(options, rf"{q}^\top {x}", f"{x} {q}")
    ),
    "power_iteration": lambda options, moment, basis, step: f"{moment} {basis}",
    "next_basis": lambda options, moment, basis, iteration: rf"\mathrm{{eigenvectors}}({moment}, {basis})",
    "reorder": lambda options, x, iteration: rf"\mathrm{{sorted}}({x})",
    "change_basis": lambda options, x, old, new: _side(options, rf"{new}^\top {old} {x}", rf"{x} {old}^\top {new}"),
}


class Printer:
    """Writes expressions in LaTeX, those that have a name by it.

    Args:
        names: expression to the LaTeX it goes by.
    """

    def __init__(self, names: Mapping[Symbol, str]) -> None:
        self.names = names

    def right_side(self, value: Symbol) -> str:
        """Return an expression by its parts, even when it has a name."""
        return self._parts(value, nested=False)[0]

    def _text(self, value: Operand, least: int = SUM, nested: bool = False) -> str:
        """Return LaTeX that holds together at least so tightly; `nested` in a fraction, where others are slashed."""
        if not isinstance(value, Symbol):
            text, tight = _number(value), ATOM if value >= 0 else SUM
        elif value in self.names:
            text, tight = self.names[value], ATOM
        else:
            text, tight = self._parts(value, nested)
        return text if tight >= least else _bracketed(text)

    def _parts(self, value: Symbol, nested: bool) -> tuple[str, int]:
        """Return the LaTeX of an operation, and how tightly it holds together."""
        operation, o = value.operation, value.operands
        if operation == "leaf":
            return o[0], ATOM
        if operation in ("+", "-", "<", ">"):
            right = SUM if operation == "+" else PRODUCT
            return f"{self._text(o[0], SUM, nested)} {operation} {self._text(o[1], right, nested)}", SUM
        if operation == "neg":
            return f"-{self._text(o[0], PRODUCT, nested)}", SUM
        if operation == "*":
            return self._product([factor for part in o for factor in self._factors(part)]), PRODUCT
        if operation == "/" and nested:
            return f"{self._text(o[0], PRODUCT, True)} / {self._text(o[1], ATOM, True)}", PRODUCT
        if operation == "/":
            return rf"\frac{{{self._text(o[0], SUM, True)}}}{{{self._text(o[1], SUM, True)}}}", PRODUCT
        if operation == "**":
            return f"{self._text(o[0], ATOM, nested)}^{{{self._text(o[1])}}}", PRODUCT
        if operation == "where":
            lines = f"{self._text(o[1])} & \\text{{if }} {self._text(o[0])} \\\\ {self._text(o[2])} & \\text{{else}}"
            return rf"\begin{{cases}} {lines} \end{{cases}}", SUM
        if operation in _WHOLE:
            text = [f"{{{self._text(part, ATOM)}}}" for part in o if isinstance(part, Symbol)]
            return _WHOLE[operation](o[-1], *text).replace("{}", ""), PRODUCT
        return self._call(operation, o, nested), ATOM

    def _call(self, operation: str, o: Sequence[Any], nested: bool) -> str:
        if operation == "sqrt":
            return rf"\sqrt{{{self._text(o[0], SUM, nested)}}}"
        if operation == "norm":
            return rf"\lVert {self._text(o[0])} \rVert" + (r"_{\mathrm{all}}" if o[1] == ALL else "")
        if operation == "mean":
            return rf"\operatorname{{mean}}{o[1]}" + _bracketed(self._text(o[0], SUM, nested))
        if operation == "newton_schulz":
            return r"\mathrm{NewtonSchulz}" + _bracketed(self._text(o[0], SUM, nested))
        if operation == "scale_by_shape":
            return "s " + self._text(o[0], ATOM, nested)
        name = {"max": r"\max", "min": r"\min", "exp": r"\exp", "log": r"\ln", "sign": r"\mathrm{sign}"}[operation]
        return name + _bracketed(", ".join(self._text(part, SUM, nested) for part in o))

    def _factors(self, value: Operand) -> list[Operand]:
        if not isinstance(value, Symbol) or value.operation != "*" or value in self.names:
            return [value]
        return [factor for part in value.operands for factor in self._factors(part)]

    def _product(self, factors: Sequence[Operand]) -> str:
        """Return factors in the order in which they were written, equal ones as a power, fractions never slashed."""
        counts = {factor: factors.count(factor) for factor in factors}
        texts = {factor: self._text(factor, ATOM if n > 1 else PRODUCT) for factor, n in counts.items()}
        for factor, count in counts.items():
            if count > 1:  # the braces keep v^{\max} squared from having two superscripts
                base = f"{{{texts[factor]}}}" if "^" in texts[factor] else texts[factor]
                texts[factor] = f"{base}^{count}"
        parts = [r"\, " * text.startswith(r"\frac") + text for text in texts.values()]
        return " ".join(parts).removeprefix(r"\, ")


def _bracketed(text: str) -> str:
    tall = any(word in text for word in (r"\frac", r"\sqrt", r"\begin"))
    return rf"\left({text}\right)" if tall else f"({text})"


def _number(value: float) -> str:
    mantissa, _, exponent = f"{value:g}".partition("e")
    if not exponent:
        return mantissa
    power = f"10^{{{int(exponent)}}}"
    return power if mantissa == "1" else rf"{mantissa} \cdot {power}"
