"""How the columns of a kernel are stored: a table of formats, and the code that reads and writes a column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fallline.rules.rule import BLOCK, MASTER


class Format(NamedTuple):
    """A format of numbers in memory, with code for `formats.py`.

    Attributes:
        reader: the function that makes a pointer from an address.
        size: bytes per element.
        load: the value, from an element {0}. Blocks have a {scale}.
        store: the element, from a value {0}, rounded to nearest.
        round: the element, rounded with {random} bits. Blocks have the inverse {scale}.
    """

    reader: str
    size: int
    load: str
    store: str = ""
    round: str = ""


FORMATS = {
    "float32": Format("float32_at", 4, "{0}", "{0}"),
    "float64": Format("float64_at", 8, "{0}", "{0}"),
    "bfloat16": Format(
        "uint16_at", 2, "load_bfloat16({0})", "store_bfloat16({0})", round="round_bfloat16({0}, {random})"
    ),
    "float16": Format("uint16_at", 2, "load_float16({0})", "store_float16({0})"),
    # In blocks, see `backends/blocks.py`.
    "int8": Format("int8_at", 1, "load_int8({0}, {scale})", round="round_int8({0}, {scale}, {random})"),
    "uint8": Format("uint8_at", 1, "load_uint8({0}, {scale})", round="round_uint8({0}, {scale}, {random})"),
    # The two parts of a split weight, see `backends/split.py`.
    "upper of int8": Format("uint16_at", 2, "load_bfloat16({0})", "high_of_split({0}, 8)"),
    "lower of int8": Format("int8_at", 1, "join_split(param_at[i], {0}, 8)", "remainder_of_split({0}, 8)"),
    "upper of int16": Format("uint16_at", 2, "load_bfloat16({0})", "high_of_split({0}, 16)"),
    "lower of int16": Format("int16_at", 2, "join_split(param_at[i], {0}, 16)", "remainder_of_split({0}, 16)"),
}


@dataclass(frozen=True)
class Columns:
    """The columns of a kernel's table of addresses: parameter, gradient, states, then the scales of blocks.

    Two more columns hold the key of the random numbers, and the position of the first element.

    Attributes:
        dtypes: the dtypes of the parameter, the gradient and every state, by name.
        rounded: the columns that are rounded stochastically.
        blocks: the columns that are stored in blocks.
    """

    dtypes: Mapping[str, str]
    rounded: Sequence[str]
    blocks: Sequence[str]

    @property
    def width(self) -> int:
        """The number of columns with addresses."""
        return len(self.dtypes) + len(self.blocks)

    @property
    def split(self) -> bool:
        """Whether the parameter is the upper part of a split weight."""
        return self.dtypes.get(MASTER) in ("int8", "int16")

    def format(self, key: str) -> Format:
        """Return the format of a column."""
        if self.split and key in ("param", MASTER):
            return FORMATS[f"{'upper' if key == 'param' else 'lower'} of {self.dtypes[MASTER]}"]
        return FORMATS[self.dtypes[key]]

    def address(self, key: str) -> str:
        """Return the address of the first element of the chunk."""
        return f"table[t, {list(self.dtypes).index(key)}] + {self.format(key).size} * start"

    def pointers(self, key: str) -> list[str]:
        """Return the code that makes pointers to a column."""
        lines = [f"{key}_at = {self.format(key).reader}({self.address(key)})"]
        if key in self.blocks:
            column = len(self.dtypes) + self.blocks.index(key)
            lines.append(f"{key}_scale_at = float32_at(table[t, {column}] + 4 * (start // {BLOCK}))")
        return lines

    def prefetch(self, key: str) -> list[str]:
        """Return the code that prefetches a column two blocks ahead of the one that starts at `begin`."""
        size = self.format(key).size
        lines = f"for line in range(0, {size * BLOCK}, 64):"
        return [lines, f"    prefetch({key}_at, {size} * (begin + {2 * BLOCK}) + line)"]

    def load(self, key: str) -> str:
        """Return the code that reads an element."""
        return f"{key} = {self.format(key).load.format(f'{key}_at[i]', scale=f'{key}_scale')}"

    def store(self, key: str, value: str) -> str:
        """Return the code that writes an element; `value` is its name."""
        number = self.rounded.index(key) if key in self.rounded else 0
        template = self.format(key).round if key in self.rounded else self.format(key).store
        bits = f"random{number - number % 2}, {16 * (number % 2)}"  # 32 random bits serve two columns
        return f"{key}_at[i] = {template.format(value, scale=f'{key}_inverse', random=bits)}"

    def keys_of_draws(self) -> list[str]:
        """Return the code before the loops that prepares random bits."""
        lines = [f"first = start + table[t, {self.width + 2}]"]
        for pair in range(0, len(self.rounded), 2):
            lines.append(f"low{pair}, high{pair} = draw_key(table[t, {self.width + 1}], first, {pair})")
        return lines

    def draws(self, keys: Sequence[str]) -> list[str]:
        """Return the code that draws random bits for an element of these columns."""
        numbers = [self.rounded.index(key) for key in keys if key in self.rounded]
        pairs = sorted({number - number % 2 for number in numbers})
        return [f"random{pair} = draw(low{pair}, high{pair}, i)" for pair in pairs]
