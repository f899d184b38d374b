"""One tensor in place of all that make up a quantized weight, in a whole checkpoint."""

import re
from collections.abc import Mapping

from lora_jax.checkpoints.bitsandbytes.four_bits import four_bit_tensor
from lora_jax.checkpoints.bitsandbytes.int8 import int8_tensor
from lora_jax.checkpoints.bitsandbytes.parts import CODES
from lora_jax.checkpoints.bitsandbytes.quant_state import STATE
from lora_jax.checkpoints.tensor import Tensor

# Beside `x.weight`: `x.weight.absmax` and so on.
_FOUR_BITS = re.compile(
    r"(?P<weight>.+)\.(?P<part>absmax|quant_map|nested_absmax|nested_quant_map"
    rf"|{re.escape(STATE)}\w+)"
)
# Beside `x.weight`: `x.SCB`.
_INT8 = re.compile(r"(?P<layer>.+)\.(?P<part>SCB|weight_format)")


def collect_quantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, with one in place of all that make up a quantized weight.

    It has the weight's name and shape (out, in), and the dtype that the weight had
    before it was quantized (float32 where LLM.int8 does not say). Its `read()` gives a
    `quant.Quantized` of shape (out, in). Codes and scales are not read before.

    Raises:
        ValueError: parts are missing or damaged, or do not fit the weight's shape and
            block size; names every such part of every weight.
    """
    # Names first, then each weight on its own.
    names_by_weight = _group_names(tensors)
    collected, parts, problems = {}, set(), []
    for weight, name_of_part in names_by_weight.items():
        parts.update(name_of_part.values())
        try:
            collected[weight] = _collect_one(weight, name_of_part, tensors)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(
            "weights that are not as bitsandbytes stores them:\n  "
            + "\n  ".join(problems)
        )

    # In the checkpoint's order, each weight in the place of its codes.
    result = {}
    for name, tensor in tensors.items():
        if name not in parts:
            result[name] = collected.get(name, tensor)
    return result


def _group_names(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Return for each weight the names of its tensors by part, its codes left out."""
    groups: dict[str, dict[str, str]] = {}
    for name in tensors:
        if match := _FOUR_BITS.fullmatch(name):
            weight = match["weight"]
        elif match := _INT8.fullmatch(name):
            weight = f"{match['layer']}.weight"
        else:
            continue
        groups.setdefault(weight, {})[match["part"]] = name
    return groups


def _collect_one(
    weight: str,
    name_of_part: Mapping[str, str],
    tensors: Mapping[str, Tensor],
) -> Tensor:
    if weight not in tensors:
        names = ", ".join(sorted(name_of_part.values()))
        raise ValueError(f"{weight}: expected with {names}, got none")
    # By part, whatever the weight's name is.
    group = {CODES: tensors[weight]}
    for part, name in name_of_part.items():
        group[part] = tensors[name]
    # A group with parts of both formats is an error of the second.
    if "SCB" in group or "weight_format" in group:
        return int8_tensor(weight, group)
    return four_bit_tensor(weight, group)
