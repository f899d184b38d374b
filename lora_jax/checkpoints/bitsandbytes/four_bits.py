"""A weight in NF4 or FP4, with QLoRA's double quantization or without.

As in `quant.Quantized`, blocks are consecutive numbers of torch's (out, in), row after
row, and two codes share a byte. Here these two are neighbors, which they are only in
the files.
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from lora_jax import quant
from lora_jax.checkpoints.bitsandbytes.parts import (
    CODES,
    Content,
    Group,
    find_problems,
)
from lora_jax.checkpoints.bitsandbytes.quant_state import (
    STATE,
    TABLES,
    QuantState,
    read_state,
)
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.quant.formats import DYNAMIC
from lora_jax.quant.packing import neighbors_to_halves


def four_bit_tensor(weight: str, group: Group) -> Tensor:
    """Return one tensor for a group; its JSON and tables are read and checked here.

    Raises:
        ValueError: parts are missing or damaged, or do not fit the JSON; names each.
    """
    state = read_state(weight, group)
    problems = _code_problems(weight, group[CODES], state)
    problems += find_problems(weight, group, _expected_parts(state), (STATE,))
    # Tables can be read once they are there and have the right size.
    if not problems:
        problems = _table_problems(weight, group, state)
    if problems:
        raise ValueError("\n  ".join(problems))

    read = partial(_read, weight, group, state)
    return Tensor(group[CODES].file, state.shape, jnp.dtype(state.dtype), read)


def _block_count(count: int, block: int) -> int:
    # Blocks do not end with a row: only the last one of a matrix may be shorter.
    return math.ceil(count / block)


def _code_problems(weight: str, codes: Tensor, state: QuantState) -> list[str]:
    # By bytes: bitsandbytes can keep the packed codes in a tensor of another dtype
    # (its option `quant_storage`).
    actual = math.prod(codes.shape) * codes.dtype.itemsize
    expected = math.ceil(math.prod(state.shape) / 2)
    if actual == expected:
        return []
    return [f"{weight}: expected {expected} bytes for {state.shape}, got {actual}"]


def _expected_parts(state: QuantState) -> dict[str, Content]:
    """Return the dtype and count of each part that goes with the codes."""
    blocks = _block_count(math.prod(state.shape), state.block)
    table = ("float32", 16)
    if state.offset is None:
        return {"absmax": ("float32", blocks), "quant_map": table}
    # Double quantization (QLoRA, section 3): the scales in 8 bits, with scales.
    return {
        "absmax": ("uint8", blocks),
        "quant_map": table,
        "nested_absmax": ("float32", _block_count(blocks, quant.NESTED)),
        "nested_quant_map": ("float32", 256),
    }


def _table_problems(weight: str, group: Group, state: QuantState) -> list[str]:
    """Return a line for each table that is not the one of its format."""
    # With another table the codes would stand for other numbers than ours.
    problems = []
    if not _is_table(group["quant_map"], TABLES[state.codec]):
        problems.append(f"{weight}.quant_map: expected the numbers of {state.codec}")
    if state.offset is not None and not _is_table(group["nested_quant_map"], DYNAMIC):
        problems.append(
            f"{weight}.nested_quant_map: expected the numbers of double quantization"
        )
    return problems


def _is_table(tensor: Tensor, table: np.ndarray) -> bool:
    numbers = tensor.read().reshape(-1)
    # Relative errors, for the numbers near zero matter as much as the others.
    return np.allclose(numbers, table, rtol=1e-6, atol=0)


def _read(weight: str, group: Group, state: QuantState) -> quant.Quantized:
    scales = _read_finite(weight, group, "absmax")
    if state.offset is not None:
        nested = _read_finite(weight, group, "nested_absmax")
        offset: Any = np.array(state.offset, np.float32)
        scales = quant.Scales(scales, nested, offset)
    # As bytes, whatever dtype they are kept in: uint8 [ceil(out * in / 2)].
    packed = group[CODES].read().reshape(-1).view(np.uint8)
    return quant.Quantized(
        neighbors_to_halves(packed),
        scales,
        minima=None,
        codec=state.codec,
        block=state.block,
        stored=state.shape,
        dtype=jnp.dtype(state.dtype),
    )


def _read_finite(weight: str, group: Group, part: str) -> Any:
    # bitsandbytes keeps some parts as columns [n, 1].
    numbers = group[part].read().reshape(-1)
    return quant.check_finite(numbers, f"{weight}.{part}")
