"""The memory that the state of an update rule takes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fallline.rules.rule import BLOCK, INT8, Rule

BYTES = {"float32": 4.0, "bfloat16": 2.0, INT8: 1 + 4 / BLOCK}  # per element, by `state_dtype`


def bytes_of_state(
    rule: Rule, shape: Sequence[int], options: Mapping[str, Any], state_dtype: str = "float32"
) -> float | None:
    """Return the bytes of state per element of a float32 parameter, without master weights and averages.

    Args:
        rule: the rule.
        shape: shape of the parameter.
        options: options of its group.
        state_dtype: a key of BYTES.

    Returns:
        The bytes, or None if the rule cannot store its state with this dtype.
    """
    if state_dtype == INT8 and (rule.whole or rule.shapes is not None):
        return None
    exact = {*rule.copies, *rule.own_shapes(shape, options)}
    found = rule.state_shapes(shape, options)
    sizes = (math.prod(own) * BYTES["float32" if key in exact else state_dtype] for key, own in found.items())
    return sum(sizes) / math.prod(shape)


def bytes_by_dtype(rule: Rule, shape: Sequence[int], options: Mapping[str, Any]) -> dict[str, float]:
    """Return the bytes of state per element by each `state_dtype` that needs fewer than float32.

    If the rule has no state without an option, all such options are switched on.

    Args:
        rule: the rule.
        shape: shape of the parameter.
        options: options of its group.
    """
    if set(rule.state_shapes(shape, options).values()) != {tuple(shape)}:
        options = {**options, **{option: True for option in rule.state.values() if option}}
    sizes = {dtype: bytes_of_state(rule, shape, options, dtype) for dtype in BYTES}
    return {dtype: size for dtype, size in sizes.items() if size and size != sizes["float32"]}
