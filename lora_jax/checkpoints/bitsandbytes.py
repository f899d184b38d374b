"""bitsandbytes' quantised weights: the tensors that make up one are read as one value, and written.

Format: bitsandbytes 0.50, `QuantState.as_dict(packed=True)` beside the packed codes for NF4 and FP4 (QLoRA's double
quantisation is "nested" there), and row-wise LLM.int8 (arXiv 2208.07339). Blocks run along the rows of torch's (out, in).
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from lora_jax import quant
from lora_jax.checkpoints.tensor import Tensor
from lora_jax.quant.formats import DYNAMIC, FP4, NF4

TABLES = {"nf4": NF4, "fp4": FP4}
DTYPES = ("float32", "float16", "bfloat16")
STATE = "quant_state.bitsandbytes__"
_FOUR_BITS = re.compile(
    rf"(.+)\.(absmax|quant_map|nested_absmax|nested_quant_map|{re.escape(STATE)}\w+)"
)
_EIGHT_BITS = re.compile(r"(.+)\.(SCB|weight_format)")

_Group = Mapping[
    str, Tensor
]  # the tensors of one weight by what they are; its codes are ""


class _State(NamedTuple):
    """What the JSON of a 4-bit weight says."""

    kind: str
    block: int
    dtype: str
    shape: tuple[int, int]
    offset: float | None  # of scales that are quantised too


def collect_quantized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, one in place of all that make up a quantised weight.

    That one has the weight's name and shape (out, in), and the dtype it had before it was quantised (float32 where LLM.int8 does
    not say). Its `read()` gives a `quant.Quantized`; codes and scales are not read before.

    Raises:
        ValueError: names everything that is missing or damaged, or of another size than shape and block size ask for.
    """
    groups: dict[str, dict[str, str]] = {}
    for name in tensors:
        if found := _FOUR_BITS.fullmatch(name):
            groups.setdefault(found[1], {})[found[2]] = name
        elif found := _EIGHT_BITS.fullmatch(name):
            groups.setdefault(f"{found[1]}.weight", {})[found[2]] = name
    parts = {name for group in groups.values() for name in group.values()}
    made, problems = {}, []
    for weight, group in groups.items():
        try:
            if weight not in tensors:
                raise ValueError(
                    f"{weight}: expected with {', '.join(sorted(group.values()))}, got none"
                )
            made[weight] = _gathered(
                weight,
                {"": tensors[weight]} | {p: tensors[name] for p, name in group.items()},
            )
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(
            "weights that are not as bitsandbytes stores them:\n  "
            + "\n  ".join(problems)
        )
    return {
        name: made.get(name, tensor)
        for name, tensor in tensors.items()
        if name not in parts
    }


def spread(name: str, weight: quant.Quantized) -> dict[str, np.ndarray]:
    """The tensors that bitsandbytes keeps for a weight (out, in) in NF4 or FP4; of our kernel that is `kernel.T`.

    Raises:
        ValueError: bitsandbytes has nothing like it; says why.
    """
    if weight.codec not in TABLES or str(weight.dtype) not in DTYPES:
        expected = f"{' or '.join(TABLES)} of {', '.join(DTYPES)}"
        raise ValueError(
            f"{name}: expected {expected}, got {weight.codec} of {weight.dtype}"
        )
    if weight.ndim != 2 or weight.transposed:
        got = (
            f"its transpose {weight.shape}"
            if weight.ndim == 2
            else f"a stack {weight.shape}"
        )
        raise ValueError(
            f"{name}: expected a matrix (out, in) with blocks along its rows, got {got}"
        )
    facts = dict(
        quant_type=weight.codec,
        blocksize=weight.block,
        dtype=str(weight.dtype),
        shape=weight.shape,
    )
    parts = {"absmax": weight.scales, "quant_map": TABLES[weight.codec]}
    if isinstance(scales := weight.scales, quant.Scales):
        facts |= dict(
            nested_blocksize=quant.NESTED,
            nested_dtype="float32",
            nested_offset=float(scales.offset),
        )
        parts |= dict(
            absmax=scales.codes, nested_absmax=scales.scales, nested_quant_map=DYNAMIC
        )
    parts[STATE + weight.codec] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    codes = np.asarray(weight.codes)[:, None]
    return {name: codes} | {
        f"{name}.{part}": np.asarray(numbers) for part, numbers in parts.items()
    }


def _gathered(weight: str, group: _Group) -> Tensor:
    return (
        _eight_bits(weight, group)
        if {"SCB", "weight_format"} & group.keys()
        else _four_bits(weight, group)
    )


def _four_bits(weight: str, group: _Group) -> Tensor:
    state = _state(weight, group)
    n = math.prod(state.shape)
    blocks = -(-n // state.block)
    sizes = {"absmax": ("float32", blocks), "quant_map": ("float32", 16)}
    tables = {"quant_map": (TABLES[state.kind], state.kind)}
    if state.offset is not None:
        sizes |= {
            "absmax": ("uint8", blocks),
            "nested_absmax": ("float32", -(-blocks // quant.NESTED)),
        }
        sizes |= {"nested_quant_map": ("float32", 256)}
        tables |= {"nested_quant_map": (DYNAMIC, "double quantisation")}
    codes = group[""]
    # By bytes: bitsandbytes can keep the packed codes in a tensor of another dtype (`quant_storage`).
    size, wanted = math.prod(codes.shape) * codes.dtype.itemsize, -(-n // 2)
    problems = (
        []
        if size == wanted
        else [f"{weight}: expected {wanted} bytes for {state.shape}, got {size}"]
    )
    problems += _unlike(weight, group, sizes)
    for part, (table, whose) in tables.items():
        if not problems and not np.allclose(
            group[part].read().reshape(-1), table, rtol=1e-6, atol=0
        ):
            problems.append(f"{weight}.{part}: expected the numbers of {whose}")
    if problems:
        raise ValueError("\n  ".join(problems))

    def read() -> Any:
        numbers: dict[str, Any] = {
            part: quant.check_finite(group[part].read().reshape(-1), f"{weight}.{part}")
            for part in sizes
        }
        scales = numbers["absmax"]
        if state.offset is not None:
            offset: Any = np.array(state.offset, np.float32)
            scales = quant.Scales(scales, numbers["nested_absmax"], offset)
        codes, dtype = (
            group[""].read().reshape(-1).view(np.uint8),
            jnp.dtype(state.dtype),
        )
        return quant.Quantized(
            codes, scales, None, state.kind, state.block, state.shape, dtype=dtype
        )

    return Tensor(codes.file, state.shape, jnp.dtype(state.dtype), read)


def _eight_bits(weight: str, group: _Group) -> Tensor:
    codes = group[""]
    if codes.dtype != np.int8 or len(codes.shape) != 2:
        raise ValueError(
            f"{weight}: expected an int8 matrix (out, in) with SCB, got {codes.dtype} {codes.shape}"
        )
    out, width = codes.shape
    problems = _unlike(
        weight, group, {"SCB": ("float32", out)}, optional=("weight_format",)
    )
    if "weight_format" in group and (
        layout := group["weight_format"].read().reshape(-1).tolist()
    ) != [0]:
        problems.append(f"{weight}: expected rows (weight_format 0), got {layout}")
    if problems:
        raise ValueError("\n  ".join(problems))

    def read() -> Any:
        numbers: Any = codes.read().reshape(-1)
        scales: Any = quant.check_finite(
            group["SCB"].read().reshape(-1), f"{weight}: SCB"
        ) / np.float32(127)
        return quant.Quantized(numbers, scales, None, "int8", width, (out, width))

    return Tensor(codes.file, (out, width), np.dtype("float32"), read)


def _unlike(
    weight: str,
    group: _Group,
    sizes: Mapping[str, tuple[str, int]],
    optional: tuple[str, ...] = (),
) -> list[str]:
    """What of a group is missing, or not of that dtype and count, or not of that group."""
    problems = [
        f"{weight}: expected with {part}, got none"
        for part in sizes
        if part not in group
    ]
    for part, tensor in group.items():
        got = str(tensor.dtype), math.prod(tensor.shape)
        if part in sizes and got != sizes[part]:
            expected = " ".join(map(str, sizes[part]))
            problems.append(
                f"{weight}.{part}: expected {expected}, got {tensor.dtype} {tensor.shape}"
            )
        elif part not in ("", *sizes, *optional) and not part.startswith(STATE):
            problems.append(f"{weight}.{part}: expected none beside {', '.join(sizes)}")
    return problems


def _state(weight: str, group: _Group) -> _State:
    states = sorted(part for part in group if part.startswith(STATE))
    kind = states[0].removeprefix(STATE) if len(states) == 1 else ""
    if kind not in TABLES:
        expected, got = (
            " or ".join(STATE + kind for kind in TABLES),
            ", ".join(states) or "none",
        )
        raise ValueError(f"{weight}: expected with {expected}, got {got}")
    name, text = f"{weight}.{states[0]}", group[states[0]].read().tobytes()
    try:
        facts = dict(json.loads(text))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{name}: expected a JSON object, got {text[:60]!r} ({error})"
        ) from None
    nested = "nested_absmax" in group or any(field in facts for field in _NESTED)
    wanted = (
        {"quant_type": (repr(kind), lambda value: value == kind)}
        | _FIELDS
        | (_NESTED if nested else {})
    )
    wrong = [
        f"{name}: expected {field} to be {text}, got {facts.get(field)!r}"
        for field, (text, fits) in wanted.items()
        if not fits(facts.get(field))
    ]
    if wrong:
        raise ValueError("\n  ".join(wrong))
    shape = facts["shape"][0], facts["shape"][1]
    return _State(
        kind,
        facts["blocksize"],
        facts["dtype"],
        shape,
        facts["nested_offset"] if nested else None,
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


# field of the JSON -> what it has to be, in words and as a test
_FIELDS = {
    "blocksize": (
        f"one of {quant.BLOCKS}",
        lambda value: _is_count(value) and value in quant.BLOCKS,
    ),
    "dtype": (f"one of {', '.join(DTYPES)}", lambda value: value in DTYPES),
    "shape": (
        "[out, in]",
        lambda value: (
            isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))
        ),
    ),
}
_NESTED = {
    "nested_blocksize": (str(quant.NESTED), lambda value: value == quant.NESTED),
    "nested_dtype": ("'float32'", lambda value: value == "float32"),
    "nested_offset": (
        "a number",
        lambda value: (
            type(value) in (int, float) and abs(value) < float(np.finfo(np.float32).max)
        ),
    ),
}
